"""Driving batch workers: a queue of work, two pieces in flight per worker, losses made good.

The driver owns every decision; Ray only runs what it is told (no task retries, no actor restarts).
A worker that is lost is replaced by a fresh one, and what it had in flight goes back to the front
of the queue. A wait that takes long says so and goes on: slow work is not failed work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.attempts import Attempts, first_line
from cluster.plan import WorkerPlan
from colbert_core.errors import InvalidInput, Unavailable
from workers.encoder import EncoderWorker, LoadedModel, WorkerSettings

IN_FLIGHT = 2  # one runs while the next waits beside it
HEARTBEAT_S = 5.0
FETCH_TIMEOUT_S = 60.0  # results are small; only a lost node makes this long
START_TIMEOUT_S = 600.0  # downloading a model and waiting for an autoscaler included
STRAGGLER_S = 120.0
STRAGGLER_FACTOR = 5.0
MAX_START_LOSSES = 3

_LOST = (RayActorError, WorkerCrashedError, ObjectLostError, GetTimeoutError)
OnDone = Callable[["Work", Any], None]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Work:
    """One call of a worker's method. `name` is what messages call it, `key` identifies it."""

    key: tuple[str, int]
    name: object
    method: str
    args: tuple[Any, ...]


@dataclass(slots=True)
class _Flight:
    work: Work
    began_at: float
    warned: bool = False


@dataclass(slots=True)
class _Slot:
    """One place for a worker: its actor, whether it is ready, and what it was sent, in order."""

    number: int
    actor: Any
    loading: Any | None
    flights: dict[Any, _Flight] = field(default_factory=dict)


