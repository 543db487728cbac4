"""Queries that were made into bytes beforehand, and answers that stay bytes until they are judged.

A load generator takes processors from the service where both run on one machine, and most of all
past saturation, when most answers are refusals. So nothing is done for a query but what gRPC does.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc

from cluster.client_calls import make_request
from cluster.client_targets import open_aio_channel
from cluster.client_throttle import Throttle
from cluster.wire.status import from_status
from colbert_core.errors import Overloaded
from colbert_core.types import F32

METHOD = "/tartan.v1.SearchService/Search"


class HeldBack(Overloaded):
    """What the client itself refused to send."""


class PreparedQueries:
    """What `offer` asks a gateway with. An async context manager, of one event loop.

    Attributes:
        throttle: what holds a client of ours back; None is a client that never is.
    """

    def __init__(self, address: str, queries: Sequence[F32], k: int) -> None:
        self.throttle: Throttle | None = None
        self._address = address
        self._requests = [make_request(one, k, None, {}).SerializeToString() for one in queries]

    async def __aenter__(self) -> Self:
        self._channel = open_aio_channel(self._address, None)
        self._call = self._channel.unary_unary(METHOD)
        return self

    async def __call__(self, turn: int, number: int, timeout_s: float) -> bytes:  # noqa: ARG002
        """The answer to query `number`, as it came.

        Raises:
            HeldBack: it was not sent.
            TartanError: what the gateway said instead.
        """
        if self.throttle is not None:
            self._ask(self.throttle)
        try:
            answer: bytes = await self._call(self._requests[number], timeout=timeout_s)
            return answer
        except grpc.aio.AioRpcError as error:
            if self.throttle is not None and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self.throttle.refused(error.details() or "")
            trailing = error.trailing_metadata()
            raise from_status(error.code(), error.details(), trailing, self._address) from None

    @staticmethod
    def _ask(throttle: Throttle) -> None:
        try:
            throttle.ask()
        except Overloaded as error:
            raise HeldBack(str(error)) from None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close(None)
