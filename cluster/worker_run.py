"""One list of works on batch workers: a queue, two pieces in flight per worker, losses made good.

The driver owns every decision. What a lost worker had in flight goes back to the front of the
queue; what fails again and again is searched for the passage that is to blame; what hangs, once the
queue is empty, is begun again on an idle worker, and the first to finish wins.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.attempts import Attempts, first_line
from cluster.elastic import Running, straggles, to_copy, usual_seconds
from cluster.poison import PoisonSearch
from cluster.worker_slots import FETCH_TIMEOUT_S, LOST, Flight, Note, Slot, Slots, cause_of
from colbert_core.errors import EncodeFailed, InvalidInput, JobFailed
from workers.units import Unit

IN_FLIGHT = 2  # one runs while the next waits beside it


@dataclass(frozen=True, slots=True)
class Work:
    """One call of a worker's method.

    Attributes:
        key: identifies it.
        name: what messages call it.
        method, args: of the worker.
        unit, rows: the passages that it encodes; None where it encodes none.
    """

    key: Hashable
    name: object
    method: str
    args: tuple[Any, ...]
    unit: Unit | None = None
    rows: Sequence[int] = ()


OnDone = Callable[[Work, Any], None]
OnPoison = Callable[[Work, tuple[int, ...], BaseException], Work]
"""Called with a piece, the rows that fail, and why: gives the piece without them, or raises."""


class Run:
    """One list of works: what is queued, what is left, and what is known of failures."""

    def __init__(
        self,
        slots: Slots,
        note: Note,
        works: Sequence[Work],
        on_done: OnDone,
        on_poison: OnPoison | None,
    ) -> None:
        self.left: dict[Hashable, Work] = {work.key: work for work in works}
        self._slots = slots
        self._note = note
        self._queue = deque(works)
        self._on_done = on_done
        self._on_poison = on_poison
        self._attempts = Attempts()
        self._seconds: deque[float] = deque(maxlen=512)  # of the last pieces, for stragglers
        self._searches: dict[Hashable, _Search] = {}  # by the key of each probe
        self._searched: set[Hashable] = set()

    def send(self) -> None:
        """Send work to every ready worker, the least busy first; then copies of what hangs."""
        for depth in range(IN_FLIGHT):
            for slot in self._slots.ready:
                if self._queue and len(slot.flights) == depth:
                    self._send(slot, self._queue.popleft())
        for slot in self._slots.ready:
            if not self._queue and not slot.flights:
                key = to_copy(self._running(), usual_seconds(self._seconds))
                if key is not None:
                    self._note(f"{self.left[key].name} takes long; an idle worker begins it, too")
                    self._send(slot, self.left[key])

    def settle_oldest(self, slot: Slot) -> None:
        """Settle what a worker was sent first: it works in order, so that is what is ready."""
        ref, flight = next(iter(slot.flights.items()))
        work = flight.work
        try:
            result = ray.get(ref, timeout=FETCH_TIMEOUT_S)
        except RayTaskError as error:
            del slot.flights[ref]
            cause = cause_of(error)
            if isinstance(cause, InvalidInput):  # it would be the same at every attempt
                raise cause from None
            if work.key in self.left:
                self._failed(work, cause)
        except LOST as error:
            lost = [flight.work for flight in slot.flights.values()]
            self._slots.replace(slot)
            for behind in reversed(lost[1:]):
                self._requeue(behind)
            if work.key in self.left:
                self._lost(work, error)
        else:
            del slot.flights[ref]
            now = time.monotonic()
            self._seconds.append(now - flight.began_at)
            for waiting in slot.flights.values():
                waiting.began_at = now  # it begins only now
            if work.key in self.left:
                self._done(work, result)

    def look_for_stragglers(self) -> None:
        """Name what takes long, once."""
        usual = usual_seconds(self._seconds)
        now = time.monotonic()
        for slot in self._slots:
            for flight in list(slot.flights.values())[:1]:
                taken = now - flight.began_at
                if straggles(taken, usual) and not flight.warned:
                    flight.warned = True
                    self._note(
                        f"{flight.work.name} has taken {taken:.0f} s on worker {slot.number} "
                        f"(usual: {usual:.0f} s); still waiting"
                    )

    def _send(self, slot: Slot, work: Work) -> None:
        ref = getattr(slot.actor, work.method).remote(*work.args)
        slot.flights[ref] = Flight(work, time.monotonic())

    def _running(self) -> list[Running]:
        now = time.monotonic()
        flights = [list(slot.flights.values()) for slot in self._slots]
        copies = Counter(flight.work.key for of_slot in flights for flight in of_slot)
        return [
            Running(flight.work.key, rank, now - of_slot[0].began_at, copies[flight.work.key])
            for of_slot in flights
            for rank, flight in enumerate(of_slot)
            if flight.work.key in self.left
        ]

    def _requeue(self, work: Work) -> None:
        """Put a piece back to the front, unless it is done or another worker has it as well."""
        if work.key in self.left and all(work.key != one.key for one in self._running()):
            self._queue.appendleft(work)

    def _done(self, work: Work, result: Any) -> None:
        del self.left[work.key]
        search = self._searches.pop(work.key, None)
        if search is None:
            self._on_done(work, result)
        else:
            self._go_on(search, search.rows.passed(tuple(work.rows)))

    def _failed(self, work: Work, cause: BaseException) -> None:
        if self._failed_probe(work):
            return
        try:
            self._note(self._attempts.failed(work.key, work.name, cause))
        except JobFailed:
            if not (isinstance(cause, EncodeFailed) and self._search(work, cause)):
                raise
        else:
            self._requeue(work)

    def _lost(self, work: Work, error: BaseException) -> None:
        if self._failed_probe(work):
            return
        try:
            self._note(self._attempts.lost(work.key, work.name, error))
        except JobFailed:
            if not self._search(work, error):
                raise
        else:
            self._requeue(work)

    def _search(self, work: Work, cause: BaseException) -> bool:
        """Begin to look for the passages that are to blame, if it is worth it."""
        if self._on_poison is None or work.unit is None or work.key in self._searched:
            return False
        self._searched.add(work.key)
        search = _Search(work, cause, PoisonSearch(work.rows))
        self._note(f"{work.name} keeps failing ({first_line(cause)}); its halves are tried")
        self._go_on(search, search.rows.begin())
        return True

    def _failed_probe(self, work: Work) -> bool:
        search = self._searches.pop(work.key, None)
        if search is None:
            return False
        del self.left[work.key]
        self._go_on(search, search.rows.failed(tuple(work.rows)))
        return True

    def _go_on(self, search: _Search, probes: Sequence[tuple[int, ...]]) -> None:
        """Queue the next probes of a search; at its end, what is left of the piece."""
        for rows in reversed(probes):
            search.probes += 1
            probe = replace(
                search.work,
                key=("probe", search.work.key, search.probes),
                name=f"{len(rows)} passages of {search.work.name}",
                method="probe",
                args=(search.work.unit, rows),
                rows=rows,
            )
            self.left[probe.key] = probe
            self._searches[probe.key] = search
            self._queue.appendleft(probe)
        if search.rows.finished:
            self._blame(search)

    def _blame(self, search: _Search) -> None:
        work = search.work
        self._attempts.forget(work.key)
        if search.rows.poisoned:
            assert self._on_poison is not None
            work = self._on_poison(work, search.rows.poisoned, search.cause)
            self._searched.discard(work.key)
        else:
            self._note(f"no passage of {work.name} fails alone; it is tried again as a whole")
        self.left[work.key] = work
        self._queue.appendleft(work)


@dataclass(slots=True)
class _Search:
    """The search for what is to blame for a piece of work."""

    work: Work
    cause: BaseException
    rows: PoisonSearch
    probes: int = 0
