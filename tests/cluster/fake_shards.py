"""Shards that behave as a test tells them, for the whole fan-out in one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from cluster.fan_out import FanOut, TailPolicy
from cluster.observer import Observer, ReplicaEvent, ShardCallFinished
from cluster.topology import ReplicaPlace, ServedGeneration, ShardPlace
from cluster.wire.types import FetchQuery, ShardAnswer, ShardQuery, StoredPassage
from colbert_core.types import ShardTopK

QUERY = ShardQuery("g", np.ones((1, 8), np.float32), None, None, 10, 10, 10, exact=True)
FETCH = FetchQuery("g", np.array([1, 0], np.int64), True, True)
Behaviour = Callable[[], Coroutine[Any, Any, ShardAnswer]]


def top(*found: tuple[int, float]) -> ShardTopK:
    pids, scores = zip(*found, strict=True) if found else ((), ())
    return ShardTopK(np.array(pids, np.int64), np.array(scores, np.float32), len(pids), len(pids))


def answers(*found: tuple[int, float]) -> Behaviour:
    async def behave() -> ShardAnswer:
        return ShardAnswer(top(*found), 0.5)

    return behave


def takes(seconds: float, *found: tuple[int, float]) -> Behaviour:
    async def behave() -> ShardAnswer:
        await asyncio.sleep(seconds)
        return ShardAnswer(top(*found), 0.5)

    return behave


def fails(error: Exception) -> Behaviour:
    async def behave() -> ShardAnswer:
        raise error

    return behave


async def hangs() -> ShardAnswer:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class FakeShard:
    """A replica that behaves as its list says, the last behaviour repeating."""

    def __init__(self, address: str, *behaviours: Behaviour) -> None:
        self.address = address
        self._behaviours = list(behaviours)
        self.fetch_behaviour: Behaviour | None = None
        self.calls = 0
        self.probes = 0
        self.timeouts_s: list[float] = []
        self.closed = False
        self.up = True

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:
        self.timeouts_s.append(timeout_s)
        behaviour = self._behaviours[min(self.calls, len(self._behaviours) - 1)]
        self.calls += 1
        return await behaviour()

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:
        if self.fetch_behaviour is None:
            await self.search(QUERY, timeout_s)
        else:
            await self.fetch_behaviour()
        return [StoredPassage(f"{self.address}/{pid}", None, "") for pid in query.pids_M]

    async def probe(self, generation: str, timeout_s: float) -> None:
        self.probes += 1
        await self._behaviours[-1]()

    def becomes(self, behaviour: Behaviour) -> None:
        self._behaviours = [behaviour]

    def connected(self) -> bool:
        return self.up

    async def close(self) -> None:
        self.closed = True


class Seen(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[ShardCallFinished] = []
        self.events: list[tuple[str, ReplicaEvent]] = []

    def shard_call_finished(self, event: ShardCallFinished) -> None:
        self.calls.append(event)

    def hedged(self, event: ReplicaEvent) -> None:
        self.events.append(("hedged", event))

    def retried(self, event: ReplicaEvent) -> None:
        self.events.append(("retried", event))

    def ejected(self, event: ReplicaEvent) -> None:
        self.events.append(("ejected", event))

    def readmitted(self, event: ReplicaEvent) -> None:
        self.events.append(("readmitted", event))

    def names(self, *kinds: str) -> list[str]:
        """Replicas of the events of these kinds, in order."""
        return [event.replica_id for kind, event in self.events if kind in kinds]


def places(*replicas: FakeShard) -> tuple[ReplicaPlace, ...]:
    return tuple(ReplicaPlace(replica.address, replica.address) for replica in replicas)


def generation(*shards: list[FakeShard]) -> ServedGeneration:
    named = (
        ShardPlace(f"s{number}", 100, 1000, places(*shard)) for number, shard in enumerate(shards)
    )
    return ServedGeneration("index", "g", tuple(named))


def fan_out(*shards: list[FakeShard], observer: Any = None, **options: Any) -> FanOut:
    known = {replica.address: replica for shard in shards for replica in shard}
    return FanOut(
        generation(*shards),
        lambda address, _: known[address],
        policy=TailPolicy(**options),
        observer=observer,
        draw=random.Random(0).randrange,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not condition():
            await asyncio.sleep(0.001)
