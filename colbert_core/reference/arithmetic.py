"""Quantising, unpacking, dot products and sums: the definitions that every kernel follows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from colbert_core.types import F32, I8, U8

SMALLEST_NORMAL = np.float32(np.finfo(np.float32).tiny)


COARSE_MOST = 32
"""The largest magnitude of a coarse query: four of its products with bytes add up within an int16,
which is what processors without better instructions multiply bytes in."""

LOW_STEPS = np.float32(256)
"""Steps of a query's low plane in one of its high plane. A power of two: the sums of both planes
are floats without rounding, so that kernels may as well multiply the int16 256 · high + low."""


LARGEST_ROW = np.float32(32000)  # of an int16, with room for rounding


class QuantisedQuery(NamedTuple):
    """A query as two int8 planes, q ≈ (high + low / 256) · scale: 16 bits in all.

    Attributes:
        high_LD, low_LD: int8 [L, D] in ±127.
        scales_L: float32 [L].
    """

    high_LD: I8
    low_LD: I8
    scales_L: F32


class CoarseQuery(NamedTuple):
    """A query as one int8 plane, q ≈ values · scale: for probing and centroid interaction, which
    take tokens for their centroids and so are far rougher than it is.

    Attributes:
        values_LD: int8 [L, D] in ±32.
        scales_L: float32 [L].
    """

    values_LD: I8
    scales_L: F32


def quantise_query(Q_LD: F32) -> QuantisedQuery:
    """float32 [L, D] → its planes. A token of a subnormal scale becomes zeros with scale 0."""
    values_LD, scales_L = _scaled(Q_LD, 127)
    high_LD = np.clip(np.rint(values_LD), -127, 127)
    low_LD = np.clip(np.rint((values_LD - high_LD) * LOW_STEPS), -127, 127)
    return QuantisedQuery(high_LD.astype(np.int8), low_LD.astype(np.int8), scales_L)


def coarse_query(Q_LD: F32) -> CoarseQuery:
    """float32 [L, D] → its coarse plane; likewise."""
    values_LD, scales_L = _scaled(Q_LD, COARSE_MOST)
    values_LD = np.clip(np.rint(values_LD), -COARSE_MOST, COARSE_MOST)
    return CoarseQuery(values_LD.astype(np.int8), scales_L)


def _scaled(Q_LD: F32, most: int) -> tuple[F32, F32]:
    """Each token's largest magnitude at `most`, float32 [L, D]; and what it is multiplied by."""
    scales_L: F32 = np.abs(Q_LD).max(axis=1) / np.float32(most)
    scales_L[scales_L < SMALLEST_NORMAL] = 0
    divisor_L1: F32 = np.where(scales_L == 0, np.float32(1), scales_L)[:, None]
    values_LD: F32 = Q_LD / divisor_L1
    values_LD[scales_L == 0] = 0
    return values_LD, scales_L


def query_length(query: CoarseQuery) -> np.float32:
    """√Σ‖q‖² over the query's tokens, about √L where all are of unit length.

    What margins are counted in: the error of a sum over tokens, each of which counts as much as it
    is long. Added token by token, so that every path has the same bits.
    """
    squares_L = np.sum(query.values_LD.astype(np.int64) ** 2, axis=1).astype(np.float64)
    scales_L = query.scales_L.astype(np.float64)
    return np.float32(np.sqrt(np.cumsum(squares_L * scales_L * scales_L)[-1]))


def row_scales(query: CoarseQuery, longest: float) -> tuple[F32, F32]:
    """Of the int16 rows of centroid interaction, for each query token, float32 [L]: what a dot
    product times a centroid's scale is multiplied by, and what a row's step is worth.

    The longest centroid (`longest`) in the token's direction gets 32,000.
    """
    longest_L = np.sqrt(np.sum(query.values_LD.astype(np.float64) ** 2, axis=1)) * longest
    used_L = longest_L > 0
    divisor_L = np.where(used_L, longest_L, 1).astype(np.float32)
    gains_L = np.where(used_L, LARGEST_ROW / divisor_L, np.float32(0))
    steps_L = np.where(used_L, query.scales_L / np.where(used_L, gains_L, 1), np.float32(0))
    return gains_L, steps_L


