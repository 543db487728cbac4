"""One worker's part of a run: what learns, its optimiser, and a step. Without Ray.

    trainer = Trainer(StudentLearner(start, settings, device), tuples, settings)
    while trainer.done < settings.steps:
        metrics = trainer.step()

All workers of the group call `step` together. Their parameters stay the same to the bit, because
they start the same and take the same averaged gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from colbert_core.errors import InvalidInput, JobFailed
from colbert_core.text.tokens import TextTokenizer
from colbert_core.train import group
from colbert_core.train.batches import collate
from colbert_core.train.schedule import batch_ordinals, learning_rate, share
from colbert_core.train.step import Objective, add_gradients
from colbert_core.train.student import Student
from colbert_core.train.tuple_set import Example, TupleSet

if TYPE_CHECKING:
    from colbert_core.train.batch_teachers import BatchTeachers


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What decides about the result of a run.

    Attributes:
        steps: updates of the parameters.
        batch: tuples of one update, over all workers.
        accumulate: parts that a batch is cut into; only passages of one part are each other's
            negatives.
        rate: the highest learning rate, reached after `warmup` steps.
        clip: largest norm of the gradient.
        seed: of the order of tuples, and of low-rank weights.
        objective: what is minimised.
        lora: rank of low-rank additions to the backbone; None trains all of it.
        bf16: run the backbone in bfloat16.
        passage_tokens: of a passage that are read in training; None: as many as the checkpoint
            reads, which it goes on to read.
    """

    steps: int
    batch: int
    accumulate: int = 1
    rate: float = 1e-5
    warmup: int = 0
    clip: float = 1.0
    seed: int = 0
    objective: Objective = field(default_factory=Objective)
    lora: int | None = None
    bf16: bool = False
    passage_tokens: int | None = None


def check_settings(settings: TrainSettings, tuples: TupleSet, workers: Iterable[int]) -> None:
    """Refuse what cannot be run.

    Args:
        workers: every number of them that the run may have.

    Raises:
        InvalidInput: a value is out of range, or does not fit the tuples or the workers.
    """
    for count in workers:
        check_values(settings, count)
    objective = settings.objective
    if objective.loss == "kl" and objective.weight and not tuples.scored:
        raise InvalidInput(
            "loss kl learns from a teacher's scores, and the tuples have none; score them with "
            "`tartan train score`, or learn from the positive passages alone with --loss v1"
        )
    batch_ordinals(0, tuples=len(tuples), batch=settings.batch, seed=settings.seed)


def check_values(settings: TrainSettings, workers: int) -> None:
    """Refuse what could be run on no tuples at all.

    Raises:
        InvalidInput: a value is out of range, or does not fit the workers.
    """
    for name, value in (
        ("steps", settings.steps),
        ("batch", settings.batch),
        ("accumulate", settings.accumulate),
        ("workers", workers),
        ("lora", 1 if settings.lora is None else settings.lora),
    ):
        if value < 1:
            raise InvalidInput(f"{name} {value}: at least 1 is needed")
    if settings.batch % (settings.accumulate * workers):
        raise InvalidInput(
            f"batch {settings.batch} cannot be cut into {settings.accumulate} parts for {workers} "
            f"workers each; give a multiple of {settings.accumulate * workers}"
        )
    for name, number in (("rate", settings.rate), ("clip", settings.clip)):
        if not (math.isfinite(number) and number > 0):
            raise InvalidInput(f"{name} {number}: a positive number is needed")
    if not 0 <= settings.warmup <= settings.steps:
        raise InvalidInput(f"warmup {settings.warmup}: between 0 and the {settings.steps} steps")
    _check_objective(settings.objective)


def _check_objective(objective: Objective) -> None:
    weights = (objective.weight, objective.in_batch_weight)
    if min(weights) < 0 or not sum(weights) > 0 or not all(map(math.isfinite, weights)):
        raise InvalidInput(
            f"weights {weights[0]:g} and {weights[1]:g}: neither may be negative, and one positive"
        )
    if objective.batch_teachers and not objective.weight:
        raise InvalidInput(
            "weight 0 leaves out what a batch-teacher says: leave out the teacher too"
        )
    if not (math.isfinite(objective.temperature) and objective.temperature > 0):
        raise InvalidInput(f"temperature {objective.temperature}: a positive number is needed")


