"""A training run from tuples to a checkpoint, top to bottom: a student's, or a teacher's.

    lock ─ check and prepare tuples ─ start model ─ Ray Train ─ save the checkpoint ─ draw curves

Everything lies under one folder:

    OUT/tuples/       the tuples, checked and laid out
    OUT/start/        the checkpoint that the run starts from
    OUT/runs/NAME/    Ray Train's checkpoints; in NAME a hash of all that decides about the result
                      (elsewhere with `checkpoints`)
    OUT/log.jsonl, OUT/tensorboard/, OUT/curves.png
    OUT/checkpoint/   the trained model, put there as a whole
    OUT/additions/    the same in little, of a run with low-rank additions (`text/additions.py`)

The same command goes on where it was stopped: the name is the same, and Ray Train has its latest
checkpoint. Other settings or data have another name, and begin anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from cluster.beir import read_judged
from cluster.progress import Progress
from cluster.ray_session import RaySession, ray_session
from cluster.train_evaluation import evaluate_checkpoint
from cluster.train_places import make_writable, require_place, storage_path
from cluster.train_start import Beginning, check_passage_tokens, start_run
from cluster.train_watch import watching
from colbert_core.errors import InvalidInput, JobFailed
from colbert_core.index.lock import write_lock
from colbert_core.text.aliases import lasting_name, locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.corpus import Corpus
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.run_log import draw_curves, read_log
from colbert_core.train.starting import StudentSettings
from colbert_core.train.teachers import teacher_sha256
from colbert_core.train.trainer import StudentLearner, TrainSettings, check_settings
from colbert_core.train.tuple_set import TupleSet
from workers.train_loop import Kind, LoopSettings, load_state, make_trainer, train_loop

COLLECTIVE_TIMEOUT_S = 1800  # the others wait while the first worker evaluates
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """What is trained, on what, by how many.

    Attributes:
        tuples: tuple files.
        corpus, queries: where their ids are looked up.
        n_way: passages of a tuple; None: all.
        model: what to start from: path, hub name or alias.
        student: how the student reads; None trains a teacher.
        settings: of the run; `steps` 0 stands for one epoch, `warmup` -1 for a tenth of the steps.
        workers: how many, at most; None: one for each GPU, or one.
        min_workers: as few as the run goes on with, where nodes come and go; None: as `workers`.
        blend: where what is saved lies between the start, 0, and what was trained, 1. It may be
            changed when the run is done: the same command then writes the model anew, and measures
            it.
        checkpoints: a folder or URI for the checkpoints of the run; None: under OUT.
        beginning: what is done before the training itself.
        chunk: texts that are encoded at a time, or None.
        checkpoint_every, evaluate_every: in steps.
        data, split: a collection in BEIR's layout to evaluate on, or None.
        max_failures: how often the workers are started again after one was lost.
    """

    tuples: tuple[str, ...]
    corpus: Corpus | None
    queries: Corpus | None
    n_way: int | None
    model: str
    student: StudentSettings | None
    settings: TrainSettings
    workers: int | None
    chunk: int | None
    checkpoint_every: int
    evaluate_every: int
    data: Path | None
    split: str
    max_failures: int
    blend: float = 1.0
    min_workers: int | None = None
    checkpoints: str | None = None
    beginning: Beginning = field(default_factory=Beginning)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a run has made.

    Attributes:
        checkpoint: the trained model.
        name: of the run.
        steps: that it took.
        first, last: what was measured before and after, or nothing.
    """

    checkpoint: Path
    name: str
    steps: int
    first: dict[str, float]
    last: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {**dataclasses.asdict(self), "checkpoint": str(self.checkpoint)}


def check_blend(blend: float) -> None:
    """Raises InvalidInput unless weights can lie there between start and end."""
    if not 0.0 < blend <= 1.0:
        raise InvalidInput(f"blend {blend:g}: above 0, which is the start, and at most 1")


