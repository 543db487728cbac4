"""Contexts: one vector a passage that all of its tokens share (`codec/contexts.py` makes them).

Shapes: N passages, L query tokens, D dimensions, B packed bytes of a token, X = B + 4.

A context is uint8 [X]: bits along the trellis, as a residual's, then a scale, a little-endian
float32. It decodes as scale · level.
"""

from __future__ import annotations

import numpy as np

from colbert_core.reference.arithmetic import quantise_levels, quantise_query, query_dots
from colbert_core.reference.trellis import windows_of
from colbert_core.types import F32, U8

SCALE_BYTES = 4


def context_bytes(dim: int, bits: int) -> int:
    """X, the bytes of a passage's context."""
    return dim * bits // 8 + SCALE_BYTES


def split_contexts(contexts_NX: U8) -> tuple[U8, F32]:
    """The packed bits uint8 [N, B] and the scales float32 [N] of contexts."""
    scales_N1 = np.ascontiguousarray(contexts_NX[:, -SCALE_BYTES:]).view("<f4")
    return contexts_NX[:, :-SCALE_BYTES], scales_N1[:, 0].astype(np.float32)


def decode_contexts(contexts_NX: U8, bits: int, levels_W: F32, dim: int) -> F32:
    """Contexts uint8 [N, X] → float32 [N, D], in the codec's space."""
    packed_NB, scales_N = split_contexts(contexts_NX)
    decoded_ND: F32 = scales_N[:, None] * levels_W[windows_of(packed_NB, bits, dim)]
    return decoded_ND


def query_sum(Q_LD: F32) -> F32:
    """The sum of a query's tokens, float32 [D], by ascending token."""
    sum_D = np.zeros(Q_LD.shape[1], np.float32)
    for token_D in Q_LD:
        sum_D = sum_D + token_D
    return sum_D


def context_scores(Q_LD: F32, contexts_NX: U8, bits: int, levels_W: F32) -> F32:
    """What contexts add to MaxSim, float32 [N]: (Σ q) · context.

    The sum is quantised as a query token is, levels are taken for their int8, and a score is
    ((scale · level_step) · dot) · q_scale.
    """
    levels_i8, step = quantise_levels(levels_W)
    planes = quantise_query(query_sum(Q_LD)[None])
    packed_NB, scales_N = split_contexts(contexts_NX)
    windows_ND = windows_of(packed_NB, bits, Q_LD.shape[1])
    dots_N: F32 = query_dots(levels_i8[windows_ND], planes)[:, 0]
    scores_N: F32 = ((scales_N * step) * dots_N) * planes.scales_L[0]
    return scores_N
