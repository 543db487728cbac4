"""What is minimised, as pure functions of scores.

    distillation        KL divergence from the teacher's distribution over a tuple to the student's
    pairwise            ColBERT v1: the positive passage against each other one of its tuple
    in_batch            the positive passage among the passages of all queries of the batch
    batch_distillation  KL divergence over the passages of all queries of the batch

Each is a mean over queries. Shapes: B queries, W passages of each, M passages of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softplus

_EPSILON = 1e-8  # PyLate's


def distillation(
    student_BW: Tensor, teacher_BW: Tensor, *, min_max: bool, temperature: float = 1.0
) -> Tensor:
    """KL(teacher ‖ student) of the softmax of both, each divided by `temperature` first.

    Args:
        student_BW, teacher_BW: scores.
        min_max: bring the student's scores of each tuple to 0 … 1, as PyLate does by default and
            colbert-ai does not. A teacher's logits are then best brought to a like range.
        temperature: above 1 softens both distributions.
    """
    if min_max:
        low_B1, high_B1 = student_BW.amin(1, keepdim=True), student_BW.amax(1, keepdim=True)
        student_BW = (student_BW - low_B1) / (high_B1 - low_B1 + _EPSILON)
    return kl_div(
        log_softmax(student_BW / temperature, -1),
        log_softmax(teacher_BW.float() / temperature, -1),
        reduction="batchmean",
        log_target=True,
    )


def batch_distillation(
    student_BM: Tensor, teacher_BM: Tensor, keys_M: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """`distillation` over all passages, each text once.

    Args:
        student_BM, teacher_BM: scores of B queries against all passages.
        keys_M: int64 [M], equal for equal texts.
    """
    again_M = (keys_M[:, None] == keys_M[None, :]).triu(1).any(0)
    return distillation(
        student_BM[:, ~again_M], teacher_BM[:, ~again_M], min_max=False, temperature=temperature
    )


def pairwise(student_BW: Tensor) -> Tensor:
    """The mean over the other passages of -log softmax of the first against one of them."""
    return softplus(student_BW[:, 1:] - student_BW[:, :1]).mean()


def in_batch(scores_BM: Tensor, keys_M: Tensor, first: int, n_way: int) -> Tensor:
    """Cross-entropy of each query's positive passage among those of all queries.

    The other passages of its own tuple, and the same texts wherever else they stand, are left out:
    the teacher judges them, and some may well be relevant.

    Args:
        scores_BM: of B queries against all passages.
        keys_M: int64 [M], equal for equal texts.
        first: where the passages of query 0 begin in M; those of the others follow.
        n_way: passages of each query, the positive one first.
    """
    rows = torch.arange(len(scores_BM), device=scores_BM.device)
    labels_B = first + rows * n_way
    own_BW = keys_M[labels_B[:, None] + torch.arange(n_way, device=keys_M.device)]
    left_out_BM = (keys_M[None, :, None] == own_BW[:, None, :]).any(-1)
    left_out_BM[rows, labels_B] = False
    return cross_entropy(scores_BM.masked_fill(left_out_BM, -torch.inf), labels_B)
