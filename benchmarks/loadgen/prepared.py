"""Queries that were made into bytes beforehand, and answers that stay bytes until they are judged.

A load generator takes processors from the service where both run on one machine, and most of all
past saturation, when most answers are refusals. So nothing is done for a query but what a call is
(loadgen/http2.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from cluster.client_calls import make_request
from cluster.client_throttle import Throttle
from cluster.wire.status import code_from_number, from_status
from colbert_core.errors import DeadlineExceeded, Overloaded, Unavailable
from colbert_core.types import F32
from loadgen.http2 import Connection

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
        self._connection = await Connection.open(self._address, METHOD)
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
            reply = await self._connection.call(self._requests[number], timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer in {timeout_s:.3g} s") from None
        except ConnectionError as error:
            raise Unavailable(f"{self._address}: {error}") from None
        if not reply.status:
            return reply.answer
        error = from_status(
            code_from_number(reply.status), reply.message, reply.trailers, self._address
        )
        if self.throttle is not None and isinstance(error, Overloaded):
            self.throttle.refused(reply.message)
        raise error

    @staticmethod
    def _ask(throttle: Throttle) -> None:
        try:
            throttle.ask()
        except Overloaded as error:
            raise HeldBack(str(error)) from None

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()
