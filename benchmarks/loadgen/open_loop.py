"""Queries at times that were drawn before: an open loop, whose latencies omit nothing.

    Poisson arrivals ─ a task for each, whatever the others do ─ Outcome ─ Offered

A client that waits for an answer before it asks again slows down with the server, and so measures
it kindest when it is slowest ("coordinated omission"). Here every query has its time, and its
latency counts from that time, also where this process itself was late to send it.

Every latency is kept, so that percentiles are exact: a million of them are 8 MB.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.client import AsyncClient, SearchAnswer
from colbert_core.errors import TartanError
from colbert_core.types import F32, F64

RIGHT = "right"
GRACE_S = 5.0

Judge = Callable[[int, SearchAnswer], str]
"""(number of the query, its answer) → "right", or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One query.

    Attributes:
        at: when it should be sent, in seconds since the load began.
        lag_s: how much later it was.
        latency_s: from `at` to the answer or the error.
        kind: "right", what is wrong with the answer, or the class of the error.
        message: of the error.
    """

    at: float
    lag_s: float
    latency_s: float
    kind: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of a load."""

    rate: float
    seconds: float
    outcomes: tuple[Outcome, ...]

    @property
    def kinds(self) -> dict[str, int]:
        """How many of each kind."""
        return dict(Counter(outcome.kind for outcome in self.outcomes))

    @property
    def failed(self) -> list[Outcome]:
        """All but the right ones."""
        return [outcome for outcome in self.outcomes if outcome.kind != RIGHT]

    def summary(self) -> dict[str, Any]:
        """Figures of the load: rates a second, milliseconds, counts by kind."""
        right_ms = 1e3 * np.array([o.latency_s for o in self.outcomes if o.kind == RIGHT] or [0.0])
        lag_ms = 1e3 * np.array([o.lag_s for o in self.outcomes] or [0.0])
        points = dict(
            zip(("p50", "p90", "p99"), np.percentile(right_ms, (50, 90, 99)), strict=True)
        )
        return {
            "rate": round(self.rate, 2),
            "offered": round(len(self.outcomes) / self.seconds, 2),
            "goodput": round(self.kinds.get(RIGHT, 0) / self.seconds, 2),
            **{f"{name}_ms": round(float(value), 3) for name, value in points.items()},
            "max_ms": round(float(right_ms.max()), 3),
            "lag_p99_ms": round(float(np.percentile(lag_ms, 99)), 3),
            "kinds": self.kinds,
        }


def arrivals(rate: float, seconds: float, seed: int) -> F64:
    """Times of a Poisson process of `rate` a second, from 0 to `seconds`."""
    rng = np.random.default_rng(seed)
    count = int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10)
    times = np.cumsum(rng.exponential(1.0 / rate, count))
    return np.asarray(times[times < seconds], np.float64)


async def offer(
    clients: Sequence[AsyncClient],
    queries: Sequence[F32],
    judge: Judge,
    *,
    rate: float,
    seconds: float,
    timeout_s: float,
    seed: int = 0,
    **options: Any,
) -> Offered:
    """Send queries, taken in turn, at `rate` a second for `seconds`, and wait for every outcome.

    Args:
        clients: that send them, in turn.
        timeout_s: the deadline of each, counted from when it should be sent.
        options: of `AsyncClient.search`.
    """
    times = arrivals(rate, seconds, seed)
    tasks = []
    began = time.monotonic()
    for turn, at in enumerate(times.tolist()):
        # Also where it is late: answers that have come must be taken.
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        number = turn % len(queries)
        tasks.append(
            asyncio.create_task(
                _one(
                    clients[turn % len(clients)],
                    queries[number],
                    number,
                    judge,
                    began,
                    at,
                    timeout_s,
                    options,
                )
            )
        )
    async with asyncio.timeout(timeout_s + GRACE_S):
        outcomes = await asyncio.gather(*tasks)
    return Offered(rate, seconds, tuple(outcomes))


async def _one(
    client: AsyncClient,
    query: F32,
    number: int,
    judge: Judge,
    began: float,
    at: float,
    timeout_s: float,
    options: dict[str, Any],
) -> Outcome:
    sent = time.monotonic()
    left_s = max(0.001, began + at + timeout_s - sent)
    message = ""
    try:
        answer = await client.search(query, timeout_s=left_s, **options)
    except TartanError as error:
        kind, message = type(error).__name__, str(error)
        done = time.monotonic()
    else:
        done = time.monotonic()  # before the answer is judged
        kind = judge(number, answer)
    return Outcome(at, sent - began - at, done - began - at, kind, message)
