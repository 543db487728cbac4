"""Candidates from postings: `_accumulate` and `_candidates` of `reference/shard.py`, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from colbert_core.reference.arithmetic import sum_over_query
from colbert_core.reference.choosing import FINEST_ADDEND, LARGEST_TOTAL, addend_factor
from colbert_core.runs import runs
from colbert_core.torch_kernels.arrays import DeviceArrays
from colbert_core.torch_kernels.select import integer_keys
from colbert_core.types import F32, I32, I64

Probes = tuple[I32, F32]
"""Centroid ids int32 [L, P] and scores float32 [L, P] of one query."""


@dataclass(frozen=True)
class Walk:
    """The posting lists that a batch of queries walks, of one query token after the other.

    Attributes:
        lanes_X: which query token of the batch a list is walked for, ascending from 0.
        starts_X, counts_X: where it begins in the postings, and how long it is.
        addends_X: int32, what it gives to its passages.
        queries: of every lane.
    """

    lanes_X: I64
    starts_X: I64
    counts_X: I64
    addends_X: I32
    queries: I64

    @classmethod
    def plan(cls, arrays: DeviceArrays, probes: Sequence[Probes]) -> Walk:
        ids_X = np.concatenate([ids_LP.ravel() for ids_LP, _ in probes])
        starts_X = arrays.posting_offsets_C1[ids_X]
        tokens = [len(ids_LP) for ids_LP, _ in probes]
        widths = np.repeat([ids_LP.shape[1] for ids_LP, _ in probes], tokens)
        return cls(
            np.repeat(np.arange(len(widths)), widths),
            starts_X,
            arrays.posting_offsets_C1[ids_X + 1] - starts_X,
            np.concatenate([addends(scores_LP).ravel() for _, scores_LP in probes]),
            np.repeat(np.arange(len(probes)), tokens),
        )


def accumulate(
    arrays: DeviceArrays,
    probes: Sequence[Probes],
    allowed_N: torch.Tensor | None,
    budget: int,
) -> torch.Tensor:
    """The integer total of every passage, int32 [B, N]; 0 where no probe touches it.

    A query token gives a passage the addend of the first of its probes that holds it. Addends
    fall from probe to probe, so that is the largest of them, and a maximum has no order.
    """
    device, passages = arrays.codes_T.device, len(arrays.offsets_N1) - 1
    walk = Walk.plan(arrays, probes)
    totals_BN = torch.zeros((len(probes), passages), dtype=torch.int32, device=device)
    together = max(1, budget // (16 * max(1, passages)))
    for lane in range(0, len(walk.queries), together):
        queries = torch.tensor(walk.queries[lane : lane + together], device=device)
        gains = torch.zeros(len(queries) * passages, dtype=torch.int32, device=device)
        first, last = np.searchsorted(walk.lanes_X, (lane, lane + together))
        for start, stop in runs(walk.counts_X[first:last], budget // 48):
            _offer(gains, arrays, walk, slice(first + start, first + stop), lane)
        totals_BN.index_add_(0, queries, gains.view(len(queries), passages))
    if allowed_N is not None:
        totals_BN *= allowed_N
    return totals_BN


def _offer(
    gains: torch.Tensor, arrays: DeviceArrays, walk: Walk, some: slice, first_lane: int
) -> None:
    """Raise the gains of the passages of some lists to these lists' addends.

    Args:
        gains: int32, N for each lane from `first_lane` on.
    """
    device, passages = gains.device, len(arrays.offsets_N1) - 1
    counts_X = walk.counts_X[some]
    total = int(counts_X.sum())
    list_E = torch.repeat_interleave(torch.tensor(counts_X, device=device), output_size=total)
    shifts_X = walk.starts_X[some] - (np.cumsum(counts_X) - counts_X)
    at_E = torch.tensor(shifts_X, device=device)[list_E] + torch.arange(total, device=device)
    into_E = torch.tensor((walk.lanes_X[some] - first_lane) * passages, device=device)[list_E]
    into_E += arrays.postings_E[at_E]
    addends_E = torch.tensor(walk.addends_X[some], device=device)[list_E]
    gains.scatter_reduce_(0, into_E, addends_E, "amax")


def addends(scores_LP: F32) -> I32:
    """What a passage gains through each probe, int32 [L, P], in integer units."""
    gains_LP = (scores_LP - scores_LP[:, -1:]) * addend_factor(scores_LP)
    addends_LP: I32 = (1 + np.minimum(np.rint(gains_LP), FINEST_ADDEND)).astype(np.int32)
    return addends_LP


def slack(scores_LP: F32, margin: float, length: np.float32) -> int:
    """How far behind the k-th best a candidate of a query so long may be, in integer units."""
    factor = addend_factor(scores_LP)
    with np.errstate(over="ignore", invalid="ignore"):
        units = np.float32(margin) * length * factor
    return int(units) if factor > 0 and units < LARGEST_TOTAL else LARGEST_TOTAL


def choose(
    totals_BN: torch.Tensor, wanted: int, candidates: int, slack_B: I64
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best candidates of every query, int64 [B, K], -1 where there are fewer, and their totals.

    Args:
        wanted: the rank of the candidate that the margin counts from.
        candidates: at most so many, at least `wanted`.
        slack_B: what `slack` says for each query.
    """
    device, passages = totals_BN.device, totals_BN.shape[1]
    pids_N = torch.arange(passages, device=device)
    order_BK = integer_keys(totals_BN, pids_N).topk(min(candidates, passages), dim=1).indices
    best_BK = totals_BN.gather(1, order_BK)
    least_B1 = best_BK[:, wanted - 1, None] - torch.tensor(slack_B, device=device)[:, None]
    return order_BK.masked_fill((best_BK == 0) | (best_BK < least_B1), -1), best_BK


def estimates(totals_BK: torch.Tensor, scores: Sequence[F32]) -> torch.Tensor:
    """Estimated scores, float32 [B, K], of integer totals (`_estimates`).

    Args:
        scores: of the probes, float32 [L, P] for each query.
    """
    device = totals_BK.device
    bases_B = np.array([sum_over_query(scores_LP[:, -1]) for scores_LP in scores])
    factors_B = np.array([addend_factor(scores_LP) for scores_LP in scores])
    divisors_B = np.where(factors_B > 0, factors_B, np.float32(np.inf))  # then all gains are 0
    gains_BK = totals_BK.float() / torch.tensor(divisors_B, device=device)[:, None]
    return torch.tensor(bases_B, device=device)[:, None] + gains_BK
