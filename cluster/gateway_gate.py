"""How many queries are worked on at once: others wait their turn, if it can come in time.

Everything that a query needs is shared: the gateway's loop, its threads, the shard servers. Working
on more queries than keep these busy makes every one of them slower and none sooner, until all are
answered too late. So beyond `at_once` a query waits, in order; and one whose answer would be late,
by how fast queries were finished of late, is refused: when it comes, while that costs nothing, or
when its turn has come and time has run short all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cluster.gateway_clock import Clock
from cluster.observer import Observer
from colbert_core.errors import DeadlineExceeded, Overloaded

MEAN_WEIGHT = 0.05
LEAST_MEASURED = 32  # queries, before an expectation is trusted
CAUTION = 1.5  # expectations are means, and half of all queries take longer


class Gate:
    """The gate of one gateway, over all its generations. Belongs to one event loop."""

    def __init__(
        self,
        at_once: int,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            at_once: queries that are worked on at once.
            clock: what deadlines are on.
        """
        self._at_once = at_once
        self._observer = observer or Observer()
        self._clock = clock
        self._free = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._interval_s = 0.0  # between queries that end, while all places are taken
        self._measured = 0
        self._full_since: float | None = None  # or the last query that ended since then

    @asynccontextmanager
    async def passed(self, clock: Clock) -> AsyncIterator[None]:
        """Hold a place for as long as the block runs; what was waited counts as stage "queue".

        Raises:
            Overloaded: with what waits already the answer would be too late.
            DeadlineExceeded: it became too late.
        """
        if self._free:
            self._take()
        else:
            self.check(clock.deadline)
            since = time.monotonic()
            await self._turn(clock.deadline)
            clock.add("queue", since)
            try:
                self._check_time(clock.deadline, self._work_s())
            except Overloaded:
                self._give()  # and it is not measured: it ends, but nothing was done
                raise
        try:
            yield
        finally:
            self._measure()
            self._give()

    def check(self, deadline: float) -> None:
        """Raise Overloaded where a query that comes now would be answered after its deadline."""
        if not self._free:
            self._check_time(deadline, self.expected_s())

    @property
    def waiting(self) -> int:
        """Queries that wait."""
        return len(self._waiting)

    def expected_s(self) -> float:
        """How long a query that comes now would take, by how fast others ended of late."""
        if self._free or self._measured < LEAST_MEASURED:
            return 0.0
        return (len(self._waiting) + 1) * self._interval_s + self._work_s()

    def _work_s(self) -> float:
        """How long a query is worked on beside others."""
        return 0.0 if self._measured < LEAST_MEASURED else self._at_once * self._interval_s

    def _take(self) -> None:
        self._free -= 1
        if not self._free:
            self._full_since = self._clock()

    async def _turn(self, deadline: float) -> None:
        """Wait for a place that another query gives."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give()  # it came at the very moment
            else:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    "the deadline passed before work on the query began: give it more time, or "
                    "run more gateways"
                ) from None
            raise

    def _give(self) -> None:
        """Hand a place to the next that waits."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1
            self._full_since = None

    def _measure(self) -> None:
        """A query has ended: how long after the one before, if all places were taken since."""
        now = self._clock()
        if self._full_since is not None:
            self._measured += 1
            weight = max(MEAN_WEIGHT, 1.0 / self._measured)
            self._interval_s += weight * (now - self._full_since - self._interval_s)
            self._full_since = now

    def _check_time(self, deadline: float, expected_s: float) -> None:
        left_s = deadline - self._clock()
        if CAUTION * expected_s > left_s:
            self._observer.refused("late", "")
            raise Overloaded(
                f"{self._at_once} queries are worked on and {len(self._waiting)} wait "
                f"(work_at_once), so that an answer takes about {expected_s * 1e3:.0f} ms, and the "
                f"deadline leaves {max(0.0, left_s) * 1e3:.0f}: ask again after a pause, give more "
                "time, or run more gateways and replicas"
            )
