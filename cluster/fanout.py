"""Ask every shard, on one of its replicas each, within a deadline.

A shard that does not answer fails the request: `Unavailable` names it and says what each replica
did. One more replica is tried after an answer that proves that no work was started or that the
server is away; a full server (`Overloaded`) is never asked twice. What the shards speak is a seam
(`ShardTransport`): gRPC in service, a fake in tests, so that the whole fan-out runs in one process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cluster.wire.types import Coverage, FetchQuery, ShardAnswer, ShardQuery, StoredPassage
from colbert_core.errors import DeadlineExceeded, IndexMissing, TartanError, Unavailable

T = TypeVar("T")

MAX_ATTEMPTS = 2


class ShardTransport(Protocol):
    """One replica of one shard. Errors are those of colbert_core/errors.py."""

    @property
    def address(self) -> str:
        """Where it is, for messages."""

    def connected(self) -> bool:
        """Whether there is a connection now; where there is none, it begins to be made."""

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:
        """The shard's best passages."""

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:
        """Passages in the order of `query.pids_M`."""

    async def close(self) -> None:
        """Let go of the connection."""


class Replica:
    """A transport and how many calls on it are under way."""

    def __init__(self, transport: ShardTransport) -> None:
        self.transport = transport
        self.outstanding = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count one call for as long as the block runs."""
        self.outstanding += 1
        try:
            yield
        finally:
            self.outstanding -= 1


def least_outstanding(outstanding: Sequence[int], tried: Collection[int], turn: int) -> int | None:
    """Which replica to ask: the one with the fewest calls under way that was not tried yet.

    Equally busy ones take turns: `turn` grows by one with each choice.

    Returns:
        An index into `outstanding`, or None when all were tried.
    """
    count = len(outstanding)
    untried = [index for index in range(count) if index not in tried]
    return min(untried, key=lambda i: (outstanding[i], (i - turn) % count), default=None)


class ShardRoute:
    """One shard: its size, and the replicas that hold it now. Replicas change at any time."""

    def __init__(self, shard_id: str, passages: int, tokens: int) -> None:
        self.shard_id = shard_id
        self.passages = passages
        self.tokens = tokens
        self.replicas: tuple[Replica, ...] = ()
        self._turn = 0

    def replace(self, transports: Sequence[ShardTransport]) -> None:
        """Set the replicas. Calls under way on a replica that left are finished on it."""
        self.replicas = tuple(Replica(transport) for transport in transports)

    def reachable(self) -> bool:
        """Whether any replica is connected; those that are not begin to connect."""
        connected = [replica.transport.connected() for replica in self.replicas]  # each is asked
        return any(connected)

    def choose(self, tried: Collection[Replica]) -> Replica | None:
        """The replica to ask next, or None when all were tried."""
        replicas = self.replicas
        tried_indices = [index for index, replica in enumerate(replicas) if replica in tried]
        outstanding = [replica.outstanding for replica in replicas]
        chosen = least_outstanding(outstanding, tried_indices, self._turn)
        self._turn += 1
        return None if chosen is None else replicas[chosen]


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a shard gave, and what it took on the gateway's clock, retries included."""

    value: T
    elapsed_ms: float
    attempts: int


class FanOut:
    """All shards of one generation, in the order of the index. Belongs to one event loop."""

    def __init__(self, routes: Sequence[ShardRoute], *, attempt_timeout_s: float = 10.0) -> None:
        """Every attempt ends after `attempt_timeout_s` at the latest, whatever the deadline."""
        self.routes = tuple(routes)
        self._attempt_timeout_s = attempt_timeout_s

    async def search(self, query: ShardQuery, deadline: float) -> list[Reply[ShardAnswer]]:
        """Search every shard.

        Args:
            deadline: on time.monotonic().

        Returns:
            One reply per shard, in the order of the index.

        Raises:
            Unavailable: a shard has no replica that answers.
            DeadlineExceeded: the deadline passed while waiting for a shard.
            TartanError: what a shard refused the query with; the message names the shard.
        """

        def ask(transport: ShardTransport, timeout_s: float) -> Awaitable[ShardAnswer]:
            return transport.search(query, timeout_s)

        return await all_or_first_error(
            [self._ask(index, ask, deadline) for index in range(len(self.routes))]
        )

    async def fetch(
        self, queries: Mapping[int, FetchQuery], deadline: float
    ) -> dict[int, list[StoredPassage]]:
        """Fetch passages from the shards that own them; errors as in `search`.

        Args:
            queries: by shard index.
            deadline: on time.monotonic().

        Returns:
            Passages by shard index, in the order of each query's pids.
        """

        def asking(query: FetchQuery) -> Callable[..., Awaitable[list[StoredPassage]]]:
            return lambda transport, timeout_s: transport.fetch(query, timeout_s)

        replies = await all_or_first_error(
            [self._ask(index, asking(query), deadline) for index, query in queries.items()]
        )
        return {index: reply.value for index, reply in zip(queries, replies, strict=True)}

    def coverage(self) -> Coverage:
        """The coverage of an answer that every shard contributed to."""
        passages = sum(route.passages for route in self.routes)
        return Coverage(len(self.routes), len(self.routes), 0, 0, passages, passages)

    async def close(self) -> None:
        """Close every connection."""
        for route in self.routes:
            for replica in route.replicas:
                await replica.transport.close()

    async def _ask(
        self,
        index: int,
        ask: Callable[[ShardTransport, float], Awaitable[T]],
        deadline: float,
    ) -> Reply[T]:
        route = self.routes[index]
        started = time.monotonic()
        tried: list[Replica] = []
        causes: list[str] = []
        while len(tried) < MAX_ATTEMPTS and (replica := route.choose(tried)) is not None:
            tried.append(replica)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._too_late(index, started, causes)
            timeout_s = min(left_s, self._attempt_timeout_s)
            try:
                with replica.working():
                    async with asyncio.timeout(timeout_s):
                        value = await ask(replica.transport, timeout_s)
            except (TimeoutError, DeadlineExceeded):
                if timeout_s >= left_s:
                    raise self._too_late(index, started, causes) from None
                causes.append(f"{replica.transport.address}: no answer in {timeout_s:.1f} s")
            except (Unavailable, IndexMissing) as error:
                causes.append(str(error))
            except TartanError as error:
                raise type(error)(f"{self._name(index)}: {error}") from error
            else:
                return Reply(value, (time.monotonic() - started) * 1e3, len(tried))
        raise Unavailable(
            f"{self._name(index)} does not answer ({'; '.join(causes) or 'no live server'}): try "
            "again in a few seconds; if it lasts, see the shard server's log"
        )

    def _too_late(self, index: int, started: float, causes: Sequence[str]) -> DeadlineExceeded:
        waited_ms = (time.monotonic() - started) * 1e3
        before = f" (before that: {'; '.join(causes)})" if causes else ""
        return DeadlineExceeded(
            f"{self._name(index)} did not answer in the {waited_ms:.0f} ms that the deadline "
            f"left{before}: give more time, or ask for less (smaller k, lower recall)"
        )

    def _name(self, index: int) -> str:
        return f"shard {self.routes[index].shard_id} ({index + 1} of {len(self.routes)})"


async def all_or_first_error(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run the calls together; the first error cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
