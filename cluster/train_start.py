"""What a training run starts from: OUT/start, written once.

model ─ start_student or start_teacher ─ fit the projection, where that is asked for ─ OUT/start
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.progress import Progress
from colbert_core.errors import InvalidInput
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.tokens import TextTokenizer
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.cross_encoder import start_teacher
from colbert_core.train.projecting import fit_projection
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.student import Student, write_weights
from colbert_core.train.trainer import TrainSettings
from colbert_core.train.tuple_set import TupleSet


@dataclass(frozen=True, slots=True)
class Fit:
    """How the projection is learnt first: for so many steps, from teachers of these hashes."""

    steps: int
    teachers: Sequence[str]


def check_fit(steps: int, settings: TrainSettings) -> None:
    """Refuse what cannot be done.

    Raises:
        InvalidInput: fewer than no steps, or nobody to learn from.
    """
    if steps < 0:
        raise InvalidInput(f"fit-projection {steps}: a number of steps, 0 for none")
    if steps and not settings.objective.batch_teachers:
        raise InvalidInput(
            f"fit-projection {steps}: it learns from teachers that judge a whole batch, and there "
            "is none; give --batch-teacher, or leave it out"
        )


def start_run(
    out: Path,
    model: str,
    student: StudentSettings | None,
    settings: TrainSettings,
    tuples: TupleSet,
    fit: Fit,
    progress: Progress,
) -> str:
    """Write the checkpoint to start from, unless it is there; returns a hash of what made it.

    It is kept, because made again elsewhere it could differ in the last bits.

    Args:
        student: how the student reads; None starts a teacher.

    Raises:
        ModelError, InvalidInput: the model, or a setting, cannot be used.
    """
    folder, mark = out / "start", out / "start.sha256"
    own = settings.seed if student is None else dataclasses.asdict(student)
    facts: list[object] = [read_checkpoint(locate(model)).sha256(), own]
    if fit.steps:
        facts += [dataclasses.asdict(fit), *_learnt_from(tuples, settings)]
    wanted = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    made = folder.is_dir() and mark.is_file() and mark.read_text() == wanted
    if not made:
        mark.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if student is None:
            start_teacher(model, folder, settings.seed)
        else:
            start_student(model, folder, student)
    _check_passage_tokens(settings.passage_tokens, folder)
    if not made:
        if fit.steps:
            _fit(folder, fit.steps, settings, tuples, progress)
        mark.write_text(wanted)
    return wanted


def _learnt_from(tuples: TupleSet, settings: TrainSettings) -> list[object]:
    """What decides about a projection that is fitted, besides steps and teachers."""
    temperature = settings.objective.temperature
    return [tuples.sha256, settings.seed, settings.passage_tokens, temperature]


def _fit(
    folder: Path, steps: int, settings: TrainSettings, tuples: TupleSet, progress: Progress
) -> None:
    """Learn the projection in this process, and write it in place of the one that is there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Student.load(folder, device, bf16=settings.bf16)
    names, read = settings.objective.batch_teachers, settings.passage_tokens
    progress.start("fit projection", steps, "steps")
    fit_projection(
        student,
        tuples,
        BatchTeachers(names, tuples, device, read, remember=True),
        steps=steps,
        seed=settings.seed,
        passage_tokens=read,
        temperature=settings.objective.temperature,
        advance=progress.advance,
    )
    progress.finish()
    weight_DH = student.projection.weight.detach().cpu()
    write_weights(student.checkpoint, folder, student.backbone, weight_DH)


def _check_passage_tokens(tokens: int | None, start: Path) -> None:
    """Refuse now what the workers would refuse."""
    if tokens is None:
        return
    try:
        TextTokenizer(read_checkpoint(start), doc_maxlen=tokens)
    except InvalidInput as error:
        raise InvalidInput(f"passage-tokens {tokens}: {error}") from error
