"""A corpus without queries becomes a model for it: UDAPDR, from one command.

    generate: a query set for each template, and if asked one more, with the first as examples
      └ for each set: mine its tuples ─ for each first one: train a cross-encoder of its own on them
    score the tuples of all sets by all cross-encoders ─ distill one student from the averages

or, where teachers are given, these score, and no cross-encoder is trained.

Under one folder, each step in its own:

    OUT/generated/, OUT/more/  query sets (train_generating.py)
    OUT/sets/NAME/mined.jsonl, OUT/sets/NAME/teacher/
    OUT/scored/scored.jsonl
    OUT/student/checkpoint/   the result

A step that is done has a `settings.json`, written last, and is not done again; one that is not goes
on where it was stopped, by its own means. Where settings differ from those of a step that is done,
nothing is begun.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.beir import read_judged
from cluster.progress import Progress
from cluster.ray_session import ray_session
from cluster.train_generating import GenerateSettings, QuerySet
from cluster.train_job import TrainJob, check_blend, measured, train
from cluster.train_mining import mine
from cluster.train_record import Asked, is_recorded, record
from cluster.train_rounds import check_more, query_sets, set_folders
from cluster.train_scoring import score_tuples
from cluster.train_start import Beginning
from colbert_core.errors import InvalidInput
from colbert_core.index.lock import write_lock
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.corpus import Corpus
from colbert_core.train.mining import MiningSettings
from colbert_core.train.starting import StudentSettings
from colbert_core.train.teachers import teacher_sha256
from colbert_core.train.templates import Template
from colbert_core.train.trainer import TrainSettings, check_values
from colbert_core.train.writers import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptJob:
    """What is adapted, by whom, how.

    Attributes:
        corpus: passages.
        writer, templates, generating: of the queries.
        more: passages that get a second query of each template; those train no cross-encoder.
        mining: of the tuples; the filter's rankings give the negatives.
        teachers: who judges the tuples, as `score` names them; none: cross-encoders trained here.
        teacher_model, teacher: what each cross-encoder starts from, and how it learns.
        model, student, distilling: the same of the student.
        weigh_queries, blend: of the student, as `Beginning` and `TrainJob` have them.
        workers, chunk, checkpoint_every, evaluate_every, max_failures: of each run, as `TrainJob`
            has them.
        data, split: a collection in BEIR's layout to measure the student on, or None.
    """

    corpus: Corpus
    writer: Writer
    templates: Sequence[Template]
    generating: GenerateSettings
    more: int
    mining: MiningSettings
    teachers: Sequence[str]
    teacher_model: str
    teacher: TrainSettings
    model: str
    student: StudentSettings
    distilling: TrainSettings
    weigh_queries: bool
    blend: float
    workers: int | None
    chunk: int | None
    checkpoint_every: int
    evaluate_every: int
    max_failures: int
    data: Path | None
    split: str


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What was made.

    Attributes:
        sets: the query sets.
        checkpoint: the student.
        first, last: what was measured before and after its training, or nothing.
    """

    sets: list[QuerySet]
    checkpoint: Path
    first: dict[str, float]
    last: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        sets = [{"name": one.name, "written": one.written, "kept": one.kept} for one in self.sets]
        rest = {"checkpoint": str(self.checkpoint), "first": self.first, "last": self.last}
        return {"sets": sets, **rest}


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its folder, what decides about its result, and what does it."""

    folder: Path
    asked: Asked
    run: Callable[[], object]

    def done(self) -> bool:
        """Whether it is.

        Raises:
            IndexExists: with other settings.
        """
        return is_recorded(self.folder, self.asked)

    def take(self) -> None:
        """Do it, unless it is done."""
        if not self.done():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.run()
            record(self.folder, self.asked)


def adapt(job: AdaptJob, out: Path, progress: Progress) -> AdaptReport:
    """Adapt a model to a corpus, or go on with it.

    Raises:
        InvalidInput, CorpusError, ModelError, IndexExists: a setting, the corpus or a model cannot
            be used, or a step was done with other settings; nothing was begun.
        TrainingDataError: too little is left of the queries of a template.
        NotAuthenticated, Overloaded, Unavailable: the language model, or Ray, does not answer.
        JobFailed: workers failed for good. What is done is kept, whatever ends the job.
    """
    _check(job)
    tuples, runs = _steps(job, out, progress)
    todo = [step for step in (*tuples, *runs) if not step.done()]
    sets = query_sets(
        job.corpus,
        out,
        writer=job.writer,
        templates=job.templates,
        settings=job.generating,
        more=job.more,
        progress=progress,
    )
    with write_lock(out):
        for step in tuples:
            step.take()
        if todo:
            with ray_session(purpose="train adapt"):
                for step in runs:
                    step.take()
    return AdaptReport(sets, out / "student" / "checkpoint", *measured(out / "student"))


def _check(job: AdaptJob) -> None:
    """Refuse now what a step would refuse after hours."""
    job.generating.check()
    job.mining.check()
    check_blend(job.blend)
    check_more(job.more, job.templates)
    if not job.generating.bm25 and job.generating.index is None:
        raise InvalidInput("no source of negatives: give --index INDEX, --bm25, or both")
    for settings in (job.teacher, job.distilling):
        known = dataclasses.replace(
            settings,
            steps=settings.steps or max(1, settings.warmup),
            warmup=max(0, settings.warmup),
        )
        check_values(known, job.workers or 1)
    read_checkpoint(locate(job.model)).languages.choose(job.student.language)
    if job.data is not None:
        read_judged(job.data, job.split)


def _steps(job: AdaptJob, out: Path, progress: Progress) -> tuple[list[Step], list[Step]]:
    """What follows the queries: mining, in this process, and what runs on Ray."""
    names = [template.name for template in job.templates]
    made = set_folders(out, names, job.more)
    mined = {name: str(out / "sets" / name / "mined.jsonl") for name in made}
    queries = [str(folder / "queries.jsonl") for folder in made.values()]
    own = [] if job.teachers else names  # those that train a cross-encoder
    trained = {name: out / "sets" / name / "teacher" for name in own}
    teachers = list(job.teachers) or [str(one / "checkpoint") for one in trained.values()]
    scored = out / "scored" / "scored.jsonl"

    def mine_set(name: str) -> None:
        mine(
            made[name] / "qrels.tsv",
            Path(mined[name]),
            corpus=job.corpus,
            queries=str(made[name] / "queries.jsonl"),
            index=job.generating.index,
            bm25=job.generating.bm25,
            language=job.generating.language,
            teacher=None,
            settings=job.mining,
            progress=progress,
        )

    def run(tuples: Sequence[str], place: Path, student: bool) -> None:
        train(_run(job, tuples, queries, student=student), place, progress)

    def score() -> None:
        score_tuples(
            list(mined.values()),
            scored,
            teachers,
            corpus=job.corpus,
            queries=queries,
            n_way=None,
            workers=None,
            progress=progress,
            bf16=job.teacher.bf16,
        )

    mining, teacher, student = _asked_of_each(job)
    tuples = [Step(out / "sets" / name, mining, partial(mine_set, name)) for name in made]
    runs = [
        Step(folder, teacher, partial(run, [mined[name]], folder, student=False))
        for name, folder in trained.items()
    ]
    last = out / "student"
    return tuples, [
        *runs,
        Step(scored.parent, {"sets": list(made), "teachers": _judges(job)}, score),
        Step(last, student, partial(run, [str(scored)], last, student=True)),
    ]


def _asked_of_each(job: AdaptJob) -> tuple[Asked, Asked, Asked]:
    """What decides about mined tuples, about a teacher and about the student."""
    generating = job.generating
    mining = {
        **dataclasses.asdict(job.mining),
        "index": generating.index,
        "bm25": generating.bm25,
        "language": generating.language,
    }
    teacher = {"model": _weights(job.teacher_model), **dataclasses.asdict(job.teacher)}
    student = {"model": _weights(job.model), **dataclasses.asdict(job.student)}
    student |= {"weigh_queries": job.weigh_queries, "blend": job.blend}
    return mining, teacher, student | dataclasses.asdict(job.distilling)


def _judges(job: AdaptJob) -> list[str]:
    """What decides about scores, but for the tuples: each teacher is loaded once."""
    if not job.teachers:
        return [template.name for template in job.templates]
    return [teacher_sha256(name, bf16=job.teacher.bf16)[:16] for name in job.teachers]


def _weights(model: str) -> str:
    return read_checkpoint(locate(model)).sha256()


def _run(job: AdaptJob, tuples: Sequence[str], queries: list[str], *, student: bool) -> TrainJob:
    return TrainJob(
        tuples=tuple(tuples),
        corpus=job.corpus,
        queries=queries,
        n_way=None,
        model=job.model if student else job.teacher_model,
        student=job.student if student else None,
        settings=job.distilling if student else job.teacher,
        beginning=Beginning(weigh_queries=student and job.weigh_queries),
        blend=job.blend if student else 1.0,
        workers=job.workers,
        chunk=job.chunk if student else None,
        checkpoint_every=job.checkpoint_every,
        evaluate_every=job.evaluate_every,
        data=job.data if student else None,
        split=job.split,
        max_failures=job.max_failures,
    )
