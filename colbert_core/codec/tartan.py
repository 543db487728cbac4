"""Tartan's own codec: rotation, levels along a trellis, and one scale byte per token.

Shapes: T tokens, S sample tokens, D dimensions, C centroids, B packed bytes of a token,
W = 64 levels.

A random rotation makes the residual's components alike and nearly Gaussian, so that one set of
levels is right for all of them. The b bits of a dimension choose among 2^b of 64 levels; which
ones, the bits before decide (reference/trellis.py), and the bits of a token are chosen together. A
token decodes as gain · (centroid + ratio · level): a least-squares ratio absorbs how long its
residual is, and the gain makes it of unit length, as the original was. Both share a byte, three
bits of ratio and five of gain. Levels and centroids lie on int8 grids by definition, so integer
kernels decode exactly what is stored. docs/decisions/codec.md has the measurements, and what did
not help.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from colbert_core import hardware, kernels
from colbert_core.codec.assign import AT_ONCE
from colbert_core.codec.tables import Tables
from colbert_core.reference.residuals import fit_ratios, fit_tartan
from colbert_core.reference.trellis import WINDOW, WINDOWS, windows_of
from colbert_core.types import F32, F64, I8, I32, U8

_LLOYD_ROUNDS = 60
_RATIOS, _GAINS = 8, 32
_LEVEL_ROUNDS = 20
_LEVEL_TOKENS = 4096
"""Sample tokens that the 64 levels are trained on, and of which temporaries are made together."""

_START: dict[int, tuple[float, tuple[int, ...]]] = {
    1: (1.0, (29, 7, 10, 22, 18, 53)),
    2: (1.0, (59, 45, 48, 8, 42, 49)),
    3: (1.0, (13, 5, 4, 46, 17, 52)),
    4: (1.6, (20, 32, 19, 57, 14, 47)),
}
"""bits → where training starts: the deviation of Gaussian quantiles, and which bits of a window are
added without carry to make each bit of the rank of its level, lowest first. Found by trying."""


def rotation(dim: int, seed: int) -> F32:
    """A random orthonormal float32 [D, D] (QR of a Gaussian matrix)."""
    gaussian = np.random.default_rng([seed, dim]).standard_normal((dim, dim))
    return np.ascontiguousarray(np.linalg.qr(gaussian)[0], np.float32)


def quantise_centroids(centroids_CD: F32) -> tuple[I8, F32]:
    """Int8 [C, D] and the float32 [C] that each row is multiplied by."""
    codes_CD: I8 = np.empty(centroids_CD.shape, np.int8)
    scales_C: F32 = np.empty(len(centroids_CD), np.float32)
    for start in range(0, len(centroids_CD), AT_ONCE):
        part_CD = centroids_CD[start : start + AT_ONCE]
        peaks = np.maximum(part_CD.max(axis=1), -part_CD.min(axis=1))
        scales = np.maximum(peaks, 1e-12) / np.float32(127)
        codes_CD[start : start + AT_ONCE] = np.rint(part_CD / scales[:, None])
        scales_C[start : start + AT_ONCE] = scales
    return codes_CD, scales_C


def storable(centroids_CD: F32) -> F32:
    """Centroids as they will be read back from int8."""
    codes_CD, scales_C = quantise_centroids(centroids_CD)
    exact_CD: F32 = codes_CD * scales_C[:, None]
    return exact_CD


def train_tables(vectors_SD: F32, centroids_SD: F32, *, bits: int) -> Tables:
    """Levels from the residuals of a sample (its vectors, the centroid of each), then the two scale
    tables from its scales."""
    first_SD = vectors_SD[:_LEVEL_TOKENS] - centroids_SD[:_LEVEL_TOKENS]
    lengths_S1 = np.sqrt(np.mean(first_SD * first_SD, axis=1, keepdims=True))
    levels = train_levels(first_SD / np.maximum(lengths_S1, 1e-6), bits)
    parts = [
        (vectors_SD[start : start + _LEVEL_TOKENS], centroids_SD[start : start + _LEVEL_TOKENS])
        for start in range(0, len(vectors_SD), _LEVEL_TOKENS)
    ]
    found = [fit_ratios(levels, bits, part - nearest, _best_bits) for part, nearest in parts]
    ratios = _lloyd_steps(np.concatenate(found), _RATIOS)
    fitted = [fit_tartan(levels, bits, *part, ratios, _best_bits)[2] for part in parts]
    alpha = np.repeat(_lloyd_steps(np.concatenate(fitted), _GAINS), _RATIOS)
    return Tables(levels, cutoffs=None, alpha=alpha, beta=alpha * np.tile(ratios, _GAINS))


def train_levels(components_SD: F32, bits: int) -> F32:
    """The levels float32 [64] of little squared error, on an int8 grid, by window.

    Lloyd's algorithm along the trellis; `components_SD` have a mean square of about 1.
    """
    levels_W = _first_levels(bits)
    for _ in range(_LEVEL_ROUNDS):
        packed_SB = _best_bits(components_SD, bits, levels_W)
        windows = windows_of(packed_SB, bits, components_SD.shape[1]).ravel()
        counts_W = np.bincount(windows, minlength=WINDOWS)
        sums_W = np.bincount(windows, components_SD.ravel(), minlength=WINDOWS)
        means_W = sums_W / np.maximum(counts_W, 1)
        levels_W = np.where(counts_W > 0, means_W, levels_W).astype(np.float32)
    step = np.maximum(np.abs(levels_W).max(), 1e-6) / 127
    grid_W: F32 = (np.rint(levels_W / step) * step).astype(np.float32)
    return grid_W


def residual_levels(tables: Tables, packed_TB: U8, bits: int, dim: int) -> F32:
    """Packed bits uint8 [T, B] → the level of every dimension, float32 [T, D]."""
    levels_TD: F32 = tables.levels[windows_of(packed_TB, bits, dim)]
    return levels_TD


def level_count(bits: int) -> int:  # noqa: ARG001
    """Levels of the trellis, at any bits."""
    return WINDOWS


def quantise(
    tables: Tables, vectors_TD: F32, codes_T: I32, centroids_CD: F32, bits: int
) -> tuple[U8, U8]:
    """Rotated vectors and their codes → (packed bits uint8 [T, B], scale bytes uint8 [T])."""
    return kernels.quantise_tartan(
        vectors_TD,
        codes_T,
        centroids_CD,
        bits,
        tables.levels,
        *steps_of(tables),
        hardware.threads(),
    )


def steps_of(tables: Tables) -> tuple[F32, F32]:
    """The ratios float32 [8] and gains float32 [32] that a scale byte selects from."""
    ratios: F32 = tables.beta[:_RATIOS] / tables.alpha[:_RATIOS]
    return ratios, np.ascontiguousarray(tables.alpha[::_RATIOS])


def _best_bits(values_TD: F32, bits: int, levels_W: F32) -> U8:
    return kernels.best_bits(values_TD, bits, levels_W, hardware.threads())


def _first_levels(bits: int) -> F32:
    deviation, masks = _START[bits]
    bits_Wk = np.arange(WINDOWS)[:, None] >> np.arange(WINDOW) & 1
    mixed_Wm = bits_Wk @ (np.array(masks) >> np.arange(WINDOW)[:, None] & 1) % 2
    rank_W = mixed_Wm @ (1 << np.arange(WINDOW))
    gaussian = NormalDist(sigma=deviation)
    quantiles = [gaussian.inv_cdf((rank + 0.5) / WINDOWS) for rank in range(WINDOWS)]
    first_W: F32 = np.array(quantiles, np.float32)[rank_W]
    return first_W


def _lloyd(values: F32, count: int) -> F64:
    """The `count` levels of least squared error, ascending: Lloyd's algorithm in one dimension.

    On sorted values a cell is a slice, so a round costs no more than finding its borders.
    """
    ordered = np.sort(values, axis=None)
    total = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    levels: F64 = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    for _ in range(_LLOYD_ROUNDS):
        inner = np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2, side="right")
        ends = np.concatenate([[0], inner, [len(ordered)]])
        counts = np.diff(ends)
        means = np.diff(total[ends]) / np.maximum(counts, 1)
        levels = np.where(counts > 0, means, levels)  # an empty cell keeps its level
    return levels


def _lloyd_steps(scales_S: F32, count: int) -> F32:
    steps: F32 = _lloyd(scales_S, count).astype(np.float32)
    return steps