class Learner(Protocol):
    """A model, and how it learns from tuples.

    Attributes:
        module: holds the parameters; those that require gradients are trained.
        device: where they are.
    """

    module: torch.nn.Module
    device: torch.device

    def add_gradients(self, examples: Sequence[Example], scale: float) -> Tensor:
        """Add `scale` times the gradient of the loss; returns float [3]: loss, tuples, in-batch."""

    def save(self, folder: Path) -> None:
        """Write the model as it is now."""


class StudentLearner:
    """A late-interaction student under an objective.

    Args:
        start: the checkpoint that `start_student` wrote.
        chunk: texts that are encoded at a time (GradCache); None: all at once. It changes memory
            and time, not the result.
        blend: where what is saved lies between the start, 0, and what was trained, 1.
        teachers: those of the objective's `batch_teachers`.
    """

    def __init__(
        self,
        start: Path,
        settings: TrainSettings,
        device: torch.device,
        *,
        chunk: int | None = None,
        blend: float = 1.0,
        teachers: BatchTeachers | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.device = device
        self._student = Student.load(start, device, bf16=settings.bf16)
        if settings.lora is not None:
            self._student.use_lora(settings.lora)
            self._student.to(device)
        self.module: torch.nn.Module = self._student
        self._tokenizer = TextTokenizer(
            self._student.checkpoint, doc_maxlen=settings.passage_tokens
        )
        self._objective, self._chunk, self._blend = settings.objective, chunk, blend
        self._teachers = teachers

    def add_gradients(self, examples: Sequence[Example], scale: float) -> Tensor:
        """See `Learner`."""
        batch = collate(examples, self._tokenizer, self.device)
        if self._teachers is not None:
            batch = replace(batch, batch_teacher_BM=self._teachers.scores(examples))
        loss = add_gradients(self._student, batch, self._objective, chunk=self._chunk, scale=scale)
        return torch.stack([loss.total.detach(), loss.tuples, loss.in_batch])

    def save(self, folder: Path) -> None:
        """See `Student.save`."""
        self._student.save(folder, self._blend)

    def save_additions(self, folder: Path, base: str, base_sha256: str) -> None:
        """See `Student.save_additions`."""
        self._student.save_additions(folder, base, base_sha256, self._blend)


class Trainer:
    """A model under training.

    Attributes:
        done: steps that have been taken.
        learner: the model.
    """

    def __init__(self, learner: Learner, tuples: TupleSet, settings: TrainSettings) -> None:
        self.settings = settings
        self.done = 0
        self.learner = learner
        self._tuples = tuples
        named = learner.module.named_parameters()
        self._parameters = {name: p for name, p in named if p.requires_grad}
        group.broadcast(self._parameters.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), settings.rate, weight_decay=0.0
        )

    def step(self) -> dict[str, float]:
        """Take one step; returns step, loss, its two parts, rate and gradient norm.

        Raises:
            JobFailed: the loss is not finite.
        """
        settings = self.settings
        self._optimizer.zero_grad()
        total, tuples, in_batch = self._gradients().tolist()
        if not math.isfinite(total):
            raise JobFailed(
                f"the loss is {total} at step {self.done + 1}: give a lower --rate, or leave out "
                "--bf16"
            )
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), settings.clip)
        rate = learning_rate(
            self.done, peak=settings.rate, steps=settings.steps, warmup=settings.warmup
        )
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        self._optimizer.step()
        self.done += 1
        return {
            "step": self.done,
            "loss": total,
            "tuples": tuples,
            "in_batch": in_batch,
            "rate": rate,
            "gradient_norm": float(norm),
        }

    def _gradients(self) -> Tensor:
        """Set the gradients of the next batch, the same on all workers; returns the losses [3]."""
        settings = self.settings
        ordinals = batch_ordinals(
            self.done, tuples=len(self._tuples), batch=settings.batch, seed=settings.seed
        )
        losses = torch.zeros(3, dtype=torch.float64, device=self.learner.device)
        for part in range(settings.accumulate):
            own = share(ordinals, part, settings.accumulate, group.rank(), group.world_size())
            examples = [self._tuples.example(int(ordinal)) for ordinal in own]
            losses += self.learner.add_gradients(examples, 1 / settings.accumulate)
        group.average_gradients(self._parameters.values())
        return group.mean_over_workers(losses / settings.accumulate)

    def state(self) -> dict[str, Any]:
        """What `resume` needs, as tensors and plain values."""
        return {
            "done": self.done,
            "parameters": {name: p.detach() for name, p in self._parameters.items()},
            "optimizer": self._optimizer.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self.done = int(state["done"])
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
