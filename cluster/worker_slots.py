"""The places for workers: actors are started, replaced when lost, and follow the cluster's size.

Ray only runs what it is told: no task retries, no actor restarts. What a worker is sent, and who
pays for a loss, is `worker_run.py`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.attempts import first_line
from cluster.elastic import room, wanted_workers
from cluster.plan import WorkerPlan
from colbert_core.errors import Unavailable
from workers.encoder import EncoderWorker, LoadedModel, WorkerSettings

if TYPE_CHECKING:
    from cluster.worker_run import Work

HEARTBEAT_S = 5.0
FETCH_TIMEOUT_S = 60.0  # results are small; only a lost node makes this long
START_TIMEOUT_S = 600.0  # downloading a model and waiting for an autoscaler included
MAX_START_LOSSES = 3

LOST = (RayActorError, WorkerCrashedError, ObjectLostError, GetTimeoutError)
Note = Callable[[str], None]


@dataclass(slots=True)
class Flight:
    """A piece of work that a worker was sent."""

    work: Work
    began_at: float
    warned: bool = False


@dataclass(slots=True)
class Slot:
    """One place for a worker: its actor, what tells that it is ready (None once it is), and what
    it was sent, in order."""

    number: int
    actor: Any
    loading: Any | None
    flights: dict[Any, Flight] = field(default_factory=dict)


class Slots:
    """All places of a job.

    Args:
        plan: how many workers, and the resources of each.
        settings: what each worker is told.
        note: takes lines that a person should see.
    """

    def __init__(self, plan: WorkerPlan, settings: WorkerSettings, note: Note) -> None:
        self.open: list[Slot] = []
        self.peak = 0
        self._plan = plan
        self._settings = settings
        self._note = note
        self._numbers = 0
        self._losses = 0
        self._resized_at: float | None = None

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.open)

    @property
    def ready(self) -> list[Slot]:
        """Those whose worker has loaded the model."""
        return [slot for slot in self.open if slot.loading is None]

    def of(self, ref: Any) -> Slot:
        """The slot that waits for a reference."""
        return next(slot for slot in self.open if ref == slot.loading or ref in slot.flights)

    def waiting_for(self) -> list[Any]:
        """Everything that may happen next."""
        loading = [slot.loading for slot in self.open if slot.loading is not None]
        return loading + [ref for slot in self.open for ref in slot.flights]

    def resize(self, pieces: int | None = None) -> None:
        """Follow the cluster, every few seconds: new places for what has joined, fewer for what has
        left. A worker that works is never ended.

        Args:
            pieces: of work that there are; no worker is started for nothing.
        """
        now = time.monotonic()
        if self._resized_at is not None and now - self._resized_at < HEARTBEAT_S:
            return
        self._resized_at = now
        fitting = room(self._plan, [n["Resources"] for n in ray.nodes() if n["Alive"]])
        wanted = wanted_workers(self._plan, fitting)
        while len(self.open) < (wanted if pieces is None else min(wanted, max(1, pieces))):
            self.open.append(self._new())
        for slot in reversed([slot for slot in self.open if slot.loading is not None]):
            if len(self.open) > wanted:
                self._end(slot)
        self.peak = max(self.peak, len(self.open))

    def replace(self, slot: Slot) -> None:
        """Put a fresh worker in the place of one that was lost; `resize` ends it where its node
        has left, too."""
        ray.kill(slot.actor, no_restart=True)
        fresh = self._new()
        slot.number, slot.actor, slot.loading, slot.flights = (
            fresh.number,
            fresh.actor,
            fresh.loading,
            {},
        )

    def settle_loading(self, slot: Slot) -> LoadedModel | None:
        """Take note that a worker is ready, or replace it if it was lost while it loaded.

        Raises:
            ModelError: the model cannot be loaded.
            Unavailable: workers are lost over it again and again.
        """
        try:
            model: LoadedModel = ray.get(slot.loading, timeout=FETCH_TIMEOUT_S)
        except RayTaskError as error:
            raise cause_of(error) from None
        except LOST as error:
            self._losses += 1
            if self._losses >= MAX_START_LOSSES * max(len(self.open), self._plan.least):
                raise Unavailable(
                    f"{self._losses} workers ended while they loaded the model "
                    f"({first_line(error)}); {self.wants()}. Check the memory: each worker holds "
                    "the model once, and fewer --workers need less"
                ) from error
            self._note(f"worker {slot.number} was lost while it started ({first_line(error)})")
            self.replace(slot)
            return None
        slot.loading = None
        self._losses = 0
        return model

    def close(self) -> None:
        """End all workers."""
        flights = [ref for slot in self.open for ref in slot.flights]
        for slot in self.open:
            ray.kill(slot.actor, no_restart=True)
        self.open = []
        if flights:  # until they have ended, they still write into the staging folder
            ray.wait(flights, num_returns=len(flights), timeout=HEARTBEAT_S)

    def give_up_after(self, waited_s: float) -> None:
        """End a wait for workers that is too long.

        Raises:
            Unavailable: it is.
        """
        if waited_s > START_TIMEOUT_S:
            raise Unavailable(
                f"no worker was ready after {waited_s:.0f} s; {self.wants()}. Give fewer "
                "--workers, free resources, or check the model's download"
            )

    def wants(self) -> str:
        """What the workers want and what the cluster has, for people to read."""
        have = ray.cluster_resources()
        free = ray.available_resources()
        gpu = f" and {self._plan.gpus:g} GPU" if self._plan.gpus else ""
        return (
            f"each of {len(self.open)} workers wants {self._plan.cpus:g} CPU{gpu}; of the "
            f"cluster's {have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU, "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
        )

    def _new(self) -> Slot:
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
        self._numbers += 1
        return Slot(self._numbers, actor, actor.load.remote())

    def _end(self, slot: Slot) -> None:
        ray.kill(slot.actor, no_restart=True)
        self.open.remove(slot)


def cause_of(error: RayTaskError) -> BaseException:
    """What the worker raised, as it was."""
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    return cause
