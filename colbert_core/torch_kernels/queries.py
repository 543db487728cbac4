"""A batch of queries on a device, padded to the longest with tokens that add nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from colbert_core.reference.arithmetic import (
    CoarseQuery,
    coarse_query,
    quantise_query,
    query_length,
    row_scales,
)
from colbert_core.reference.contexts import query_sum
from colbert_core.types import F32, AnyArray


@dataclass(frozen=True)
class QueryBatch:
    """B queries of up to L tokens. What a shorter one lacks is zeros: its vectors, so that its
    products are 0, and its scales and steps, so that it adds 0 to a sum.

    Attributes:
        Q_BDL: float32 [B, D, L].
        planes_BDX: float32 [B, D, 2·L], the int8 planes of `quantise_query`, high, then low.
        coarse_DBL: float32 [D, B, L], the plane of `coarse_query`.
        scales_BL: float32, of the two planes.
        gains_BL, steps_BL: float32, from dot products to int16 rows, and from these to scores.
        sum_planes_BDX: float32 [B, D, 2], the planes of the sum of each query's tokens.
        sum_scales_B: float32, of these.
        lengths_B: `query_length` of each, on the host.
    """

    Q_BDL: torch.Tensor
    planes_BDX: torch.Tensor
    coarse_DBL: torch.Tensor
    scales_BL: torch.Tensor
    gains_BL: torch.Tensor
    steps_BL: torch.Tensor
    sum_planes_BDX: torch.Tensor
    sum_scales_B: torch.Tensor
    lengths_B: F32

    def __len__(self) -> int:
        return len(self.scales_BL)

    @property
    def lanes(self) -> int:
        """L, padding included."""
        return self.scales_BL.shape[1]


def make_batch(queries: Sequence[F32], longest: float, device: torch.device) -> QueryBatch:
    """Quantise queries, float32 [L, D] each, and bring them to the device.

    Args:
        longest: length of the longest centroid, which int16 rows are made to fit.
    """
    tokens_B = np.array([len(Q_LD) for Q_LD in queries])
    used_BL = np.arange(tokens_B.max()) < tokens_B[:, None]

    def padded(values_XD: AnyArray) -> torch.Tensor:
        """All queries' tokens in a row, [X, …] → float32 [B, L, …]."""
        values_BLD = np.zeros((*used_BL.shape, *values_XD.shape[1:]), np.float32)
        values_BLD[used_BL] = values_XD
        return torch.tensor(values_BLD, device=device)

    Q_XD = np.concatenate(queries)
    planes, coarse = quantise_query(Q_XD), coarse_query(Q_XD)
    gains_X, steps_X = row_scales(coarse, longest)
    high_BLD, low_BLD = padded(planes.high_LD), padded(planes.low_LD)
    sums = quantise_query(np.stack([query_sum(Q_LD) for Q_LD in queries]))
    sum_planes_BDX = np.stack([sums.high_LD, sums.low_LD], axis=2).astype(np.float32)
    return QueryBatch(
        Q_BDL=padded(Q_XD).transpose(1, 2).contiguous(),
        planes_BDX=torch.cat([high_BLD, low_BLD], dim=1).transpose(1, 2).contiguous(),
        coarse_DBL=padded(coarse.values_LD).permute(2, 0, 1).contiguous(),
        scales_BL=padded(planes.scales_L),
        gains_BL=padded(gains_X),
        steps_BL=padded(steps_X),
        sum_planes_BDX=torch.tensor(sum_planes_BDX, device=device),
        sum_scales_B=torch.tensor(sums.scales_L, device=device),
        lengths_B=_lengths(coarse, np.cumsum(tokens_B)),
    )


def _lengths(query: CoarseQuery, ends_B: AnyArray) -> F32:
    """Of the queries whose tokens end there."""
    parts = zip(*(np.split(values, ends_B[:-1]) for values in query), strict=True)
    return np.array([query_length(CoarseQuery(*part)) for part in parts], np.float32)
