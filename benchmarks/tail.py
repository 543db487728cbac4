"""What hedging, the choice of replicas and encoding together gain: `python benchmarks/tail.py`.

    hedge    the whole fan-out over shards of which some calls are slow, with and without hedges
    choose   a simulated shard of four replicas, one of them slow, under four ways to choose
    encode   texts a second through the queue of a gateway, one by one and together

Prints one table each; docs/decisions/fan-out.md quotes them.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.fan_out import FanOut, TailPolicy
from cluster.fan_out.choose import power_of_two
from cluster.gateway_encoder import LazyEncoder
from cluster.gateway_encoding import EncodeQueue
from cluster.observer import Observer, ReplicaEvent, ShardCallFinished
from cluster.topology import ReplicaPlace, ServedGeneration, ShardPlace
from cluster.wire.types import FetchQuery, ShardAnswer, ShardQuery, StoredPassage
from colbert_core.types import ShardTopK

QUERY = ShardQuery("g", np.ones((1, 8), np.float32), None, None, 10, 10, 10, exact=True)
TOP = ShardTopK(np.zeros(0, np.int64), np.zeros(0, np.float32), 0, 0)
WORDS = [f"{size} {part}" for size in ("thin", "flat", "hot") for part in ("wing", "jet", "plate")]


class SlowAtTimes:
    """A replica that answers in 5 ms, and in 200 ms now and then."""

    def __init__(self, address: str, slow_share: float) -> None:
        self.address = address
        self._slow_share = slow_share

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:  # noqa: ARG002
        await asyncio.sleep(0.2 if random.random() < self._slow_share else 0.005)
        return ShardAnswer(TOP, 1.0)

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:  # noqa: ARG002
        return []

    async def probe(self, generation: str, timeout_s: float) -> None:
        """At once."""

    def connected(self) -> bool:
        return True

    async def close(self) -> None:
        """Nothing to close."""


class Counted(Observer):
    """Counts calls and hedges."""

    def __init__(self) -> None:
        self.calls = self.hedges = 0

    def shard_call_finished(self, event: ShardCallFinished) -> None:  # noqa: ARG002
        self.calls += 1

    def hedged(self, event: ReplicaEvent) -> None:  # noqa: ARG002
        self.hedges += 1


async def hedge(percentile: float, slow_share: float, queries: int) -> tuple[list[float], Counted]:
    """Milliseconds of each query over 4 shards × 2 replicas, at about 200 a second."""
    places = tuple(ReplicaPlace(name, name) for name in "ab")
    served = ServedGeneration(
        "index", "g", tuple(ShardPlace(f"s{n}", 100, 1000, places) for n in range(4))
    )
    counted = Counted()
    fan = FanOut(
        served,
        lambda address, _: SlowAtTimes(address, slow_share),
        policy=TailPolicy(hedge_percentile=percentile),
        observer=counted,
    )
    took_ms: list[float] = []

    async def ask() -> None:
        started = time.monotonic()
        await fan.search(QUERY, started + 10.0)
        took_ms.append((time.monotonic() - started) * 1e3)

    tasks = []
    for _ in range(queries):
        tasks.append(asyncio.create_task(ask()))
        await asyncio.sleep(random.expovariate(200.0))
    await asyncio.gather(*tasks)
    return took_ms, counted


Choose = Callable[[Sequence[int]], int]


def simulate(choose: Choose, calls: int, slow: float) -> list[float]:
    """Milliseconds of calls to 4 replicas that each do one at a time, 10 ms on average, one of
    them `slow` times as long, at 70 % of what all can do."""
    rng = random.Random(1)
    means = [10.0, 10.0, 10.0, 10.0 * slow]
    gap_ms = 1.0 / (0.7 * sum(1.0 / mean for mean in means))
    outstanding, free_at = [0] * 4, [0.0] * 4
    ends: list[tuple[float, int]] = []
    took_ms, now = [], 0.0
    for _ in range(calls):
        now += rng.expovariate(1.0 / gap_ms)
        while ends and ends[0][0] <= now:
            outstanding[heapq.heappop(ends)[1]] -= 1
        at = choose(outstanding)
        outstanding[at] += 1
        free_at[at] = max(free_at[at], now) + rng.expovariate(1.0 / means[at])
        heapq.heappush(ends, (free_at[at], at))
        took_ms.append(free_at[at] - now)
    return took_ms


def choosers() -> dict[str, Choose]:
    rng, turn = random.Random(2), itertools.count()
    return {
        "at random": lambda outstanding: rng.randrange(len(outstanding)),
        "in turn": lambda outstanding: next(turn) % len(outstanding),
        "power of two": lambda outstanding: power_of_two(outstanding, rng.randrange) or 0,
        "least of all": lambda outstanding: outstanding.index(min(outstanding)),
    }


async def encode(max_batch: int, texts: int, at_once: int) -> tuple[float, list[float]]:
    """Texts a second with so many under way at once, and milliseconds of each."""
    from colbert_core.text import Encoder

    loaded = Encoder.load(threads=1)
    rng = random.Random(3)
    wanted = [" ".join(rng.sample(WORDS, rng.randint(2, 7))) for _ in range(texts)]
    encoder = LazyEncoder("model", lambda: loaded)
    with ThreadPoolExecutor(2) as executor:
        queue = EncodeQueue(executor, threads=2, max_batch=max_batch)
        took_ms: list[float] = []
        waiting = iter(wanted)

        async def caller() -> None:
            for text in waiting:
                started = time.monotonic()
                await queue.encode(encoder, text, started + 60.0)
                took_ms.append((time.monotonic() - started) * 1e3)

        await asyncio.gather(*(caller() for _ in range(at_once)))  # shapes are found out
        took_ms.clear()
        waiting = iter(wanted)
        started = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        return texts / (time.monotonic() - started), took_ms


def percentiles(took_ms: list[float]) -> str:
    return " | ".join(f"{np.percentile(took_ms, share):.1f}" for share in (50, 95, 99))


def head(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def main() -> None:
    """Measure what is named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["hedge", "choose", "encode"])
    what = parser.parse_args().what
    if "hedge" in what:
        head("slow calls", "hedges", "p50 ms", "p95 ms", "p99 ms", "more calls")
        for slow_share, percentile in itertools.product((0.0, 0.01, 0.03), (1.0, 0.95)):
            took_ms, counted = asyncio.run(hedge(percentile, slow_share, 3000))
            more = counted.hedges / (counted.calls - counted.hedges)
            on = "off" if percentile == 1 else "on"
            print(f"| {slow_share:.0%} | {on} | {percentiles(took_ms)} | {more:.1%} |")
    if "choose" in what:
        head("replicas", "choice", "p50 ms", "p95 ms", "p99 ms")
        for slow, (name, choose) in itertools.product((1.0, 3.0), choosers().items()):
            took_ms = simulate(choose, 200_000, slow)
            about = "alike" if slow == 1 else "one 3 × slower"
            print(f"| {about} | {name} | {percentiles(took_ms)} |")
    if "encode" in what:
        head("under way", "together", "texts/s", "p50 ms", "p95 ms", "p99 ms")
        for at_once, max_batch in itertools.product((1, 4, 16), (1, 8)):
            rate, took_ms = asyncio.run(encode(max_batch, 400, at_once))
            print(f"| {at_once} | {max_batch} | {rate:.0f} | {percentiles(took_ms)} |")


if __name__ == "__main__":
    main()
