"""What each training worker does, as Ray Train runs it: steps, checkpoints, evaluation.

The shell around `colbert_core.train.trainer`: Ray Train has made the process group, and hands out
the latest checkpoint where the run goes on. Which worker it is decides nothing but its share of
each batch, and that the first one writes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray.train
import torch

from colbert_core.train import group
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.cross_encoder import TeacherLearner
from colbert_core.train.run_log import RunLog
from colbert_core.train.trainer import Learner, StudentLearner, Trainer, TrainSettings
from colbert_core.train.tuple_set import TupleSet

STATE = "state.pt"
UNSAVED_S = 600.0
"""The most work that a kill may cost: a checkpoint is due then, however few steps were made."""
Kind = Literal["distill", "teacher"]
Evaluate = Callable[[Path], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What a worker is told when it starts; the folders are seen by all of them.

    Attributes:
        kind: "distill" a student, or train a "teacher".
        start: the checkpoint that the run starts from.
        tuples: what `prepare_tuples` wrote.
        out: where log and TensorBoard's files go.
        settings: of the run.
        chunk: texts that are encoded at a time, or None.
        blend: of the start and what was trained, in what is saved and measured.
        checkpoint_every: steps between checkpoints, at most; there is one after the last step, and
            after `UNSAVED_S` without one.
        evaluate_every: steps between evaluations; also before the first and after the last.
        evaluate: measures a checkpoint's folder, or None.
        threads: processor threads of a worker.
    """

    kind: Kind
    start: str
    tuples: str
    out: str
    settings: TrainSettings
    chunk: int | None
    blend: float
    checkpoint_every: int
    evaluate_every: int
    evaluate: Evaluate | None
    threads: int


def train_loop(config: Mapping[str, LoopSettings]) -> None:
    """The function that Ray Train calls on each worker."""
    loop = config["loop"]
    torch.set_num_threads(loop.threads)
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    trainer = make_trainer(loop, device)
    _resume(trainer, device)
    log = RunLog(Path(loop.out), trainer.done) if group.rank() == 0 else None
    # A run that had ended may be blended anew, and what is saved is measured.
    if log and trainer.done in (0, loop.settings.steps):
        _evaluate(trainer, loop, log)
    saved_at = time.monotonic()
    while trainer.done < loop.settings.steps:
        row = trainer.step()
        if log:
            log.add(row)
        last = trainer.done == loop.settings.steps
        if log and (last or trainer.done % loop.evaluate_every == 0):
            _evaluate(trainer, loop, log)
        long_ago = group.anywhere(time.monotonic() - saved_at >= UNSAVED_S, device)
        if last or long_ago or trainer.done % loop.checkpoint_every == 0:
            _report(trainer, row, writes=log is not None)
            saved_at = time.monotonic()
    if log:
        log.close()


def make_trainer(loop: LoopSettings, device: torch.device) -> Trainer:
    """What a worker trains, at its start."""
    learner: Learner
    tuples, settings = TupleSet(Path(loop.tuples)), loop.settings
    if loop.kind == "teacher":
        learner = TeacherLearner(Path(loop.start), settings, device)
    else:
        names = settings.objective.batch_teachers
        teachers = BatchTeachers(names, tuples, device, settings.passage_tokens) if names else None
        learner = StudentLearner(
            Path(loop.start), settings, device, chunk=loop.chunk, blend=loop.blend,
            teachers=teachers,
        )  # fmt: skip
    return Trainer(learner, tuples, settings)


def load_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """What `Trainer.state` gave, from the folder of a checkpoint."""
    state: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return state


def _resume(trainer: Trainer, device: torch.device) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.resume(load_state(Path(folder), device))


def _report(trainer: Trainer, row: Mapping[str, float], *, writes: bool) -> None:
    """Hand a checkpoint to Ray Train; all workers take part, the first one has written it."""
    with tempfile.TemporaryDirectory() if writes else nullcontext() as folder:
        checkpoint = None
        if folder is not None:
            torch.save(trainer.state(), Path(folder) / STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(dict(row), checkpoint=checkpoint)


def _evaluate(trainer: Trainer, loop: LoopSettings, log: RunLog) -> None:
    if loop.evaluate is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.learner.save(Path(folder))
        log.add({"step": trainer.done, **loop.evaluate(Path(folder))})
