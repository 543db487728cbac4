"""The one table between Tartan's errors and gRPC status codes, and its use on both sides.

A server answers an error with the code of the nearest class in the table, its message, and the name
of its class in the trailing metadata `tartan-error`. A client raises that same class; for an answer
that did not come from Tartan (a proxy, gRPC itself) the code alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from cluster.wire.request_context import REQUEST_ID_KEY
from cluster.wire.types import Problem
from colbert_core import errors
from colbert_core.errors import TartanError

ERROR_KEY = "tartan-error"

# Most specific first in meaning; a class that is not listed takes the code of its nearest base.
TABLE: dict[type[TartanError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IndexMissing: grpc.StatusCode.NOT_FOUND,
    errors.IndexCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.IndexExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.AlreadyRunning: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StorageError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RolledBack: grpc.StatusCode.ABORTED,
    errors.JobFailed: grpc.StatusCode.ABORTED,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    TartanError: grpc.StatusCode.INTERNAL,
}

# For answers without `tartan-error`; every other code is a plain TartanError.
_CLASS_OF_CODE: dict[grpc.StatusCode, type[TartanError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.QueryError,
    grpc.StatusCode.DATA_LOSS: errors.IndexCorrupt,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,  # by the server: it ended before it began
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAuthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
}

_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

RETRYABLE = (errors.Unavailable, errors.Overloaded)

_FULL = "Concurrent RPC limit exceeded!"
_TOO_LARGE = ("message larger than max", "message length too large")


def code_of(error: TartanError) -> grpc.StatusCode:
    """The status code of an error: that of the nearest class in the table."""
    return next(TABLE[base] for base in type(error).__mro__ if base in TABLE)


def as_tartan(error: BaseException) -> TartanError:
    """Any error of a handler as one of ours; what is not ours becomes an internal error."""
    if isinstance(error, TartanError):
        return error
    if isinstance(error, TimeoutError):
        return errors.DeadlineExceeded(str(error) or "the time that the caller gave is over")
    if isinstance(error, RuntimeError) and "index verify" in str(error):
        return errors.IndexCorrupt(str(error))  # a kernel met a code or posting out of range
    return TartanError(f"internal error, see the server's log: {type(error).__name__}: {error}")


def to_problem(error: BaseException) -> Problem:
    """Any error of a handler as a status: code, message and class."""
    known = as_tartan(error)
    return Problem(code_of(known).value[0], str(known), type(known).__name__)


def from_problem(problem: Problem) -> TartanError:
    """The error that a server's `Problem` stands for."""
    return _error(code_from_number(problem.code), problem.message, problem.error)


def code_from_number(number: int) -> grpc.StatusCode:
    """The status code with this number; UNKNOWN if there is none."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def from_status(
    code: grpc.StatusCode,
    message: str | None,
    trailing: Iterable[Any] | None,
    server: str,
) -> TartanError:
    """The error that a gRPC status stands for.

    Its notes name the request, where the server says its id.

    Args:
        message: the status's details.
        trailing: the trailing metadata.
        server: whom was asked, for messages that do not come from Tartan.
    """
    given = dict(iter(trailing or ()))
    error = _from_status(code, message, given.get(ERROR_KEY), server)
    if isinstance(identity := given.get(REQUEST_ID_KEY), str):
        error.add_note(f"request {identity}")
    return error


def _from_status(
    code: grpc.StatusCode, message: str | None, name: object, server: str
) -> TartanError:
    if isinstance(name, str):
        return _error(code, message or code.name, name)
    details = message or code.name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(part in details for part in _TOO_LARGE):
        # gRPC's own limit shares the code of a server that is full, but asking again is in vain.
        return errors.QueryError(
            f"{details}: send fewer queries or vectors in one message, or raise the limit "
            f"(max_message_bytes of {server})"
        )
    if code is grpc.StatusCode.CANCELLED:
        details = "it ended while the call was on its way: ask again"
    if details == _FULL:
        details = "it has as many calls under way as it takes (max_concurrent): ask after a pause"
    return _error(code, f"{server}: {details}", "")


def error_named(name: str) -> type[TartanError]:
    """The class of errors of that name; TartanError itself if there is none."""
    named = getattr(errors, name, None) if name else None
    if isinstance(named, type) and issubclass(named, TartanError):
        return named
    return TartanError


def _error(code: grpc.StatusCode, message: str, name: str) -> TartanError:
    named = error_named(name)
    if named is not TartanError or name == TartanError.__name__:
        return named(message)
    return _CLASS_OF_CODE.get(code, TartanError)(message)