def train(job: TrainJob, out: Path, progress: Progress) -> TrainReport:
    """Train a model, or go on with it.

    Raises:
        TrainingDataError, InvalidInput, ModelError: the tuples, a setting or the model cannot be
            used; nothing was trained.
        IndexExists: another run is writing there.
        JobFailed: the workers failed for good.
        Unavailable: Ray does not start, or cannot be joined.
    """
    job.beginning.check()
    make_writable(out)
    if job.checkpoints is not None:
        require_place(job.checkpoints)
    with write_lock(out):
        if job.data is not None:
            read_judged(job.data, job.split)  # refused now rather than after hours
        tuples = prepare_tuples(
            out / "tuples", job.tuples, corpus=job.corpus, queries=job.queries, n_way=job.n_way
        )
        settings = _resolved(job.settings, tuples)
        check_settings(settings, tuples, _counts(job, job.workers or job.min_workers or 1))
        check_blend(job.blend)
        names, read = settings.objective.batch_teachers, settings.passage_tokens
        check_passage_tokens(read, job.model)
        teachers = [teacher_sha256(name, read) for name in names]
        start = start_run(out, job.model, job.student, settings, tuples, job.beginning, progress)
        kind: Kind = "teacher" if job.student is None else "distill"
        name = _run_name(kind, [start, *teachers], tuples, settings)
        with ray_session(purpose=f"train {kind}") as session:
            workers = job.workers or max(1, session.gpus)
            counts = _counts(job, workers)
            check_settings(settings, tuples, counts)
            _check_room(counts[0], session)
            loop = _loop(job, kind, out, settings, session.cpus // workers)
            with watching(out, progress, settings.steps):
                checkpoint = _fit(loop, name, counts, session.gpus > 0, job)
        _save(checkpoint, loop, out, job.model)
        draw_curves(out)
    return TrainReport(out / "checkpoint", name, settings.steps, *measured(out))


def measured(out: Path) -> tuple[dict[str, float], dict[str, float]]:
    """What a run measured first and last, or nothing."""
    rows = [row for row in read_log(out) if "ndcg@10" in row]
    for row in rows:
        del row["step"]
    return (rows[0], rows[-1]) if rows else ({}, {})


def _resolved(settings: TrainSettings, tuples: TupleSet) -> TrainSettings:
    """With one epoch of steps, and a tenth of them of warm-up, where nothing was said."""
    steps = settings.steps or max(1, len(tuples) // max(1, settings.batch))
    warmup = steps // 10 if settings.warmup < 0 else settings.warmup
    return dataclasses.replace(settings, steps=steps, warmup=warmup)


def _run_name(kind: Kind, models: list[str], tuples: TupleSet, settings: TrainSettings) -> str:
    """Names all that decides about the result; not the workers, nor how they share memory."""
    decides = {"models": models, "tuples": tuples.sha256, **dataclasses.asdict(settings)}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{digest[:12]}"


def _counts(job: TrainJob, workers: int) -> range:
    """Every number of workers that the run may have."""
    least = workers if job.min_workers is None else job.min_workers
    if not 1 <= least <= workers:
        raise InvalidInput(f"min-workers {least}: between 1 and the {workers} of --workers")
    return range(least, workers + 1)


def _check_room(workers: int, session: RaySession) -> None:
    have, what = (session.gpus, "GPUs") if session.gpus else (session.cpus, "CPUs")
    if workers > have:
        raise InvalidInput(f"workers {workers}: Ray has {have} {what}; give --workers {have}")


def _loop(
    job: TrainJob, kind: Kind, out: Path, settings: TrainSettings, threads: int
) -> LoopSettings:
    evaluate = None
    if job.data is not None:
        evaluate = functools.partial(evaluate_checkpoint, data=job.data.resolve(), split=job.split)
    return LoopSettings(
        kind=kind,
        start=str((out / "start").resolve()),
        tuples=str((out / "tuples").resolve()),
        out=str(out.resolve()),
        settings=settings,
        chunk=job.chunk,
        blend=job.blend,
        checkpoint_every=job.checkpoint_every,
        evaluate_every=job.evaluate_every,
        evaluate=evaluate,
        threads=max(1, threads),
    )


def _fit(
    loop: LoopSettings, name: str, counts: range, gpus: bool, job: TrainJob
) -> ray.train.Checkpoint:
    """Run Ray Train to the last step; returns the last checkpoint."""
    elastic = len(counts) > 1
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"loop": loop},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(counts[0], counts[-1]) if elastic else counts[-1],
            use_gpu=gpus,
            resources_per_worker={"CPU": loop.threads} | ({"GPU": 1} if gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_path(job.checkpoints or str(Path(loop.out) / "runs")),
            failure_config=ray.train.FailureConfig(max_failures=job.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise JobFailed(
            f"the training workers failed {job.max_failures + 1} times: {error}; the same command "
            "goes on from the last checkpoint"
        ) from error
    if result.checkpoint is None:
        raise JobFailed(f"run {name} ended without a checkpoint")
    return result.checkpoint


def _save(checkpoint: ray.train.Checkpoint, loop: LoopSettings, out: Path, model: str) -> None:
    """Write the trained model beside, then in place of, what OUT held."""
    cpu = torch.device("cpu")
    trainer = make_trainer(loop, cpu)
    with checkpoint.as_directory() as held:
        trainer.resume(load_state(Path(held), cpu))
    learner = trainer.learner
    _put(out / "checkpoint", learner.save)
    if isinstance(learner, StudentLearner) and loop.settings.lora is not None:
        base, sha256 = lasting_name(model), read_checkpoint(locate(model)).sha256()
        _put(out / "additions", lambda place: learner.save_additions(place, base, sha256))
    else:
        shutil.rmtree(out / "additions", ignore_errors=True)  # those of an earlier run


def _put(final: Path, save: Callable[[Path], None]) -> None:
    new = final.with_name(f".{final.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    save(new)
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
