"""Tartan's own codec: rotation, optimal scalar levels, and one scale byte per token.

Shapes: T tokens, S sample tokens, D dimensions, C centroids.

A random rotation makes the residual's components alike and nearly Gaussian, so that one set of
Lloyd–Max levels (Lloyd 1982) is right for all of them; a least-squares scale per token absorbs how
long its residual is; and the decoded vector is scaled to unit length, as the original was. Both
scales share a byte: four bits choose what the centroid is multiplied by, four bits what the levels
are. Levels and centroids lie on int8 grids by definition, so integer kernels decode exactly what
is stored. docs/decisions/codec.md has the measurements, and what did not help.
"""

from __future__ import annotations

import numpy as np

from colbert_core.codec.tables import Tables
from colbert_core.types import F32, I8, U8, AnyArray

_TRAIN_TOKENS = 20_000
_LLOYD_ROUNDS = 60
_REQUANTISE_ROUNDS = 2
_SCALE_STEPS = 16
_ROWS = 8192


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


def train_tables(sample_SD: F32, centroids_CD: F32, *, bits: int, seed: int) -> Tables:
    """Levels from the residuals of a sample, then the two scale tables from its scales."""
    from colbert_core.codec.kmeans import NearestCentroid

    rng = np.random.default_rng(seed)
    if len(sample_SD) > _TRAIN_TOKENS:
        sample_SD = sample_SD[np.sort(rng.choice(len(sample_SD), _TRAIN_TOKENS, replace=False))]
    nearest_SD = centroids_CD[NearestCentroid(centroids_CD)(sample_SD)]
    residuals_SD = sample_SD - nearest_SD
    levels = lloyd_max(residuals_SD / _rms(residuals_SD), bits)
    cutoffs = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    _, alpha_S, beta_S = _fit(levels, cutoffs, sample_SD, nearest_SD)
    steps_alpha, steps_beta = (_steps(scales_S) for scales_S in (alpha_S, beta_S))
    return Tables(
        levels=levels,
        cutoffs=cutoffs,
        alpha=np.tile(steps_alpha, _SCALE_STEPS),
        beta=np.repeat(steps_beta, _SCALE_STEPS),
    )


def lloyd_max(components: F32, bits: int) -> F32:
    """The 2^bits symmetric levels of least squared error, on an int8 grid, ascending."""
    magnitudes = np.abs(components).ravel()
    half = 1 << (bits - 1)
    levels = np.quantile(magnitudes, (np.arange(half) + 0.5) / half)
    for _ in range(_LLOYD_ROUNDS):
        levels = _cell_means(magnitudes, levels)
    levels = np.maximum(levels, 1e-6)
    step = levels[-1] / 127
    grid = np.rint(np.concatenate([-levels[::-1], levels]) / step)
    symmetric: F32 = (grid * step).astype(np.float32)
    return symmetric


def quantise(tables: Tables, vectors_TD: F32, centroids_TD: F32) -> tuple[U8, U8]:
    """Rotated vectors and the centroid of each → (indices uint8 [T, D], scale bytes uint8 [T])."""
    indices_TD = np.empty(vectors_TD.shape, np.uint8)
    scales_T = np.empty(len(vectors_TD), np.uint8)
    alpha_steps = tables.alpha[:_SCALE_STEPS]
    beta_steps = tables.beta[::_SCALE_STEPS]
    for start in range(0, len(vectors_TD), _ROWS):
        rows = slice(start, start + _ROWS)
        indices_TD[rows], alpha_T, beta_T = _fit(
            tables.levels, tables.cutoffs, vectors_TD[rows], centroids_TD[rows]
        )
        low = _nearest_step(alpha_steps, alpha_T)
        high = _nearest_step(beta_steps, beta_T)
        scales_T[rows] = low | (high << 4)
    return indices_TD, scales_T


def _fit(
    levels: F32, cutoffs: F32, vectors_TD: F32, centroids_TD: F32
) -> tuple[U8, AnyArray, AnyArray]:
    """Indices [T, D], and the alpha [T] and beta [T] that make the decoded vector fit best."""
    residuals_TD = vectors_TD - centroids_TD
    scale_T1 = _rms(residuals_TD)
    for _ in range(1 + _REQUANTISE_ROUNDS):
        indices_TD = np.searchsorted(cutoffs, residuals_TD / scale_T1).astype(np.uint8)
        chosen_TD = levels[indices_TD]
        fit_T1 = _dot(residuals_TD, chosen_TD) / np.maximum(_dot(chosen_TD, chosen_TD), 1e-12)
        scale_T1 = np.maximum(fit_T1, 1e-6).astype(np.float32)
    decoded_TD = centroids_TD + scale_T1 * chosen_TD
    alpha_T = 1.0 / np.maximum(np.linalg.norm(decoded_TD, axis=1), 1e-6)
    return indices_TD, alpha_T, alpha_T * scale_T1[:, 0]


def _rms(residuals_TD: F32) -> F32:
    mean_T1 = np.sqrt(np.mean(residuals_TD * residuals_TD, axis=1, keepdims=True))
    floor_T1: F32 = np.maximum(mean_T1, 1e-6).astype(np.float32)
    return floor_T1


def _dot(a_TD: F32, b_TD: F32) -> AnyArray:
    products_T1: AnyArray = np.einsum("td,td->t", a_TD, b_TD)[:, None]
    return products_T1


def _steps(scales_S: AnyArray) -> F32:
    """The 16 values of least squared error for a scale, ascending."""
    steps = np.quantile(scales_S, (np.arange(_SCALE_STEPS) + 0.5) / _SCALE_STEPS)
    for _ in range(_LLOYD_ROUNDS):
        steps = _cell_means(scales_S, steps)
    return steps.astype(np.float32)


def _cell_means(values: AnyArray, levels: AnyArray) -> AnyArray:
    """One round of Lloyd's algorithm in one dimension; an empty cell keeps its level."""
    cells = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
    counts = np.bincount(cells, minlength=len(levels))
    sums = np.bincount(cells, weights=values, minlength=len(levels))
    means: AnyArray = np.where(counts, sums / np.maximum(counts, 1), levels)
    return means


def _nearest_step(steps: F32, values_T: AnyArray) -> U8:
    return np.searchsorted((steps[1:] + steps[:-1]) / 2, values_T).astype(np.uint8)
