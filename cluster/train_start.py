"""What a training run starts from: OUT/start, written once.

    model ─ start_student or start_teacher ─ weigh query tokens ─ fit the projection ─ OUT/start

The last two where they are asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.progress import Progress
from colbert_core.errors import InvalidInput
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.query_weights import idf_weights, write_query_weights
from colbert_core.text.tokens import TextTokenizer
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.cross_encoder import start_teacher
from colbert_core.train.projecting import fit_projection
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.student import Student, write_weights
from colbert_core.train.teachers import teacher_sha256
from colbert_core.train.trainer import TrainSettings
from colbert_core.train.tuple_set import TupleSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What is done before the training itself.

    Attributes:
        weigh_queries: let tokens of a query count by how rare they are in the passages
            (`text/query_weights.py`).
        fit_steps: for which the projection is learnt alone (`train/projecting.py`).
        fit_teachers: whom it is learnt from, who judge a whole batch.
    """

    weigh_queries: bool = False
    fit_steps: int = 0
    fit_teachers: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            InvalidInput: fewer than no steps, nobody to learn from, or nothing to learn.
        """
        if self.fit_steps < 0:
            raise InvalidInput(f"fit-projection {self.fit_steps}: a number of steps, 0 for none")
        if self.fit_steps and not self.fit_teachers:
            raise InvalidInput(
                f"fit-projection {self.fit_steps}: there is nobody to learn from; give "
                "--fit-teacher, or leave it out"
            )
        if self.fit_teachers and not self.fit_steps:
            raise InvalidInput(
                f"fit-teacher {self.fit_teachers[0]}: it is asked in no step; give "
                "--fit-projection STEPS, or --batch-teacher, or leave it out"
            )


def check_passage_tokens(tokens: int | None, model: str) -> None:
    """Refuse now what the workers, or a teacher, would refuse.

    Raises:
        ModelError: the model cannot be read.
        InvalidInput: it does not read so many tokens.
    """
    if tokens is None:
        return
    try:
        TextTokenizer(read_checkpoint(locate(model)), doc_maxlen=tokens)
    except InvalidInput as error:
        raise InvalidInput(f"passage-tokens {tokens}: {error}") from error


def start_run(
    out: Path,
    model: str,
    student: StudentSettings | None,
    settings: TrainSettings,
    tuples: TupleSet,
    beginning: Beginning,
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
    if beginning != Beginning():
        facts += _learnt_from(beginning, tuples, settings)
    wanted = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    made = folder.is_dir() and mark.is_file() and mark.read_text() == wanted
    if not made:
        mark.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if student is None:
            start_teacher(model, folder, settings.seed)
        else:
            start_student(model, folder, student)
        if beginning.weigh_queries:
            _weigh_queries(folder, tuples)
        if beginning.fit_steps:
            _fit(folder, beginning, settings, tuples, progress)
        mark.write_text(wanted)
    return wanted


def _learnt_from(beginning: Beginning, tuples: TupleSet, settings: TrainSettings) -> list[object]:
    """What decides about weights, and about a projection that is fitted."""
    read, temperature = settings.passage_tokens, settings.objective.temperature
    teachers = [teacher_sha256(name, read) for name in beginning.fit_teachers]
    how = [beginning.weigh_queries, beginning.fit_steps, *teachers]
    return [*how, tuples.sha256, settings.seed, read, temperature]


def _weigh_queries(folder: Path, tuples: TupleSet) -> None:
    """Write weights in place of any that are there."""
    tokenizer = TextTokenizer(read_checkpoint(folder))
    write_query_weights(folder, idf_weights(tokenizer, tuples.passages(), tuples.queries()))


def _fit(
    folder: Path,
    beginning: Beginning,
    settings: TrainSettings,
    tuples: TupleSet,
    progress: Progress,
) -> None:
    """Learn the projection in this process, and write it in place of the one that is there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Student.load(folder, device, bf16=settings.bf16)
    steps, read = beginning.fit_steps, settings.passage_tokens
    progress.start("fit projection", steps, "steps")
    fit_projection(
        student,
        tuples,
        BatchTeachers(beginning.fit_teachers, tuples, device, read, remember=True),
        steps=steps,
        seed=settings.seed,
        passage_tokens=read,
        temperature=settings.objective.temperature,
        advance=progress.advance,
    )
    progress.finish()
    weight_DH = student.projection.weight.detach().cpu()
    write_weights(student.checkpoint, folder, student.backbone, weight_DH)
