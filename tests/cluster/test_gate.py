"""The gate: so many queries at once, in order, and none that would be answered too late."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.gateway_clock import Clock
from cluster.gateway_gate import CAUTION, LEAST_MEASURED, Gate
from cluster.observer import Observer, Refusal
from colbert_core.errors import DeadlineExceeded, Overloaded

LONG_S = 60.0


class Refusals(Observer):
    def __init__(self) -> None:
        self.seen: list[Refusal] = []

    def refused(self, reason: Refusal, client: str) -> None:
        self.seen.append(reason)


class Queries:
    """Queries that pass a gate and then end when they are told to."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.began: list[int] = []
        self.ends = [asyncio.Event() for _ in range(100)]
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, seconds: float = LONG_S) -> asyncio.Task[None]:
        task = asyncio.create_task(self._query(len(self.tasks), Clock(time.monotonic() + seconds)))
        self.tasks.append(task)
        await settle()
        return task

    async def _query(self, number: int, clock: Clock) -> None:
        async with self.gate.passed(clock):
            self.began.append(number)
            await self.ends[number].wait()

    async def end(self, number: int) -> None:
        self.ends[number].set()
        await self.tasks[number]
        await settle()


async def settle() -> None:
    """Let everybody do what can be done now."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_so_many_are_worked_on_and_the_others_follow_in_order() -> None:
    async def run() -> None:
        queries = Queries(Gate(2))
        for _ in range(5):
            await queries.come()
        assert queries.began == [0, 1]
        assert queries.gate.waiting == 3
        for ended, began in ((1, [0, 1, 2]), (0, [0, 1, 2, 3]), (3, [0, 1, 2, 3, 4])):
            await queries.end(ended)
            assert queries.began == began
        await queries.end(2)
        await queries.end(4)
        await queries.come()
        await queries.come()
        assert queries.began[-2:] == [5, 6]  # both places are free again

    asyncio.run(run())


def test_who_waits_too_long_or_goes_away_takes_no_place() -> None:
    async def run() -> None:
        queries = Queries(Gate(1))
        await queries.come()
        late = await queries.come(seconds=0.05)
        gone = await queries.come()
        await queries.come()
        gone.cancel()
        with pytest.raises(DeadlineExceeded, match="before work on the query began"):
            await late
        assert queries.gate.waiting == 1
        await queries.end(0)
        assert queries.began == [0, 3]
        await queries.end(3)
        await queries.come()
        assert queries.began[-1] == 4

    asyncio.run(run())


def test_a_place_that_comes_as_its_query_goes_away_is_handed_on() -> None:
    async def run() -> None:
        queries = Queries(Gate(1))
        await queries.come()
        gone = await queries.come()
        await queries.come()
        queries.ends[0].set()
        while queries.gate.waiting == 2:
            await asyncio.sleep(0)
        gone.cancel()  # the place is its own, and it has not run since
        await settle()
        assert gone.cancelled()
        assert queries.began == [0, 2]

    asyncio.run(run())


def test_what_would_be_late_is_refused_when_it_comes() -> None:
    """The clock is turned by hand: a query ends every second while both places are taken."""
    now = time.monotonic()

    async def run() -> None:
        nonlocal now
        refusals = Refusals()
        gate = Gate(2, refusals, lambda: now)
        queries = Queries(gate)
        for _ in range(LEAST_MEASURED + 2):
            await queries.come(1e6)
        assert gate.expected_s() == 0.0  # nothing is known yet
        for number in range(LEAST_MEASURED):
            now += 1.0
            await queries.end(number)
        assert gate.waiting == 0
        assert gate.expected_s() == pytest.approx(3.0)  # its turn, and the two that are worked on
        with pytest.raises(Overloaded, match=r"2 queries .* 0 wait .* about 3000 ms"):
            async with gate.passed(Clock(now + CAUTION * 2.9)):
                raise AssertionError
        assert refusals.seen == ["late"]
        waits = await queries.come(now + CAUTION * 3.1 - time.monotonic())
        assert gate.waiting == 1
        await queries.end(LEAST_MEASURED)
        assert queries.began[-1] == LEAST_MEASURED + 2
        short = await queries.come(now + CAUTION * 3.1 - time.monotonic())
        now += 2.5  # its turn comes, and the two seconds of work do not fit any more
        await queries.end(LEAST_MEASURED + 1)
        with pytest.raises(Overloaded):
            await short
        assert queries.began[-1] == LEAST_MEASURED + 2
        queries.ends[LEAST_MEASURED + 2].set()
        await waits
        assert gate.expected_s() == 0.0  # both places are free

    asyncio.run(run())
