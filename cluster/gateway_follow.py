"""A gateway follows the routing table: opens what it names, switches, and lets go of the old.

    table ─▶ apply ─┬─ routes of open generations, in place
                    ├─ what it names and is not open: opened in a thread, connected, warmed
                    ├─ live, and warm here: new queries are answered from it, from this moment on
                    └─ what it names no more: let go when its last query has ended

While the controller is away the last table holds. While the live generation is not ready here, the
one before goes on answering.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.gateway_generation import (
    Equipment,
    Key,
    OpenGeneration,
    key_of,
    open_global,
    problem_text,
)
from cluster.topology import GatewayReport, RoutingTable, ServedGeneration, TableSource
from colbert_core.errors import InvalidInput, TartanError, Unavailable

log = logging.getLogger(__name__)

AWAY_PAUSE_S = 0.5
RETRY_S = 2.0  # after a generation could not be made ready
RETIRE_S = 120.0  # that the last queries of a generation may take

ReportOf = Callable[[GatewayReport], GatewayReport]
"""Completes a report with what the follower does not know."""


class TableFollower:
    """The generations of one gateway. Belongs to one event loop."""

    def __init__(
        self, source: TableSource, equipment: Equipment, complete: ReportOf, warm_timeout_s: float
    ) -> None:
        """
        Args:
            warm_timeout_s: for a generation to answer its warm-up query.
        """
        self._source = source
        self._equipment = equipment
        self._complete = complete
        self._warm_timeout_s = warm_timeout_s
        self._table: RoutingTable | None = None
        self._open: dict[Key, OpenGeneration] = {}
        self._opening: dict[Key, asyncio.Task[None]] = {}
        self._retiring: dict[OpenGeneration, asyncio.Task[None]] = {}
        self._problems: dict[Key, tuple[str, float]] = {}  # and when it was tried
        self._changed = asyncio.Event()
        self.current: OpenGeneration | None = None

    @contextmanager
    def pinned(self) -> Iterator[OpenGeneration]:
        """The live generation, kept for as long as the block runs.

        Raises:
            Unavailable: no generation is ready yet.
        """
        current = self.current
        if current is None:
            raise Unavailable(
                "this gateway has no generation ready yet; try again in a few seconds"
                + (f" ({self.problem})" if self.problem else "")
            )
        with current.pinned():
            yield current

    @property
    def problem(self) -> str:
        """Why a generation that the table names cannot be made ready; "" where none fails."""
        named = [] if self._table is None else [self._table.live, self._table.warming]
        for served in named:
            if served is not None and (known := self._problems.get(key_of(served))):
                return f"generation {served.generation}: {known[0]}"
        return ""

    def report(self) -> GatewayReport:
        """What this gateway is doing."""
        warming = None if self._table is None else self._table.warming
        held = None if warming is None else self._open.get(key_of(warming))
        busy = [one for one in (*self._open.values(), *self._retiring) if one.in_flight]
        in_use = {one.generation for one in busy}
        if self.current is not None:
            in_use.add(self.current.generation)
        outstanding: dict[str, int] = {}
        for one in (*self._open.values(), *self._retiring):
            outstanding |= one.fan_out.outstanding()
        return self._complete(
            GatewayReport(
                gateway_id="",
                version=0 if self._table is None else self._table.version,
                live="" if self.current is None else self.current.generation,
                warmed=held.generation if held is not None and held.warm else "",
                problem=self.problem,
                in_use=tuple(sorted(in_use)),
                in_flight=sum(one.in_flight for one in busy),
                outstanding=outstanding,
            )
        )

    async def follow(self) -> None:
        """Follow the table until cancelled."""
        away = False
        while True:
            try:
                table = await self._source.watch(self.report())
            except Unavailable as error:
                if not away:
                    log.warning("the controller is away; the last routing table holds: %s", error)
                away = True
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            if away:
                log.warning("the controller is back")
            away = False
            self.apply(table)

    async def ready(self, timeout_s: float) -> None:
        """Wait until a generation is live here.

        Raises:
            Unavailable: none was ready within `timeout_s`; says why.
        """
        deadline = time.monotonic() + timeout_s
        while self.current is None:
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                raise Unavailable(
                    f"waited {timeout_s:.0f} s for a generation to be ready: "
                    f"{self.problem or 'the routing table has not come, or it is still opened'}"
                ) from None

    async def close(self) -> None:
        """Let go of every generation."""
        tasks = [*self._opening.values(), *self._retiring.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in (*self._open.values(), *self._retiring):
            await one.close()

    def apply(self, table: RoutingTable) -> None:
        """Do what a table says, at once or in the background. An older one than known is none."""
        if self._table is not None and table.version < self._table.version:
            return
        self._table = table
        named = {key_of(one): one for one in (table.live, table.warming) if one is not None}
        for key, served in named.items():
            if key in self._open:
                self._update(self._open[key], served)
            elif key not in self._opening and self._may_try(key):
                self._opening[key] = asyncio.create_task(self._make_ready(served))
        for key in [key for key in self._opening if key not in named]:
            self._opening.pop(key).cancel()
        self._problems = {key: known for key, known in self._problems.items() if key in named}
        self._switch()

    def _update(self, one: OpenGeneration, served: ServedGeneration) -> None:
        try:
            one.fan_out.update(served)
        except InvalidInput as error:  # the routes that were known still hold
            log.error("%s", error)
            self._problems[one.key] = (problem_text(error), time.monotonic())

    def _may_try(self, key: Key) -> bool:
        known = self._problems.get(key)
        return known is None or time.monotonic() - known[1] >= RETRY_S

    async def _make_ready(self, served: ServedGeneration) -> None:
        """Open, connect, warm; or note the problem."""
        key = key_of(served)
        try:
            opened = await asyncio.to_thread(open_global, served)
            self._open[key] = OpenGeneration(self._named(key) or served, opened, self._equipment)
            await self._open[key].warm_up(self._warm_timeout_s)
        except asyncio.CancelledError:
            self._let_go(key)
            raise
        except Exception as error:
            if not isinstance(error, TartanError):
                log.exception("generation %s cannot be made ready", served.generation)
            self._problems[key] = (problem_text(error), time.monotonic())
            self._let_go(key)
        else:
            self._problems.pop(key, None)
        finally:
            if self._opening.get(key) is asyncio.current_task():
                del self._opening[key]
            self._switch()

    def _switch(self) -> None:
        """Answer from the live generation if it is warm, and let go of what is not named."""
        if self._table is None:
            return
        live = self._open.get(key_of(self._table.live))
        if live is not None and live.warm and live is not self.current:
            self.current = live
            self._equipment.observer.generation_live(live.generation)
            log.info("generation %s is live here", live.generation)
        for key, one in list(self._open.items()):
            if self._named(key) is None and one is not self.current and key not in self._opening:
                self._let_go(key)
        self._changed.set()

    def _named(self, key: Key) -> ServedGeneration | None:
        if self._table is None:
            return None
        both = (self._table.live, self._table.warming)
        return next((one for one in both if one is not None and key_of(one) == key), None)

    def _let_go(self, key: Key) -> None:
        if (one := self._open.pop(key, None)) is None:
            return
        task = asyncio.create_task(one.retire(RETIRE_S))
        self._retiring[one] = task
        task.add_done_callback(lambda _: self._retiring.pop(one, None))
