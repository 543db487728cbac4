"""The one table between errors and gRPC statuses."""

from __future__ import annotations

import grpc
import pytest

from cluster.wire import status
from cluster.wire.handlers import MAX_MESSAGE_CHARS, problem_of
from colbert_core import errors
from colbert_core.errors import TartanError

ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, TartanError)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_comes_back_as_its_own_class(kind: type[TartanError]) -> None:
    problem = status.to_problem(kind("what and why"))
    again = status.from_problem(problem)
    assert type(again) is kind
    assert str(again) == "what and why"
    code = status.code_from_number(problem.code)
    raised = status.from_status(code, "what", [(status.ERROR_KEY, problem.error)], "gateway g")
    assert type(raised) is kind


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.QueryError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ModelMismatch, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.ModelError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
        (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.IndexCorrupt, grpc.StatusCode.DATA_LOSS),
        (TartanError, grpc.StatusCode.INTERNAL),
    ],
)
def test_codes(kind: type[TartanError], code: grpc.StatusCode) -> None:
    assert status.code_of(kind("x")) is code


def test_a_subclass_takes_the_code_of_its_nearest_base() -> None:
    class Narrower(errors.ModelMismatch):
        pass

    assert status.code_of(Narrower("x")) is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("the deadline passed in: scan"), errors.DeadlineExceeded),
        (RuntimeError("code 9 is out of range: run `tartan index verify`"), errors.IndexCorrupt),
        (RuntimeError("else"), TartanError),
        (KeyError("x"), TartanError),
    ],
)
def test_foreign_errors(error: Exception, kind: type[TartanError]) -> None:
    assert type(status.as_tartan(error)) is kind


def test_answers_that_do_not_come_from_tartan_are_judged_by_their_code() -> None:
    error = status.from_status(grpc.StatusCode.UNAVAILABLE, "connection refused", None, "gateway g")
    assert type(error) is errors.Unavailable
    assert str(error) == "gateway g: connection refused"
    ended = status.from_status(grpc.StatusCode.CANCELLED, "CANCELLED", None, "gateway g")
    assert type(ended) is errors.Unavailable  # the server ended; nobody here cancelled
    assert "ask again" in str(ended)
    unknown = status.from_status(grpc.StatusCode.UNIMPLEMENTED, "no such method", (), "gateway g")
    assert type(unknown) is TartanError


def test_an_unknown_class_name_falls_back_to_the_code() -> None:
    trailing = [(status.ERROR_KEY, "FromTheFuture")]
    error = status.from_status(grpc.StatusCode.INVALID_ARGUMENT, "x", trailing, "g")
    assert type(error) is errors.QueryError
    # Names that exist in the module but are not errors must not be called.
    trailing = [(status.ERROR_KEY, "annotations")]
    error = status.from_status(grpc.StatusCode.UNAVAILABLE, "x", trailing, "g")
    assert type(error) is errors.Unavailable


def test_grpcs_own_size_limit_is_not_an_overload() -> None:
    """Both are RESOURCE_EXHAUSTED, but only an overload may be asked again."""
    for details in (
        "SERVER: Received message larger than max (20 vs. 10)",
        "CLIENT: Sent message larger than max (20 vs. 10)",
    ):
        error = status.from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, details, None, "gateway g")
        assert type(error) is errors.QueryError
        assert "max_message_bytes" in str(error)
    full = status.from_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", None, "gateway g"
    )
    assert type(full) is errors.Overloaded


def test_long_messages_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    problem = problem_of(errors.QueryError("x" * 100_000))
    assert len(problem.message) == MAX_MESSAGE_CHARS


def test_only_unexpected_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    problem_of(errors.QueryError("the caller's fault"))
    problem_of(TimeoutError("late"))
    assert not caplog.records
    problem_of(ZeroDivisionError("ours"))
    assert caplog.records[0].exc_info is not None
