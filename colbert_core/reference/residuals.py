"""Residuals to packed bits and scale bytes: the definitions of what a codec stores.

Shapes: T tokens, D dimensions, C centroids, B packed bytes of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from colbert_core.reference import trellis
from colbert_core.reference.checks import check_array, require, require_dim
from colbert_core.types import F32, I32, U8

PLANES: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((1, 0),),
    2: ((2, 0),),
    3: ((2, 0), (1, 2)),
    4: ((4, 0),),
}
"""bits → ((width of the plane, position of its lowest bit in the index), …)"""

_ROWS = 1024


def pack_planes(indices_TD: U8, bits: int) -> U8:
    """uint8 [T, D] indices below 2^bits → uint8 [T, B]."""
    tokens, dim = indices_TD.shape
    planes = []
    for width, shift in PLANES[bits]:
        fields = 8 // width
        values = (indices_TD >> shift) & ((1 << width) - 1)
        byte_fields = values.reshape(tokens, fields, dim // fields)
        plane = np.zeros((tokens, dim // fields), np.uint8)
        for j in range(fields):
            plane |= byte_fields[:, j] << (j * width)
        planes.append(plane)
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=1)


def strided_sums(values_TD: F32) -> F32:
    """float32 [T, 1]: sums over dimensions in 16 strided parts (d mod 16), each by ascending d,
    which are then added in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1."""
    tokens, dim = values_TD.shape
    padded_TD = np.zeros((tokens, -(-dim // 16) * 16), np.float32)
    padded_TD[:, :dim] = values_TD
    parts_TW = np.zeros((tokens, 16), np.float32)
    for chunk_TW in padded_TD.reshape(tokens, -1, 16).transpose(1, 0, 2):
        parts_TW = parts_TW + chunk_TW
    for half in (8, 4, 2, 1):
        parts_TW = parts_TW[:, :half] + parts_TW[:, half : 2 * half]
    return parts_TW


def cells_of(values: F32, cutoffs: F32) -> U8:
    """The cell of every value: as many cutoffs as lie below it."""
    cells: U8 = np.searchsorted(cutoffs, values, side="left").astype(np.uint8)
    return cells


BestBits = Callable[[F32, int, F32], U8]


def fit_ratios(
    levels_W: F32,
    bits: int,
    residuals_TD: F32,
    best_bits: BestBits = trellis.best_bits,
) -> F32:
    """What levels are best multiplied by, float32 [T].

    Bits are chosen for the residual divided by its root mean square; the ratio is the scale of
    least squared error with those.
    """
    dim = residuals_TD.shape[1]
    mean_T1 = strided_sums(residuals_TD * residuals_TD) / np.float32(dim)
    scale_T1 = np.maximum(np.sqrt(mean_T1), np.float32(1e-6))
    packed_TB = best_bits(residuals_TD * (np.float32(1) / scale_T1), bits, levels_W)
    chosen_TD = levels_W[trellis.windows_of(packed_TB, bits, dim)]
    lengths_T1 = np.maximum(strided_sums(chosen_TD * chosen_TD), np.float32(1e-12))
    fit_T1 = strided_sums(residuals_TD * chosen_TD) / lengths_T1
    ratio_T1: F32 = np.maximum(fit_T1, np.float32(1e-6))
    return ratio_T1[:, 0]


def fit_tartan(
    levels_W: F32,
    bits: int,
    vectors_TD: F32,
    centroids_TD: F32,
    ratio_steps: F32,
    best_bits: BestBits = trellis.best_bits,
) -> tuple[U8, U8, F32]:
    """Packed bits uint8 [T, B], the step of the ratio uint8 [T] and the gain float32 [T] with which
    a token decodes best, as gain · (centroid + ratio · level).

    Bits are chosen for the step nearest to the fitted ratio. The gain makes the decoded vector as
    long as the vector is.
    """
    residuals_TD = vectors_TD - centroids_TD
    steps_T = _nearest(fit_ratios(levels_W, bits, residuals_TD, best_bits), ratio_steps)
    ratio_T1: F32 = np.maximum(ratio_steps[steps_T, None], np.float32(1e-6))
    packed_TB = best_bits(residuals_TD * (np.float32(1) / ratio_T1), bits, levels_W)
    chosen_TD = levels_W[trellis.windows_of(packed_TB, bits, vectors_TD.shape[1])]
    lengths_T1 = _norms(centroids_TD + residuals_TD)
    gain_T1: F32 = lengths_T1 / _norms(centroids_TD + ratio_T1 * chosen_TD)
    return packed_TB, steps_T, gain_T1[:, 0]


def _nearest(values_T: F32, steps: F32) -> U8:
    return cells_of(values_T, (steps[1:] + steps[:-1]) / np.float32(2))


def _norms(vectors_TD: F32) -> F32:
    return np.maximum(np.sqrt(strided_sums(vectors_TD * vectors_TD)), np.float32(1e-6))


def quantise_tartan(
    vectors_TD: F32,
    codes_T: I32,
    centroids_CD: F32,
    bits: int,
    levels: F32,
    ratio_steps: F32,
    gain_steps: F32,
    threads: int = 1,
) -> tuple[U8, U8]:
    """Float32 [T, D] and their codes → packed bits uint8 [T, B], scale bytes uint8 [T].

    `levels` are the 64 of the trellis. The low three bits of a scale byte say which of the 8 steps
    is nearest to the token's ratio, the high five which of 32 is nearest to its gain.
    """
    _check(vectors_TD, codes_T, centroids_CD, bits, threads)
    _check_sizes(
        ("levels", levels, trellis.WINDOWS),
        ("ratio_steps", ratio_steps, 8),
        ("gain_steps", gain_steps, 32),
    )
    packed_TB = np.empty((len(vectors_TD), vectors_TD.shape[1] * bits // 8), np.uint8)
    scales_T = np.empty(len(vectors_TD), np.uint8)
    for start in range(0, len(vectors_TD), _ROWS):
        rows = slice(start, start + _ROWS)
        packed_TB[rows], steps_T, gain_T = fit_tartan(
            levels, bits, vectors_TD[rows], centroids_CD[codes_T[rows]], ratio_steps
        )
        scales_T[rows] = steps_T | _nearest(gain_T, gain_steps) << 3
    return packed_TB, scales_T


def quantise_colbertv2(
    vectors_TD: F32,
    codes_T: I32,
    centroids_CD: F32,
    bits: int,
    levels: F32,
    cutoffs: F32,
    lowest: float,
    steps: float,
    threads: int = 1,
) -> tuple[U8, U8]:
    """Float32 [T, D] and their codes → packed indices uint8 [T, B], scale bytes uint8 [T].

    A scale byte is the inverse norm of the decoded vector: byte 0 is `lowest`, and a unit has
    `steps` bytes.
    """
    _check(vectors_TD, codes_T, centroids_CD, bits, threads)
    _check_sizes(("levels", levels, 1 << bits), ("cutoffs", cutoffs, (1 << bits) - 1))
    packed_TB = np.empty((len(vectors_TD), vectors_TD.shape[1] * bits // 8), np.uint8)
    scales_T = np.empty(len(vectors_TD), np.uint8)
    for start in range(0, len(vectors_TD), _ROWS):
        rows = slice(start, start + _ROWS)
        centroids_TD = centroids_CD[codes_T[rows]]
        indices_TD = cells_of(vectors_TD[rows] - centroids_TD, cutoffs)
        packed_TB[rows] = pack_planes(indices_TD, bits)
        inverse_T = inverse_norms(centroids_TD + levels[indices_TD])
        scales_T[rows] = scale_steps(inverse_T, lowest, steps)
    return packed_TB, scales_T


def inverse_norms(vectors_TD: F32) -> F32:
    """What makes each vector's length one, float32 [T]."""
    inverse_T1: F32 = np.float32(1) / _norms(vectors_TD)
    return inverse_T1[:, 0]


