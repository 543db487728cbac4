"""What the stages of an index job share: settings, place, ledger, progress, and how units are done.

`cluster/index_job.py` is the pipeline; `cluster/job_stages.py` has the stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.attempts import first_line
from cluster.build_settings import BuildSettings
from cluster.index_folder import BuildPlace
from cluster.ledger import Done, Poisoned, Record
from cluster.plan import WorkerPlan
from cluster.progress import Progress
from cluster.worker_pool import WorkerPool
from cluster.worker_run import Work
from colbert_core.errors import JobFailed
from workers.encoder import CodecRef, UnitResult, WorkerSettings
from workers.units import Staging, Unit

OnError = Literal["skip", "fail"]
MAX_SKIPPED = 1000
"""Passages that may be left out. Where more fail it is the model, or the machine."""
_SHOWN_IDS = 5


@dataclass
class Job:
    """One run of the pipeline.

    Attributes:
        settings: how the index is built.
        place: the folder, and the ledger of what is committed.
        progress: where to report to.
        on_error: whether passages that the model fails on are left out, or end the job.
        private_staging: whether the staging folder is in this machine's cache, which other nodes
            do not see.
        seconds: that each stage took in this run.
    """

    settings: BuildSettings
    place: BuildPlace
    progress: Progress
    on_error: OnError = "fail"
    private_staging: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def staging(self) -> Staging:
        return Staging(self.place.staging)

    @property
    def done(self) -> Done:
        """What the ledger says."""
        return self.place.ledger.done

    @property
    def generation(self) -> str:
        """The id of what will be published; known once a model is loaded."""
        assert self.done.started is not None
        return self.done.started.generation

    def commit(self, record: Record) -> None:
        """Write into the ledger that something is done, after its files are whole on disk."""
        self.place.ledger.add(record)

    @contextmanager
    def stage(self, name: str, total: int | None, noun: str) -> Iterator[None]:
        """Time a stage and show it."""
        began = time.monotonic()
        self.progress.start(name, total, noun)
        yield
        self.progress.finish()
        self.seconds[name] = time.monotonic() - began

    def pool(self, plan: WorkerPlan) -> WorkerPool:
        """Workers that load the model; entering it starts them."""
        settings = WorkerSettings(
            staging=str(self.place.staging),
            model=self.settings.model,
            doc_maxlen=self.settings.doc_maxlen,
            device=device_of(plan),
            threads=plan.threads,
            long_documents=self.settings.long_documents,
            language=self.settings.language,
        )
        return WorkerPool(plan, settings, self.progress.note)

    def over_units(
        self,
        stage: str,
        method: str,
        units: Sequence[Unit],
        extra: tuple[CodecRef, ...],
        pool: WorkerPool,
        known: Mapping[int, UnitResult],
        commit: Callable[[UnitResult], Record],
    ) -> tuple[UnitResult, ...]:
        """Call a method of the workers on the units that are not done; all results, in the order
        of the corpus.

        Raises:
            JobFailed: a unit failed for good, or the model fails on a passage.
        """
        results = {unit.index: known[unit.index] for unit in units if unit.index in known}
        left = [unit for unit in units if unit.index not in results]

        def work_of(unit: Unit) -> Work:
            poisoned = self.done.poisoned.get(unit.index)
            skip = poisoned.rows if poisoned else ()
            # Of all that is queued at once: a range, so that memory does not grow with passages.
            rows: Sequence[int] = range(unit.passages)
            if skip:
                rows = tuple(sorted(set(rows) - set(skip)))
            return Work((method, unit.index), unit, method, (unit, skip, *extra), unit, rows)

        def done(_work: Work, result: UnitResult) -> None:
            self.commit(commit(result))
            results[result.unit] = result
            self.progress.advance(result.passages, result.tokens)

        def poisoned(work: Work, rows: tuple[int, ...], cause: BaseException) -> Work:
            assert work.unit is not None
            self.leave_out(work.unit, rows, cause)
            return work_of(work.unit)

        with self.stage(stage, sum(unit.passages for unit in left), "passages"):
            pool.run([work_of(unit) for unit in left], done, poisoned)
        return tuple(results[index] for index in sorted(results))

    def leave_out(self, unit: Unit, rows: tuple[int, ...], cause: BaseException) -> None:
        """Skip passages that the model fails on, or end the job, as `on_error` says.

        Raises:
            JobFailed: naming the passages and the cause.
        """
        ids = self.staging.passages(unit.index).ids
        new = tuple(ids[row] for row in rows)
        why = f"{type(cause).__name__}: {first_line(cause)}"
        if self.on_error == "fail":
            raise JobFailed(
                f"the model fails on {_shown(new)} of {unit}: {why}. Change or remove what is "
                "wrong and begin anew with --restart, or leave it out with --on-error skip"
            ) from cause
        before = self.done.poisoned.get(unit.index)
        rows = tuple(sorted({*rows, *(before.rows if before else ())}))
        self.commit(Poisoned(unit.index, rows, tuple(ids[row] for row in rows), why))
        self.progress.note(f"left out, for the model fails on it: {_shown(new)} ({why})")
        if len(self.done.skipped_ids) > MAX_SKIPPED:
            raise JobFailed(
                f"the model fails on more than {MAX_SKIPPED:,} passages, {_shown(new)} the last "
                f"of them ({why}); that is not the passages' fault: check the model"
            )


def device_of(plan: WorkerPlan) -> str:
    """The kind of device that workers encode on."""
    return "cuda" if plan.gpus else "cpu"


def _shown(ids: Sequence[Any]) -> str:
    names = ", ".join(repr(one) for one in ids[:_SHOWN_IDS])
    more = f" and {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
    return f"passage{'s' if len(ids) > 1 else ''} {names}{more}"
