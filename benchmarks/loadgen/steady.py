"""A steady load with things that happen during it, and how long the load felt them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.client import AsyncClient, SearchAnswer
from colbert_core.types import F32
from loadgen.closed_loop import TIMEOUT_S, saturation
from loadgen.open_loop import RIGHT, Ask, Judge, Offered, offer

Event = tuple[float, Callable[[], None]]
"""(seconds after the load began, what happens then)"""

SLOW_FACTOR = 5.0
CLIENTS = 8  # each begins with any of the gateways


@dataclass(frozen=True, slots=True)
class Felt:
    """What one event did to the load.

    Attributes:
        at: when it happened, in seconds since the load began.
        failed: queries with an error, or a wrong answer, from then on.
        recovery_s: from then to the last query that failed or took `SLOW_FACTOR` times the p99 of
            before; 0 where there was none.
        worst_ms: the longest latency from then on.
    """

    at: float
    failed: int
    recovery_s: float
    worst_ms: float


def felt(offered: Offered, at: float) -> Felt:
    """How the load took what happened `at` so many seconds after it began."""
    before = [o.latency_s for o in offered.outcomes if o.at < at and o.kind == RIGHT]
    usual_s = float(np.percentile(before, 99)) if before else 0.0
    after = [o for o in offered.outcomes if o.at + o.latency_s >= at]
    bad = [o for o in after if o.kind != RIGHT or o.latency_s > SLOW_FACTOR * usual_s]
    return Felt(
        at=at,
        failed=sum(o.kind != RIGHT for o in after),
        recovery_s=max((o.at + o.latency_s - at for o in bad), default=0.0),
        worst_ms=1e3 * max((o.latency_s for o in after), default=0.0),
    )


def steady(
    targets: Sequence[str],
    queries: Sequence[F32],
    judge: Judge,
    *,
    rate: float,
    seconds: float,
    timeout_s: float,
    events: Sequence[Event] = (),
    **options: Any,
) -> Offered:
    """A load as clients make it, with their retries, and the events at their times."""

    async def run() -> Offered:
        async with _asking(targets, queries, timeout_s, options) as ask:
            happening = asyncio.create_task(_happen(events))
            offered = await offer(
                ask, len(queries), judge, rate=rate, seconds=seconds, timeout_s=timeout_s
            )
            await happening
            return offered

    return asyncio.run(run())


def most(
    targets: Sequence[str], queries: Sequence[F32], *, seconds: float, at_once: int, **options: Any
) -> float:
    """Answers a second to clients that ask again when they are answered."""

    async def run() -> float:
        async with _asking(targets, queries, TIMEOUT_S, options) as ask:
            return await saturation(ask, len(queries), seconds=seconds, at_once=at_once)

    return asyncio.run(run())


@asynccontextmanager
async def _asking(
    targets: Sequence[str], queries: Sequence[F32], timeout_s: float, options: dict[str, Any]
) -> AsyncIterator[Ask]:
    """Clients that have asked once: there are connections, and the servers' caches are filled."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(list(targets), timeout_s=timeout_s))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            await client.search(queries[0], **options)

        async def ask(turn: int, number: int, left_s: float) -> SearchAnswer:
            client = clients[turn % len(clients)]
            return await client.search(queries[number], timeout_s=left_s, **options)

        yield ask


async def _happen(events: Sequence[Event]) -> None:
    began = time.monotonic()
    for at, event in sorted(events, key=lambda event: event[0]):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        await asyncio.to_thread(event)