def scale_steps(inverse_T: F32, lowest: float, steps: float) -> U8:
    """The scale bytes of `colbertv2`: the nearest of 256 steps."""
    steps_T = np.rint((inverse_T - np.float32(lowest)) * np.float32(steps))
    scales_T: U8 = np.clip(steps_T, 0, 255).astype(np.uint8)
    return scales_T


def _check(vectors_TD: F32, codes_T: I32, centroids_CD: F32, bits: int, threads: int) -> None:
    check_array("vectors_TD", vectors_TD, 2, "float32")
    require(bits in PLANES, f"bits {bits} must be 1, 2, 3 or 4")
    check_array("codes_T", codes_T, 1, "int32")
    check_array("centroids_CD", centroids_CD, 2, "float32")
    require(len(codes_T) == len(vectors_TD), "codes_T must have one entry for each vector")
    dim = vectors_TD.shape[1]
    require(
        centroids_CD.shape[1] == dim, "vectors_TD and centroids_CD must have the same dimension"
    )
    require(threads >= 1, f"threads {threads} must be at least 1")
    require_dim(dim)
    require(
        bool(((codes_T >= 0) & (codes_T < len(centroids_CD))).all()),
        f"codes must lie below the number of centroids, {len(centroids_CD)}",
    )


def _check_sizes(*tables: tuple[str, F32, int]) -> None:
    for name, table, size in tables:
        check_array(name, table, 1, "float32")
        require(len(table) == size, f"{name} has {len(table)} entries, expected {size}")
