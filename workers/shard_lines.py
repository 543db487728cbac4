"""A shard server's side of lines: searches that come one after another over one open call.

Each of them is a call all the same: it passes the same interceptors, with metadata, a deadline and
a status of its own. Only what gRPC does for a call is done once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc

from cluster.wire.handlers import problem_of
from cluster.wire.request_context import Metadata
from cluster.wire.requests import checked
from cluster.wire.status import ERROR_KEY
from cluster.wire.tartan.shard.v1 import shard_pb2
from cluster.wire.tartan.v1 import search_pb2
from cluster.wire.types import Problem
from colbert_core.errors import QueryError

MOST_LINES = 32
"""Of a server: each has a thread, which waits for the next search."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Interceptor: TypeAlias = "grpc.ServerInterceptor[Any, Any]"


class _Details(NamedTuple):
    """What interceptors look at, as `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Metadata


class _Ended(Exception):
    """A handler has said its status: how `abort` leaves it."""


class _Call:
    """What of a `grpc.ServicerContext` handlers and interceptors use, for one search of a line."""

    def __init__(self, line: grpc.ServicerContext, request: shard_pb2.SearchesRequest) -> None:
        self._line = line
        self._until = time.monotonic() + request.timeout_s
        self._metadata: Metadata = tuple(request.metadata.items())
        self._trailing: dict[str, str] = {}
        self._code: grpc.StatusCode | None = None
        self._message = ""

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float:
        return self._until - time.monotonic()

    def is_active(self) -> bool:
        return self._line.is_active()

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = dict(metadata)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self._code, self._message = code, details
        raise _Ended

    def problem(self) -> Problem:
        """The status that the call was ended with."""
        assert self._code is not None
        return Problem(self._code.value[0], self._message, self._trailing.get(ERROR_KEY, ""))


class ShardLines:
    """The open lines of a server; safe to share between threads."""

    def __init__(
        self,
        method: str,
        search: Callable[[Any, Any], shard_pb2.SearchResponse],
        interceptors: Sequence[Interceptor],
    ) -> None:
        """
        Args:
            method: the full name by which interceptors know a search.
            search: its handler.
            interceptors: the first one sees a search first.
        """
        self._method = method
        self._handler = grpc.unary_unary_rpc_method_handler(search)
        self._interceptors = interceptors
        self._lock = threading.Lock()
        self._waiting: set[grpc.ServicerContext] = set()  # for the next search
        self._open = 0
        self._closing = False

    def serve(
        self, requests: Iterator[Any], line: grpc.ServicerContext
    ) -> Iterator[shard_pb2.SearchesResponse]:
        """The handler of a line: an answer to each search, until either side ends it."""
        if not self._begin(line):
            return
        try:
            for request in requests:
                if not self._wake(line):
                    return
                yield self._answer(request, line)
                if not self._wait(line):
                    return
        finally:
            self._end(line)

    def close(self) -> None:
        """End lines that wait at once, and the others after the search that they are at."""
        with self._lock:
            self._closing = True
            waiting = list(self._waiting)
        for line in waiting:
            line.cancel()  # type: ignore[no-untyped-call]

    def _begin(self, line: grpc.ServicerContext) -> bool:
        with self._lock:
            if self._closing or self._open >= MOST_LINES:
                return False
            self._open += 1
            self._waiting.add(line)
            return True

    def _wake(self, line: grpc.ServicerContext) -> bool:
        with self._lock:
            self._waiting.discard(line)
            return not self._closing

    def _wait(self, line: grpc.ServicerContext) -> bool:
        with self._lock:
            self._waiting.add(line)
            return not self._closing

    def _end(self, line: grpc.ServicerContext) -> None:
        with self._lock:
            self._waiting.discard(line)
            self._open -= 1

    def _answer(self, request: Any, line: grpc.ServicerContext) -> shard_pb2.SearchesResponse:
        try:
            call = _Call(line, checked(request))
        except QueryError as error:
            return _failed(problem_of(error))
        handler = self._intercepted(_Details(self._method, call.invocation_metadata()))
        try:
            return shard_pb2.SearchesResponse(answer=handler(request.search, call))
        except _Ended:
            return _failed(call.problem())

    def _intercepted(self, details: _Details) -> Callable[[Any, Any], shard_pb2.SearchResponse]:
        """The handler within all interceptors."""
        asked: Callable[[Any], Any] = lambda _: self._handler  # noqa: E731
        for one in reversed(self._interceptors):
            asked = partial(one.intercept_service, asked)
        handler: Callable[[Any, Any], shard_pb2.SearchResponse] = asked(details).unary_unary
        return handler


def _failed(problem: Problem) -> shard_pb2.SearchesResponse:
    return shard_pb2.SearchesResponse(
        problem=search_pb2.Problem(code=problem.code, message=problem.message, error=problem.error)
    )
