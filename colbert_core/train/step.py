"""One batch: its loss, and the gradients of it, in one piece or in chunks.

In chunks (GradCache): the vectors of all texts are computed without a graph, the loss and its
gradient for each vector follow from them, and then each chunk is encoded again with a graph and
passes that gradient on. The gradients are those of the whole batch at once, in the memory of a
chunk, for a second forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from colbert_core.train import group, losses
from colbert_core.train.batches import Batch, TokenBatch
from colbert_core.train.maxsim import Vectors, all_scores, joined, own_scores
from colbert_core.train.student import Student

LossName = Literal["kl", "v1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised: weight · (loss + KL over the batch) + in_batch_weight · in-batch
    cross-entropy.

    Attributes:
        loss: "kl", from a teacher's scores, or "v1", ColBERT v1's pairwise softmax.
        weight, in_batch_weight: of the two; 0 leaves one out.
        batch_teachers: who judges the passages of a whole batch (`batch_teachers.py`); none: the
            KL over the batch is left out.
        min_max: see `losses.distillation`.
        temperature: see there.
    """

    loss: LossName = "kl"
    weight: float = 1.0
    in_batch_weight: float = 1.0
    min_max: bool = False
    temperature: float = 1.0
    batch_teachers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """A batch's loss, and what it is made of (0 where a weight is 0)."""

    total: Tensor
    tuples: Tensor
    in_batch: Tensor


def batch_loss(queries: Vectors, passages: Vectors, batch: Batch, objective: Objective) -> Loss:
    """The loss on vectors. With other workers in the group, all must call this together."""
    n_way = len(passages) // len(queries)
    tuples = in_batch = torch.zeros((), device=queries.x_BLD.device)
    if objective.weight:
        student_BW = own_scores(queries, passages)
        if objective.loss == "v1":
            tuples = losses.pairwise(student_BW)
        else:
            assert batch.teacher_BW is not None, "tuples without scores are refused before"
            tuples = losses.distillation(
                student_BW,
                batch.teacher_BW,
                min_max=objective.min_max,
                temperature=objective.temperature,
            )
    if objective.in_batch_weight or batch.batch_teacher_BM is not None:
        scores_BM = all_scores(queries, group.gather_vectors(passages))
        keys_M = group.gather(batch.keys_M)
    if objective.in_batch_weight:
        in_batch = losses.in_batch(scores_BM, keys_M, group.rank() * len(passages), n_way)
    if batch.batch_teacher_BM is not None:
        tuples = tuples + losses.batch_distillation(
            scores_BM, batch.batch_teacher_BM, keys_M, temperature=objective.temperature
        )
    total = objective.weight * tuples + objective.in_batch_weight * in_batch
    return Loss(total, tuples.detach(), in_batch.detach())


def add_gradients(
    student: Student,
    batch: Batch,
    objective: Objective,
    *,
    chunk: int | None = None,
    scale: float = 1.0,
) -> Loss:
    """Add `scale` times the gradient of this worker's loss to the student's parameters.

    Args:
        chunk: texts that are encoded at a time; None: all at once.
    """
    if chunk is None or len(batch.passages) <= chunk:
        queries = student.weighted(student.encode(batch.queries), batch.queries)
        loss = batch_loss(queries, student.encode(batch.passages), batch, objective)
        _backward(scale * loss.total)
        return loss
    query_parts, passage_parts = batch.queries.chunks(chunk), batch.passages.chunks(chunk)
    parts = [*query_parts, *passage_parts]
    with torch.no_grad():
        encoded = [student.encode(part) for part in parts]
    leaves = [vectors.with_x(vectors.x_BLD.requires_grad_()) for vectors in encoded]
    first = len(query_parts)
    queries = student.weighted(joined(leaves[:first]), batch.queries)
    loss = batch_loss(queries, joined(leaves[first:]), batch, objective)
    _backward(scale * loss.total)
    for part, leaf in zip(parts, leaves, strict=True):
        _pass_on(student, part, leaf.x_BLD.grad)
    return loss


def _pass_on(student: Student, part: TokenBatch, gradient_BLD: Tensor | None) -> None:
    assert gradient_BLD is not None
    # The derivative of this sum for each vector is the gradient that is passed on.
    _backward((student.encode(part).x_BLD * gradient_BLD).sum())


def _backward(value: Tensor) -> None:
    value.backward()  # type: ignore[no-untyped-call]
