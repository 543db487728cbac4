"""What a gateway remembers: vectors of texts, and whole answers; bounded by bytes.

Neither changes what is answered: the same text gives the same vectors, and the same request on the
same generation the same hits. An answer that misses a shard is never kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cluster.wire.tartan.v1 import search_pb2
from colbert_core.errors import DeadlineExceeded

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 200  # of the key, and of what holds an entry, about


class ByteLru(Generic[K, V]):
    """Values by key; the least recently used go where they would take more than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        """0 keeps nothing."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._max_bytes > 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, or None."""
        if (entry := self._entries.get(key)) is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value of this size, unless it alone is too large."""
        size_bytes += ENTRY_BYTES
        if size_bytes > self._max_bytes:
            return
        if (old := self._entries.pop(key, None)) is not None:
            self.bytes -= old[1]
        self._entries[key] = value, size_bytes
        self.bytes += size_bytes
        while self.bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.bytes -= freed


def answer_key(index: str, generation: str, request: search_pb2.SearchRequest) -> bytes:
    """What an answer depends on: the generation, and all of the request but whether it is timed."""
    untimed = request
    if request.timings:
        untimed = search_pb2.SearchRequest()
        untimed.CopyFrom(request)
        untimed.timings = False
    digest = hashlib.blake2b(digest_size=32)
    for part in (index.encode(), generation.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(untimed.SerializeToString(deterministic=True))
    return digest.digest()


class SingleFlight(Generic[K, V]):
    """Of several who want the same at the same time one works, and the others wait for it."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Future[V]] = {}

    async def run(self, key: K, deadline: float, work: Callable[[], Awaitable[V]]) -> V:
        """The result of `work`, or that of who is at it already.

        Who works and fails, or is cancelled, fails alone: one of the others begins anew.

        Raises:
            DeadlineExceeded: `deadline` (on time.monotonic()) passed while another was at it.
        """
        while (flight := self._flights.get(key)) is not None:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await asyncio.wait([flight])
            except TimeoutError:
                raise DeadlineExceeded(
                    "the deadline passed while the same query of another caller was answered: "
                    "give the query more time"
                ) from None
            if not flight.cancelled():
                return flight.result()
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            value = await work()
            flight.set_result(value)
            return value
        finally:
            del self._flights[key]
            flight.cancel()  # nothing, where there is a result
