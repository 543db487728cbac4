"""Scoring pairs of query and passage: centroid interaction, and precise MaxSim.

A batch of pairs is cut so that what is gathered and decoded of their tokens fits a budget of
bytes; the decoded vectors of a shard are never all there at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from colbert_core.reference.arithmetic import quantise_levels
from colbert_core.reference.arrays import scores_are_integers
from colbert_core.reference.checks import check_deadline
from colbert_core.runs import runs
from colbert_core.torch_kernels.arrays import DeviceArrays
from colbert_core.torch_kernels.contexts import LOW_PART, ContextScorer
from colbert_core.torch_kernels.device import expand, upload
from colbert_core.torch_kernels.queries import QueryBatch
from colbert_core.torch_kernels.residuals import residual_levels
from colbert_core.torch_kernels.table import TorchTable
from colbert_core.types import F32, I64


@dataclass(frozen=True)
class Chunk:
    """Some pairs, ordered by query, and all tokens of their passages.

    Attributes:
        rows_M, columns_M: int64, where the M pairs stand in pids_BK; the row is the query.
        pids_M: int64, their passages.
        lengths_M: int64, tokens of each passage.
        tokens_T: int64, every token of every passage.
        spans: (query, first, last + 1) of the runs of tokens that meet one query.
    """

    rows_M: torch.Tensor
    columns_M: torch.Tensor
    pids_M: torch.Tensor
    lengths_M: torch.Tensor
    tokens_T: torch.Tensor
    spans: list[tuple[int, int, int]]


def chunks(pids_BK: torch.Tensor, offsets_N1: I64, most_tokens: int) -> Iterator[Chunk]:
    """Cut the pairs of pids_BK (-1 is none) into chunks of at most so many tokens."""
    device, host_BK = pids_BK.device, pids_BK.cpu().numpy()
    rows, columns = np.nonzero(host_BK >= 0)
    pids = host_BK[rows, columns]
    starts, lengths = offsets_N1[pids], offsets_N1[pids + 1] - offsets_N1[pids]
    for first, last in runs(lengths, most_tokens):
        some = slice(first, last)
        ends = np.cumsum(lengths[some])
        turns = np.flatnonzero(np.diff(rows[some])) + 1
        cuts = [0, *turns.tolist(), last - first]
        spans = [
            (int(rows[first + a]), int(ends[a - 1]) if a else 0, int(ends[b - 1]))
            for a, b in pairwise(cuts)
        ]
        yield Chunk(
            torch.tensor(rows[some], device=device),
            torch.tensor(columns[some], device=device),
            torch.tensor(pids[some], device=device),
            torch.tensor(lengths[some], device=device),
            expand(starts[some], lengths[some], device),
            spans,
        )


def best_tokens(scores_TL: torch.Tensor, lengths_M: torch.Tensor) -> torch.Tensor:
    """The largest score of every passage by every query token, [M, L]; passages have tokens."""
    return torch.segment_reduce(scores_TL, "max", lengths=lengths_M, axis=0, unsafe=True)


def sum_over_query(best_ML: torch.Tensor) -> torch.Tensor:
    """The sum by ascending query token, one after the other: other orders round otherwise."""
    total_M = torch.zeros(len(best_ML), device=best_ML.device)
    for best_M in best_ML.t().contiguous():
        total_M = total_M + best_M
    return total_M


def interact(
    table: TorchTable,
    arrays: DeviceArrays,
    batch: QueryBatch,
    pids_BK: torch.Tensor,
    contexts: ContextScorer,
    budget: int,
    deadline_s: float,
) -> torch.Tensor:
    """MaxSim, float32 [B, K], with every token taken for its centroid (`_interact`)."""
    scores_BK = torch.zeros(pids_BK.shape, device=pids_BK.device)
    row_bytes = 4 * batch.lanes
    group = max(1, budget // (3 * row_bytes * table.centroids))
    for first in range(0, len(batch), group):
        some = slice(first, first + group)
        rows_XL = table.rows(batch.coarse_DBL[:, some], batch.gains_BL[some])
        queries = len(batch.gains_BL[some])
        for chunk in chunks(pids_BK[some], arrays.offsets_N1, budget // (2 * row_bytes + 32)):
            check_deadline(deadline_s, "centroid interaction")
            row_T = torch.repeat_interleave(
                chunk.rows_M, chunk.lengths_M, output_size=len(chunk.tokens_T)
            )
            row_T += arrays.codes_T[chunk.tokens_T].long() * queries
            best_ML = best_tokens(rows_XL.index_select(0, row_T), chunk.lengths_M)
            query_M = chunk.rows_M + first
            totals_M = sum_over_query(best_ML * batch.steps_BL[query_M])
            totals_M = contexts.added_to(totals_M, batch, query_M, chunk.pids_M)
            scores_BK[query_M, chunk.columns_M] = totals_M
    return scores_BK


class PreciseScorer:
    """MaxSim of decoded vectors (`_precise`): in integers where centroids and levels lie on their
    int8 grids (`tartan`), otherwise in float32.

    Args: those of `reference.Shard`.
    """

    def __init__(
        self,
        table: TorchTable,
        arrays: DeviceArrays,
        bits: int,
        levels: F32,
        alpha: F32,
        beta: F32,
        centroids_f32: F32 | None,
        normalize: bool,
    ) -> None:
        device = table.device
        self.table, self.arrays, self.bits, self.normalize = table, arrays, bits, normalize
        levels_i8, step = quantise_levels(levels)
        self.on_grid = scores_are_integers(levels, centroids_f32, normalize)
        self.levels = upload(levels_i8.astype(np.float32) if self.on_grid else levels, device)
        self.alpha = upload(alpha, device)
        self.beta = upload(beta * step if self.on_grid else beta, device)
        self.centroids_CD = None if centroids_f32 is None else upload(centroids_f32, device)
        self.contexts = ContextScorer(arrays, bits, levels, device)

    def score(
        self, batch: QueryBatch, pids_BK: torch.Tensor, budget: int, deadline_s: float
    ) -> torch.Tensor:
        """float32 [B, K], 0 where pids_BK has -1."""
        scores_BK = torch.zeros(pids_BK.shape, device=pids_BK.device)
        token_bytes = 16 * self.table.dim + 24 * batch.lanes + 64
        token_scores = self._integer_scores if self.on_grid else self._float_scores
        for chunk in chunks(pids_BK, self.arrays.offsets_N1, budget // token_bytes):
            check_deadline(deadline_s, "precise scoring")
            best_ML = best_tokens(token_scores(batch, chunk), chunk.lengths_M)
            if self.on_grid:
                best_ML = best_ML * batch.scales_BL[chunk.rows_M]
            totals_M = sum_over_query(best_ML)
            if self.on_grid:
                totals_M = self.contexts.added_to(totals_M, batch, chunk.rows_M, chunk.pids_M)
            scores_BK[chunk.rows_M, chunk.columns_M] = totals_M
        return scores_BK

    def _integer_scores(self, batch: QueryBatch, chunk: Chunk) -> torch.Tensor:
        """float32 [T, L] for `_scan`: int8 products, exact in float32, of both planes at once."""
        codes_T = self.arrays.codes_T[chunk.tokens_T]
        scales_T = self.arrays.scales_T[chunk.tokens_T].int()
        centroid_weights_T = self.alpha[scales_T] * self.table.scales_C[codes_T]
        centroids_TD = self.table.integers_CD.index_select(0, codes_T)
        scores_TL = centroid_weights_T[:, None] * _plane_dots(centroids_TD, batch, chunk)
        level_dots_TL = _plane_dots(self._levels(chunk), batch, chunk)
        return scores_TL + self.beta[scales_T][:, None] * level_dots_TL

    def _float_scores(self, batch: QueryBatch, chunk: Chunk) -> torch.Tensor:
        """float32 [T, L]: vectors decoded bit for bit, products summed in the device's order."""
        codes_T = self.arrays.codes_T[chunk.tokens_T]
        scales_T = self.arrays.scales_T[chunk.tokens_T].int()
        if self.centroids_CD is not None:
            centroids_TD = self.centroids_CD.index_select(0, codes_T)
        else:
            integers_TD = self.table.integers_CD.index_select(0, codes_T)
            centroids_TD = integers_TD * self.table.scales_C[codes_T][:, None]
        vectors_TD = self.alpha[scales_T][:, None] * centroids_TD
        vectors_TD = vectors_TD + self.beta[scales_T][:, None] * self._levels(chunk)
        if self.arrays.contexts_NB is not None:
            vectors_TD = vectors_TD + torch.repeat_interleave(
                self.contexts.decoded(chunk.pids_M, self.table.dim),
                chunk.lengths_M,
                0,
                output_size=len(codes_T),
            )
        if self.normalize:
            norms_T1 = vectors_TD.norm(dim=1, keepdim=True)
            vectors_TD = torch.where(norms_T1 > 0, vectors_TD / norms_T1, 0.0)
        return _dots(vectors_TD, batch.Q_BDL, chunk)

    def _levels(self, chunk: Chunk) -> torch.Tensor:
        packed_TB = self.arrays.residuals_TB.index_select(0, chunk.tokens_T)
        return residual_levels(packed_TB, self.bits, self.table.dim, self.levels)


def _dots(rows_TD: torch.Tensor, queries_BDX: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    """float32 [T, X]: every row times its own query."""
    dots_TX = torch.empty((len(rows_TD), queries_BDX.shape[2]), device=rows_TD.device)
    for query, first, last in chunk.spans:
        torch.mm(rows_TD[first:last], queries_BDX[query], out=dots_TX[first:last])
    return dots_TX


def _plane_dots(rows_TD: torch.Tensor, batch: QueryBatch, chunk: Chunk) -> torch.Tensor:
    """float32 [T, L]: int8 rows times both planes of their query (`query_dots`).

    Exact in any order: no sum passes 1024 · 128 · 127 < 2^24.
    """
    high_TL, low_TL = _dots(rows_TD, batch.planes_BDX, chunk).chunk(2, dim=1)
    return high_TL + low_TL * LOW_PART
