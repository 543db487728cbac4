"""Contexts: what the residuals of a passage's tokens have in common.

Shapes: N passages, T tokens, D dimensions, W = 64 levels, X bytes of a context
(`reference/contexts.py`).

A contextual encoder moves all tokens of a passage the same way: a quarter of what centroids leave
of them is one vector a passage, the mean of their residuals. It is stored once, as a residual is,
by bits along the trellis, and a scale; and tokens are compressed as what it leaves. A passage's
MaxSim is then the tokens' own plus (Σ q) · context, since what all tokens share does not change
which is the best: one product a passage, in precise scoring and in centroid interaction alike.
docs/decisions/codec.md has what it gains.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from colbert_core import hardware, kernels
from colbert_core.errors import InvalidInput
from colbert_core.reference.residuals import strided_sums
from colbert_core.reference.trellis import windows_of
from colbert_core.types import F32, I32, U8


def check_doclens(doclens_N: I32, tokens: int) -> None:
    """Refuse lengths that do not cut so many tokens into passages.

    Raises:
        InvalidInput: they do not add up, or a passage has no token.
    """
    total = int(doclens_N.sum(dtype=np.int64))
    if total != tokens or (len(doclens_N) and int(doclens_N.min()) < 1):
        raise InvalidInput(
            f"{len(doclens_N)} passages with {total} token vectors do not fit {tokens} vectors, or "
            "one of them has none; give each passage's length, at least 1"
        )


def mean_residuals(residuals_TD: F32, doclens_N: I32) -> F32:
    """The mean over the tokens of each passage, float32 [N, D].

    A sum a passage: `np.add.reduceat` does the same twenty times as slowly.
    """
    ends_N = np.cumsum(doclens_N, dtype=np.int64)
    means_ND = np.empty((len(doclens_N), residuals_TD.shape[1]), np.float32)
    for pid, (start, end) in enumerate(pairwise([0, *ends_N.tolist()])):
        np.add.reduce(residuals_TD[start:end], axis=0, out=means_ND[pid])
    means_ND /= doclens_N[:, None].astype(np.float32)
    return means_ND


def encode_contexts(means_ND: F32, bits: int, levels_W: F32) -> U8:
    """Mean residuals → uint8 [N, X]: bits for the mean divided by its root mean square, and the
    scale of least squared error with their levels."""
    dim = means_ND.shape[1]
    squares_N1 = strided_sums(means_ND * means_ND) / np.float32(dim)
    unit_ND = means_ND / np.maximum(np.sqrt(squares_N1), np.float32(1e-6))
    packed_NB = kernels.best_bits(
        np.ascontiguousarray(unit_ND, np.float32), bits, levels_W, hardware.threads()
    )
    chosen_ND = levels_W[windows_of(packed_NB, bits, dim)]
    lengths_N1 = np.maximum(strided_sums(chosen_ND * chosen_ND), np.float32(1e-12))
    scales_N1 = strided_sums(means_ND * chosen_ND) / lengths_N1
    scale_bytes = np.ascontiguousarray(scales_N1, "<f4").view(np.uint8)
    return np.concatenate([packed_NB, scale_bytes], axis=1)
