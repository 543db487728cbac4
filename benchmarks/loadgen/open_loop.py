"""Queries at times that were drawn before: an open loop, whose latencies omit nothing.

    Poisson arrivals ─ a task for each, whatever the others do ─ Outcome ─ Offered

A client that waits for an answer before it asks again slows down with the server, and so measures
it kindest when it is slowest ("coordinated omission"). Here every query has its time, and its
latency counts from that time, also where this process itself was late to send it.

Every latency is kept, so that percentiles are exact: a million of them are 8 MB. Answers that are
still bytes are judged when the load is over, for what that takes would be taken from the service.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.client import SearchAnswer
from cluster.wire.public import answer_from_proto
from cluster.wire.tartan.v1 import search_pb2
from colbert_core.errors import TartanError
from colbert_core.types import F64

RIGHT = "right"
GRACE_S = 5.0

Judge = Callable[[int, SearchAnswer], str]
"""(number of the query, its answer) → "right", or what is wrong with it."""

Ask = Callable[[int, int, float], Awaitable["SearchAnswer | bytes"]]
"""(turn, number of the query, seconds for it) → its answer, or the bytes of one."""

Came = bytes | tuple[str, str]
"""An answer, or what it was, and the message of an error."""


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
    ask: Ask,
    queries: int,
    judge: Judge,
    *,
    rate: float,
    seconds: float,
    timeout_s: float,
    seed: int = 0,
) -> Offered:
    """Send queries, taken in turn, at `rate` a second for `seconds`, and wait for every outcome.

    Args:
        queries: how many different ones `ask` knows.
        timeout_s: the deadline of each, counted from when it should be sent.
    """
    times = arrivals(rate, seconds, seed)
    tasks = []
    began = time.monotonic()
    for turn, at in enumerate(times.tolist()):
        # Also where it is late: answers that have come must be taken.
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        work = _one(ask, judge, turn, turn % queries, began, at, timeout_s)
        tasks.append(asyncio.create_task(work))
    async with asyncio.timeout(timeout_s + GRACE_S):
        ended = await asyncio.gather(*tasks)
    return Offered(rate, seconds, tuple(_judged(judge, *one) for one in ended))


async def _one(
    ask: Ask, judge: Judge, turn: int, number: int, began: float, at: float, timeout_s: float
) -> tuple[int, Came, float, float, float]:
    """Which query, what came of it, and when: should be sent, was sent, was done."""
    sent = time.monotonic()
    came: Came
    try:
        answer = await ask(turn, number, max(0.001, began + at + timeout_s - sent))
        done = time.monotonic()  # before the answer is judged
        came = answer if isinstance(answer, bytes) else (judge(number, answer), "")
    except TartanError as error:
        done = time.monotonic()
        came = type(error).__name__, str(error)  # itself it would keep all frames that it passed
    return number, came, at, sent - began, done - began


def _judged(judge: Judge, number: int, came: Came, at: float, sent: float, done: float) -> Outcome:
    if isinstance(came, bytes):
        answer = answer_from_proto(search_pb2.SearchResponse.FromString(came))
        kind, message = judge(number, answer), ""
    else:
        kind, message = came
    return Outcome(at, sent - at, done - at, kind, message)
