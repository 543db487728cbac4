"""A gateway's side of lines: searches that go one after another over a few open calls to a server.

A call costs more than what it carries does: two at once to two servers that do nothing take .72 ms,
and .49 over lines (docs/decisions/fan-out.md). A search takes a line that is free, opens one where
there are few, and is a call of its own where all are taken.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from cluster.wire.request_context import Metadata, request_id
from cluster.wire.status import from_problem
from cluster.wire.tartan.shard.v1 import shard_pb2, shard_pb2_grpc
from cluster.wire.types import Problem

MOST_LINES = 4
PAUSE_S = 5.0
"""After a server has ended a line without an answer: it has as many as it takes."""


class ShardLines:
    """The lines to one server, all on one event loop."""

    def __init__(self, stub: shard_pb2_grpc.ShardServiceAsyncStub, metadata: Metadata) -> None:
        """`metadata`: of the calls that lines are."""
        self._stub = stub
        self._metadata = metadata
        self._free: list[Any] = []
        self._open = 0
        self._not_before = 0.0

    async def search(
        self, request: shard_pb2.SearchRequest, metadata: Metadata, timeout_s: float
    ) -> shard_pb2.SearchResponse | None:
        """Search over a line; None where there is none, or where it broke: ask by a call then,
        which says why.

        Raises:
            TimeoutError: no answer in `timeout_s`.
            TartanError: what the server answered instead.
        """
        line = self._take()
        if line is None:
            return None
        message = shard_pb2.SearchesRequest(
            search=request, timeout_s=timeout_s, metadata=dict(metadata)
        )
        try:
            async with asyncio.timeout(timeout_s):
                await line.write(message)
                answer = await line.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self._broke(line, error)
            return None
        except BaseException:  # nobody waits for its answer any more
            self._drop(line)
            raise
        if not isinstance(answer, shard_pb2.SearchesResponse):  # the line has ended
            self._broke(line, None)
            return None
        self._free.append(line)
        if answer.WhichOneof("result") == "problem":
            told = answer.problem
            failed = from_problem(Problem(told.code, told.message, told.error))
            if identity := request_id():
                failed.add_note(f"request {identity}")
            raise failed
        return answer.answer

    def _take(self) -> Any:
        while self._free:
            line = self._free.pop()
            if not line.done():
                return line
            self._open -= 1
        if self._open >= MOST_LINES or time.monotonic() < self._not_before:
            return None
        self._open += 1
        return self._stub.Searches(metadata=self._metadata)  # type: ignore[call-arg]  # of aio

    def _broke(self, line: Any, error: Exception | None) -> None:
        self._drop(line)
        if error is None:
            self._not_before = time.monotonic() + PAUSE_S
        elif getattr(error, "code", lambda: None)() is grpc.StatusCode.UNIMPLEMENTED:
            self._not_before = float("inf")  # a server of an older version

    def _drop(self, line: Any) -> None:
        self._open -= 1
        line.cancel()
