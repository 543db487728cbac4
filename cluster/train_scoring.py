"""Teachers score the pairs of tuple files, on Ray: a job that goes on where it was stopped.

    lock ─ check and prepare tuples ─ load each teacher once ─ units over actors ─ average ─ write

Beside OUT lies `OUT.scoring/` while the job runs: the prepared tuples, and one file for each unit
and teacher that is done. The same command goes on with them; other tuples or teachers do not use
them. A unit is scored by one actor, sorted by length.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.progress import Progress
from cluster.ray_session import RaySession, ray_session
from colbert_core.errors import InvalidInput, JobFailed, TartanError, TrainingDataError
from colbert_core.index.lock import write_lock
from colbert_core.text.corpus import Corpus
from colbert_core.train.averaging import Moments, averaged
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.teachers import resolved, teacher_sha256
from colbert_core.train.tuple_set import TupleSet
from colbert_core.train.tuples import TupleWriter
from colbert_core.types import F32
from workers.train_scorer import TeacherScorer

UNIT_PAIRS = 4096
RESTARTS = 3
WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class ScoreUnit:
    """One teacher's work on the tuples start … stop - 1, and the file that it fills."""

    teacher: int
    start: int
    stop: int
    path: Path


def score_tuples(
    tuples: Sequence[str],
    out: Path,
    teachers: Sequence[str],
    *,
    corpus: Corpus | None,
    queries: Corpus | None,
    n_way: int | None,
    workers: int | None,
    progress: Progress,
    bf16: bool = False,
) -> int:
    """Score tuple files, and write them as one with the scores; returns how many tuples.

    Args:
        bf16: run the teachers' models in bfloat16.

    Raises:
        TrainingDataError: a tuple cannot be scored; nothing was done.
        ModelError: a teacher cannot be loaded, or does not give one score.
        InvalidInput: there is no teacher, or OUT cannot be written.
        IndexExists: the same job is running.
        JobFailed: a unit failed for good.
    """
    if not teachers:
        raise InvalidInput("no teacher: give --teacher PATH, once for each")
    staging = out.with_name(f"{out.name}.scoring")
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"{out}: it cannot be written ({error.strerror}); choose another --out"
        ) from error
    with write_lock(staging):
        made = prepare_tuples(
            staging / "tuples", tuples, corpus=corpus, queries=queries, n_way=n_way
        )
        parts = staging / _fingerprint(made, teachers, bf16)
        parts.mkdir(exist_ok=True)
        units = _units(made, len(teachers), parts)
        todo = [unit for unit in units if not unit.path.exists()]
        known = sum(_pairs(unit, made) for unit in units if unit.path.exists())
        progress.start("score", len(made) * made.n_way * len(teachers), "pairs", known)
        if todo:
            with ray_session(purpose="train score") as session:
                for number, teacher in enumerate(teachers):
                    own = [unit for unit in todo if unit.teacher == number]
                    _run(own, teacher, made, workers, session, progress, bf16)
        progress.finish()
        _write(out, made, units, len(teachers))
    shutil.rmtree(staging)
    return len(made)


def _fingerprint(tuples: TupleSet, teachers: Sequence[str], bf16: bool) -> str:
    """Of tuples and teachers; each teacher is loaded once, so that a wrong one is refused here."""
    digest = hashlib.sha256(f"{tuples.sha256} {tuples.n_way}".encode())
    for teacher in teachers:
        digest.update(teacher_sha256(teacher, bf16=bf16).encode())
    return digest.hexdigest()[:16]


def _units(tuples: TupleSet, teachers: int, parts: Path) -> list[ScoreUnit]:
    size = max(1, UNIT_PAIRS // tuples.n_way)
    return [
        ScoreUnit(
            teacher, start, min(start + size, len(tuples)), parts / f"{teacher}-{start:012d}.npy"
        )
        for teacher in range(teachers)
        for start in range(0, len(tuples), size)
    ]


def _pairs(unit: ScoreUnit, tuples: TupleSet) -> int:
    return (unit.stop - unit.start) * tuples.n_way


def _run(
    units: Sequence[ScoreUnit],
    teacher: str,
    tuples: TupleSet,
    workers: int | None,
    session: RaySession,
    progress: Progress,
    bf16: bool,
) -> None:
    """Score units on as many actors as there is room for, one unit each at a time."""
    have = session.gpus or session.cpus
    count = min(workers or have, len(units))
    if count > have:
        raise InvalidInput(f"workers {count}: Ray has room for {have}; give --workers {have}")
    threads = max(1, session.cpus // max(1, count))
    kind = ray.remote(TeacherScorer).options(
        num_gpus=1 if session.gpus else 0,
        num_cpus=1,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )
    place = str(tuples.folder.resolve())
    actors = [kind.remote(resolved(teacher), place, threads, bf16) for _ in range(count)]
    waiting = deque(units)
    running: dict[Any, tuple[Any, ScoreUnit]] = {}
    try:
        for actor in actors:
            _begin(actor, waiting, running)
        while running:
            done, _ = ray.wait(list(running), timeout=WAIT_S)
            if not done:
                progress.note(f"no unit was done in {WAIT_S:.0f} s; still waiting")
            for ref in done:
                actor, unit = running.pop(ref)
                progress.advance(_result(ref, unit))
                _begin(actor, waiting, running)
    finally:
        for actor in actors:
            ray.kill(actor)


def _begin(actor: Any, waiting: deque[ScoreUnit], running: dict[Any, Any]) -> None:
    if waiting:
        unit = waiting.popleft()
        path = str(unit.path.resolve())
        running[actor.score.remote(unit.start, unit.stop, path)] = actor, unit


def _result(ref: Any, unit: ScoreUnit) -> int:
    try:
        pairs: int = ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, TartanError):
            raise error.cause from error
        raise JobFailed(f"tuples {unit.start} to {unit.stop - 1}: {error.cause}") from error
    except RayActorError as error:
        raise JobFailed(
            f"tuples {unit.start} to {unit.stop - 1}: their worker was lost {RESTARTS + 1} times: "
            f"{error}; the same command goes on with what is done"
        ) from error
    return pairs


def _write(out: Path, tuples: TupleSet, units: Sequence[ScoreUnit], teachers: int) -> None:
    """Average the teachers and write all tuples with their scores."""
    moments = [Moments() for _ in range(teachers)]
    for unit in units:
        moments[unit.teacher] = moments[unit.teacher].plus(np.load(unit.path))
    first = [unit for unit in units if unit.teacher == 0]
    beside = {(unit.teacher, unit.start): unit.path for unit in units}
    with TupleWriter(out) as writer:
        for unit in first:
            each = [np.load(beside[teacher, unit.start]) for teacher in range(teachers)]
            scores_UW: F32 = averaged(each, moments)
            for row, scores_W in enumerate(scores_UW):
                if scores_W.min() == scores_W.max():
                    record = tuples.record(unit.start + row)
                    raise TrainingDataError(
                        f"query {record.query[:80]!r}: the teachers give all its passages the "
                        f"score {scores_W[0]:g}, from which nothing can be learnt; leave it out"
                    )
                writer.write(tuples.record(unit.start + row, scores_W))