class WorkerPool:
    """Workers on a Ray cluster; leaving the block ends them.

    Args:
        plan: how many workers, and the resources of each.
        settings: what each worker is told.
        note: takes lines that a person should see.
    """

    def __init__(self, plan: WorkerPlan, settings: WorkerSettings, note: Note) -> None:
        self._plan = plan
        self._settings = settings
        self._note = note
        self._start_losses = 0
        self._slots: list[_Slot] = []
        self._seconds: deque[float] = deque(maxlen=512)  # of the last pieces, for stragglers

    @property
    def workers(self) -> int:
        return self._plan.workers

    def __enter__(self) -> WorkerPool:
        self._slots = [self._new_slot(number) for number in range(self._plan.workers)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        flights = [ref for slot in self._slots for ref in slot.flights]
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots = []
        if flights:  # until they have ended, they still write into the staging folder
            ray.wait(flights, num_returns=len(flights), timeout=HEARTBEAT_S)

    def first_model(self) -> LoadedModel:
        """Wait for the first worker that has loaded the model.

        Raises:
            ModelError: the model cannot be loaded.
            Unavailable: no worker could start in `START_TIMEOUT_S`.
        """
        began = time.monotonic()
        told = False
        while True:
            loading = [slot.loading for slot in self._slots if slot.loading is not None]
            done, _ = ray.wait(loading, num_returns=1, timeout=HEARTBEAT_S)
            for ref in done:
                model = self._settle_loading(self._slot_of(ref))
                if model is not None:
                    return model
            waited = time.monotonic() - began
            self._give_up_after(waited)
            if waited > 6 * HEARTBEAT_S and not told:
                told = True
                self._note(f"no worker is ready after {waited:.0f} s; {self._wants()}")

    def run(self, works: Sequence[Work], on_done: OnDone) -> None:
        """Do all of the works, in any order, each exactly once as far as `on_done` is concerned.

        Raises:
            JobFailed: a piece failed for good.
            Unavailable: workers cannot be started any more.
        """
        queue = deque(works)
        attempts = Attempts()
        self._seconds.clear()
        last_ready = time.monotonic()
        while queue or any(slot.flights for slot in self._slots):
            self._fill(queue)
            waiting = [slot.loading for slot in self._slots if slot.loading is not None]
            waiting += [ref for slot in self._slots for ref in slot.flights]
            done, _ = ray.wait(waiting, num_returns=1, timeout=HEARTBEAT_S)
            for ref in done:
                slot = self._slot_of(ref)
                if ref == slot.loading:
                    self._settle_loading(slot)
                else:
                    self._settle_oldest(slot, queue, attempts, on_done)
            if done or any(slot.loading is None for slot in self._slots):
                last_ready = time.monotonic()
            self._give_up_after(time.monotonic() - last_ready)
            if not done:
                self._warn_of_stragglers()

    def _fill(self, queue: deque[Work]) -> None:
        """Send work to every ready worker, the least busy first."""
        for depth in range(IN_FLIGHT):
            for slot in self._slots:
                if queue and slot.loading is None and len(slot.flights) == depth:
                    work = queue.popleft()
                    ref = getattr(slot.actor, work.method).remote(*work.args)
                    slot.flights[ref] = _Flight(work, time.monotonic())

    def _settle_oldest(
        self, slot: _Slot, queue: deque[Work], attempts: Attempts, on_done: OnDone
    ) -> None:
        """Settle what a worker was sent first: it works in order, so that is what is ready."""
        ref, flight = next(iter(slot.flights.items()))
        work = flight.work
        try:
            result = ray.get(ref, timeout=FETCH_TIMEOUT_S)
        except RayTaskError as error:
            del slot.flights[ref]
            cause = _cause(error)
            if isinstance(cause, InvalidInput):  # it would be the same at every attempt
                raise cause from None
            queue.appendleft(work)
            self._note(attempts.failed(work.key, work.name, cause))
        except _LOST as error:
            queue.extendleft(flight.work for flight in reversed(slot.flights.values()))
            self._replace(slot)
            self._note(attempts.lost(work.key, work.name, error))
        else:
            del slot.flights[ref]
            now = time.monotonic()
            self._seconds.append(now - flight.began_at)
            for waiting in slot.flights.values():
                waiting.began_at = now  # it begins only now
            on_done(work, result)

    def _settle_loading(self, slot: _Slot) -> LoadedModel | None:
        """Take note that a worker is ready, or replace it if it was lost while it loaded."""
        try:
            model: LoadedModel = ray.get(slot.loading, timeout=FETCH_TIMEOUT_S)
        except RayTaskError as error:
            raise _cause(error) from None
        except _LOST as error:
            self._start_losses += 1
            if self._start_losses >= MAX_START_LOSSES * self._plan.workers:
                raise Unavailable(
                    f"{self._start_losses} workers ended while they loaded the model "
                    f"({first_line(error)}); {self._wants()}. Check the memory: each worker holds "
                    "the model once, and fewer --workers need less"
                ) from error
            self._note(f"worker {slot.number} was lost while it started ({first_line(error)})")
            self._replace(slot)
            return None
        slot.loading = None
        return model

    def _replace(self, slot: _Slot) -> None:
        ray.kill(slot.actor, no_restart=True)
        fresh = self._new_slot(slot.number)
        slot.actor, slot.loading, slot.flights = fresh.actor, fresh.loading, {}

    def _new_slot(self, number: int) -> _Slot:
        actor = (
            ray.remote(EncoderWorker)
            .options(
                num_cpus=self._plan.cpus,
                num_gpus=self._plan.gpus,
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(self._settings)
        )
        return _Slot(number, actor, actor.load.remote())

    def _slot_of(self, ref: Any) -> _Slot:
        return next(slot for slot in self._slots if ref == slot.loading or ref in slot.flights)

    def _warn_of_stragglers(self) -> None:
        usual = sorted(self._seconds)[len(self._seconds) // 2] if self._seconds else 0.0
        limit = max(STRAGGLER_S, STRAGGLER_FACTOR * usual)
        now = time.monotonic()
        for slot in self._slots:
            for flight in list(slot.flights.values())[:1]:
                if now - flight.began_at > limit and not flight.warned:
                    flight.warned = True
                    self._note(
                        f"{flight.work.name} has taken {now - flight.began_at:.0f} s on worker "
                        f"{slot.number} (usual: {usual:.0f} s); still waiting"
                    )

    def _give_up_after(self, waited_s: float) -> None:
        if waited_s > START_TIMEOUT_S:
            raise Unavailable(
                f"no worker was ready after {waited_s:.0f} s; {self._wants()}. Give fewer "
                "--workers, free resources, or check the model's download"
            )

    def _wants(self) -> str:
        have = ray.cluster_resources()
        free = ray.available_resources()
        gpu = f" and {self._plan.gpus:g} GPU" if self._plan.gpus else ""
        return (
            f"each of {self._plan.workers} workers wants {self._plan.cpus:g} CPU{gpu}; of the "
            f"cluster's {have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU, "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
        )


def _cause(error: RayTaskError) -> BaseException:
    """What the worker raised, as it was."""
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    return cause
