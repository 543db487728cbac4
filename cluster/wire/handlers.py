"""What both servers do around a handler: errors become statuses, time left becomes a deadline, and
every call has an id (request_context.py), which its trailing metadata give back."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc

from cluster.wire.request_context import REQUEST_ID_KEY, begin_request, request_id
from cluster.wire.requests import checked
from cluster.wire.status import ERROR_KEY, code_from_number, to_problem
from cluster.wire.types import Problem
from colbert_core.errors import TartanError

log = logging.getLogger(__name__)

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")
AsyncContext = grpc.aio.ServicerContext[Any, Any]

# gRPC sends the message as a header, and clients refuse headers beyond 8 KiB.
MAX_MESSAGE_CHARS = 1000
NO_DEADLINE_S = 1e8  # years: how the sync server says that the caller set none


def answering(
    handler: Callable[[Servicer, Request, grpc.ServicerContext], Response],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Response]:
    """Decorate a handler of a sync server: an error that leaves it ends the call with a status."""

    @functools.wraps(handler)
    def answered(self: Servicer, request: Request, context: grpc.ServicerContext) -> Response:
        identity = (REQUEST_ID_KEY, begin_request(context.invocation_metadata()))
        context.set_trailing_metadata((identity,))
        try:
            return handler(self, checked(request), context)
        except Exception as error:
            problem = problem_of(error)
            context.set_trailing_metadata(((ERROR_KEY, problem.error), identity))
            context.abort(code_from_number(problem.code), problem.message)

    return answered


def answering_async(
    handler: Callable[[Servicer, Request, AsyncContext], Awaitable[Response]],
) -> Callable[[Servicer, Request, AsyncContext], Awaitable[Response]]:
    """Decorate a unary handler of a grpc.aio server, like `answering`."""

    @functools.wraps(handler)
    async def answered(self: Servicer, request: Request, context: AsyncContext) -> Response:
        begin_async(context)
        try:
            return await handler(self, checked(request), context)
        except Exception as error:
            await abort_async(context, error)

    return answered


def begin_async(context: AsyncContext) -> None:
    """Give a call of a grpc.aio server its id, unless it has one."""
    if not request_id():
        identity = begin_request(context.invocation_metadata())
        context.set_trailing_metadata(((REQUEST_ID_KEY, identity),))


async def abort_async(context: AsyncContext, error: Exception) -> NoReturn:
    """End a call of a grpc.aio server with the status of `error`."""
    begin_async(context)
    problem = problem_of(error)
    trailing = ((ERROR_KEY, problem.error), (REQUEST_ID_KEY, request_id()))
    await context.abort(code_from_number(problem.code), problem.message, trailing)
    raise AssertionError("abort() raises")


def problem_of(error: Exception) -> Problem:
    """An error as a status; what is not a TartanError is logged with its traceback."""
    if not isinstance(error, TartanError | TimeoutError):
        log.error("a handler failed", exc_info=error)
    problem = to_problem(error)
    if len(problem.message) <= MAX_MESSAGE_CHARS:
        return problem
    return Problem(problem.code, problem.message[: MAX_MESSAGE_CHARS - 1] + "…", problem.error)


def deadline_after(time_remaining_s: float | None, default_s: float) -> float:
    """When to be done, on time.monotonic(): after the caller's time, or `default_s` without any.

    A small part of the time is kept back, so that an error of ours, which says what was waited for,
    arrives before the caller's own clock ends the call.
    """
    left_s = default_s
    if time_remaining_s is not None and time_remaining_s < NO_DEADLINE_S:
        left_s = time_remaining_s
    kept_back_s = min(0.05, 0.1 * left_s)
    return time.monotonic() + left_s - kept_back_s