def integer_dots(rows_RD: I8, queries_LD: I8) -> F32:
    """Exact int8 dot products as float32 [R, L]; |dot| ≤ 128·127·1024 < 2^24, so all are exact."""
    dots_RL: F32 = (rows_RD.astype(np.float32) @ queries_LD.astype(np.float32).T).astype(np.float32)
    return dots_RL


def query_dots(rows_RD: I8, query: QuantisedQuery) -> F32:
    """float32 [R, L]: int8 rows times both planes of the query."""
    low_RL = integer_dots(rows_RD, query.low_LD) * (np.float32(1) / LOW_STEPS)
    return integer_dots(rows_RD, query.high_LD) + low_RL


def centroid_scores(codes_RD: I8, scales_R: F32, query: CoarseQuery) -> F32:
    """float32 [R, L]: dot · (q_scale · c_scale)."""
    dots_RL = integer_dots(codes_RD, query.values_LD)
    result_RL: F32 = dots_RL * (query.scales_L[None, :] * scales_R[:, None])
    return result_RL


def unpack_residuals(packed_TB: U8, bits: int, dim: int) -> U8:
    """Planes of uint8 [T, B] → indices uint8 [T, D].

    In a w-bit plane of n = D·w/8 bytes, field j (bits j·w …) of byte i is dimension i + j·n.
    """
    indices_TD = np.zeros((len(packed_TB), dim), np.uint8)
    first = 0
    for width, shift in ((2, 0), (1, 2)) if bits == 3 else ((bits, 0),):
        n = dim * width // 8
        plane_Tn = packed_TB[:, first : first + n]
        for j in range(8 // width):
            field_Tn = (plane_Tn >> (j * width)) & ((1 << width) - 1)
            indices_TD[:, j * n : (j + 1) * n] |= field_Tn << shift
        first += n
    return indices_TD


def quantise_levels(levels: F32) -> tuple[I8, np.float32]:
    """float32 levels → int8 and a step, the largest level at ±127: level ≈ level_i8 · step."""
    step = np.float32(np.abs(levels).max() / np.float32(127))
    if step < SMALLEST_NORMAL:
        return np.zeros(len(levels), np.int8), np.float32(0)
    return np.clip(np.rint(levels / step), -127, 127).astype(np.int8), step


def inverse_norms(vectors_TD: F32) -> F32:
    """1/‖v‖ as float32 [T, 1], 0 for a zero vector.

    The squares are summed in 16 strided parts (d mod 16), each by ascending d, and the parts are
    added in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    """
    tokens, dim = vectors_TD.shape
    padded_TD = np.zeros((tokens, -(-dim // 16) * 16), np.float32)
    padded_TD[:, :dim] = vectors_TD * vectors_TD
    parts_TW = np.zeros((tokens, 16), np.float32)
    for chunk_TW in padded_TD.reshape(tokens, -1, 16).transpose(1, 0, 2):
        parts_TW = parts_TW + chunk_TW
    for half in (8, 4, 2, 1):
        parts_TW = parts_TW[:, :half] + parts_TW[:, half : 2 * half]
    norms_T1 = np.sqrt(parts_TW)
    with np.errstate(divide="ignore"):
        return np.where(norms_T1 > 0, np.float32(1) / norms_T1, np.float32(0))


def precise_dots(vectors_TD: F32, Q_LD: F32) -> F32:
    """float32 [T, L]: dot products summed by ascending d."""
    dots_TL = np.zeros((len(vectors_TD), len(Q_LD)), np.float32)
    for d in range(Q_LD.shape[1]):
        dots_TL += vectors_TD[:, d, None] * Q_LD[None, :, d]
    return dots_TL


def sum_over_query(best_L: F32) -> np.float32:
    """The sum by ascending query token."""
    total = np.float32(0)
    for best in best_L:
        total = total + best
    return total
