"""Tartan's own codec: rotation, optimal scalar levels, and one scale byte per token.

Shapes: T tokens, S sample tokens, D dimensions, C centroids, B packed bytes of a token.

A random rotation makes the residual's components alike and nearly Gaussian, so that one set of
Lloyd–Max levels (Lloyd 1982) is right for all of them; a least-squares scale per token absorbs how
long its residual is; and the decoded vector is scaled to unit length, as the original was. Both
scales share a byte: four bits choose what the centroid is multiplied by, four bits what the levels
are. Levels and centroids lie on int8 grids by definition, so integer kernels decode exactly what
is stored. docs/decisions/codec.md has the measurements, and what did not help.
"""

from __future__ import annotations

import numpy as np

from colbert_core import hardware, kernels
from colbert_core.codec.tables import Tables
from colbert_core.reference.residuals import fit_tartan
from colbert_core.types import F32, F64, I8, I32, U8

_LLOYD_ROUNDS = 60
_SCALE_STEPS = 16


def rotation(dim: int, seed: int) -> F32:
    """A random orthonormal float32 [D, D] (QR of a Gaussian matrix)."""
    gaussian = np.random.default_rng([seed, dim]).standard_normal((dim, dim))
    return np.ascontiguousarray(np.linalg.qr(gaussian)[0], np.float32)


def quantise_centroids(centroids_CD: F32) -> tuple[I8, F32]:
    """Int8 [C, D] and the float32 [C] that each row is multiplied by."""
    scales_C = np.maximum(np.abs(centroids_CD).max(axis=1), 1e-12) / np.float32(127)
    codes_CD = np.rint(centroids_CD / scales_C[:, None]).astype(np.int8)
    return codes_CD, scales_C.astype(np.float32)


def storable(centroids_CD: F32) -> F32:
    """Centroids as they will be read back from int8."""
    codes_CD, scales_C = quantise_centroids(centroids_CD)
    exact_CD: F32 = codes_CD * scales_C[:, None]
    return exact_CD


def train_tables(vectors_SD: F32, centroids_SD: F32, *, bits: int) -> Tables:
    """Levels from the residuals of a sample (its vectors, the centroid of each), then the two scale
    tables from its scales."""
    residuals_SD = vectors_SD - centroids_SD
    lengths_S1 = np.sqrt(np.mean(residuals_SD * residuals_SD, axis=1, keepdims=True))
    levels = lloyd_max(residuals_SD / np.maximum(lengths_S1, 1e-6), bits)
    cutoffs = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    _, alpha_S, beta_S = fit_tartan(levels, cutoffs, vectors_SD, centroids_SD)
    return Tables(
        levels=levels,
        cutoffs=cutoffs,
        alpha=np.tile(_lloyd_steps(alpha_S), _SCALE_STEPS),
        beta=np.repeat(_lloyd_steps(beta_S), _SCALE_STEPS),
    )


def lloyd_max(components: F32, bits: int) -> F32:
    """The 2^bits symmetric levels of least squared error, on an int8 grid, ascending."""
    half = 1 << (bits - 1)
    levels = np.maximum(_lloyd(np.abs(components).ravel(), half), 1e-6)
    step = levels[-1] / 127
    grid = np.rint(np.concatenate([-levels[::-1], levels]) / step)
    symmetric: F32 = (grid * step).astype(np.float32)
    return symmetric


def quantise(
    tables: Tables, vectors_TD: F32, codes_T: I32, centroids_CD: F32, bits: int
) -> tuple[U8, U8]:
    """Rotated vectors and their codes → (packed indices uint8 [T, B], scale bytes uint8 [T])."""
    return kernels.quantise_tartan(
        vectors_TD,
        codes_T,
        centroids_CD,
        bits,
        tables.levels,
        tables.cutoffs,
        _borders(tables.alpha[:_SCALE_STEPS]),
        _borders(tables.beta[::_SCALE_STEPS]),
        hardware.threads(),
    )


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


def _lloyd_steps(scales_S: F32) -> F32:
    steps: F32 = _lloyd(scales_S, _SCALE_STEPS).astype(np.float32)
    return steps


def _borders(steps: F32) -> F32:
    borders: F32 = (steps[1:] + steps[:-1]) / np.float32(2)
    return borders
