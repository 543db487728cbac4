"""Workers on a Ray cluster, and the loop that keeps them busy: `worker_run.py` says with what.

A wait that takes long says so and goes on: slow work is not failed work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from cluster.plan import WorkerPlan
from cluster.worker_run import OnDone, OnPoison, Run, Work
from cluster.worker_slots import HEARTBEAT_S, Note, Slots
from workers.encoder import LoadedModel, WorkerSettings


class WorkerPool:
    """Workers on a Ray cluster; leaving the block ends them.

    Args:
        plan: how many workers, and the resources of each.
        settings: what each worker is told.
        note: takes lines that a person should see.
    """

    def __init__(self, plan: WorkerPlan, settings: WorkerSettings, note: Note) -> None:
        self.slots = Slots(plan, settings, note)
        self._note = note

    @property
    def workers(self) -> int:
        """The most workers that there were at a time."""
        return self.slots.peak

    def __enter__(self) -> WorkerPool:
        self.slots.resize()
        return self

    def __exit__(self, *_: object) -> None:
        self.slots.close()

    def first_model(self) -> LoadedModel:
        """Wait for the first worker that has loaded the model.

        Raises:
            ModelError: the model cannot be loaded.
            Unavailable: no worker could start in `START_TIMEOUT_S`.
        """
        began = time.monotonic()
        told = False
        while True:
            done, _ = ray.wait(self.slots.waiting_for(), num_returns=1, timeout=HEARTBEAT_S)
            for ref in done:
                model = self.slots.settle_loading(self.slots.of(ref))
                if model is not None:
                    return model
            self.slots.resize()
            waited = time.monotonic() - began
            self.slots.give_up_after(waited)
            if waited > 6 * HEARTBEAT_S and not told:
                told = True
                self._note(f"no worker is ready after {waited:.0f} s; {self.slots.wants()}")

    def run(
        self, works: Sequence[Work], on_done: OnDone, on_poison: OnPoison | None = None
    ) -> None:
        """Do all of the works, in any order, each exactly once as far as `on_done` is concerned.

        Raises:
            JobFailed: a piece failed for good.
            Unavailable: workers cannot be started any more.
        """
        run = Run(self.slots, self._note, works, on_done, on_poison)
        last_ready = time.monotonic()
        while run.left:
            self.slots.resize(len(run.left))
            run.send()
            done, _ = ray.wait(self.slots.waiting_for(), num_returns=1, timeout=HEARTBEAT_S)
            for ref in done:
                slot = self.slots.of(ref)
                if ref == slot.loading:
                    self.slots.settle_loading(slot)
                else:
                    run.settle_oldest(slot)
            if done or self.slots.ready:
                last_ready = time.monotonic()
            self.slots.give_up_after(time.monotonic() - last_ready)
            if not done:
                run.look_for_stragglers()
        for slot in self.slots:
            if slot.flights:  # of a piece that another worker was quicker with
                self.slots.replace(slot)
