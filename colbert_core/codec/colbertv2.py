"""The codec of the ColBERTv2 paper (Santhanam et al. 2022), as colbert-ai's `ResidualCodec` has it.

Shapes: T tokens, S sample tokens, D dimensions, C centroids.

The centroids are kept in fp16. Every component of a residual falls into one of 2^b buckets, whose
borders are the quantiles j/2^b of all residual components and whose values are the quantiles
(j+½)/2^b. A decoded vector is normalise(centroid + values[bucket]). The scale byte, which the paper
does not have, is the inverse norm of the decoded vector on 256 steps: kernels scan with it and then
score the best passages with the exact norm.
"""

from __future__ import annotations

import numpy as np

from colbert_core.codec.tables import Tables
from colbert_core.types import F32, U8

_TRAIN_TOKENS = 20_000
_SCALE_RANGE = (0.5, 2.5)


def rotation(dim: int, seed: int) -> F32 | None:  # noqa: ARG001
    """The paper's codec does not rotate."""
    return None


def storable(centroids_CD: F32) -> F32:
    """Centroids as they will be read back from fp16."""
    return centroids_CD.astype(np.float16).astype(np.float32)


def train_tables(sample_SD: F32, centroids_CD: F32, *, bits: int, seed: int) -> Tables:
    """Bucket borders and values from the residuals of a sample."""
    from colbert_core.codec.kmeans import NearestCentroid

    rng = np.random.default_rng(seed)
    if len(sample_SD) > _TRAIN_TOKENS:
        sample_SD = sample_SD[np.sort(rng.choice(len(sample_SD), _TRAIN_TOKENS, replace=False))]
    residuals_SD = sample_SD - centroids_CD[NearestCentroid(centroids_CD)(sample_SD)]
    return tables_from(*buckets_from(residuals_SD, bits))


def buckets_from(residuals_SD: F32, bits: int) -> tuple[F32, F32]:
    """Float32 [2^b − 1] borders and [2^b] values: quantiles of all residual components."""
    count = 1 << bits
    steps = np.arange(count) / count
    borders = np.quantile(residuals_SD, steps[1:]).astype(np.float32)
    values = np.quantile(residuals_SD, steps + 0.5 / count).astype(np.float32)
    return borders, values


def tables_from(borders: F32, values: F32) -> Tables:
    """The codec's tables from bucket borders and values, trained here or imported."""
    scales = np.linspace(*_SCALE_RANGE, 256, dtype=np.float32)
    return Tables(values, borders, scales, scales)


def quantise(tables: Tables, vectors_TD: F32, centroids_TD: F32) -> tuple[U8, U8]:
    """Vectors and the centroid of each → (indices uint8 [T, D], scale bytes uint8 [T])."""
    residuals_TD = vectors_TD - centroids_TD
    indices_TD = bucketise(tables, residuals_TD)
    decoded_TD = centroids_TD + tables.levels[indices_TD]
    inverse_T = 1.0 / np.maximum(np.linalg.norm(decoded_TD, axis=1), 1e-6)
    low, high = _SCALE_RANGE
    steps_T = np.rint((inverse_T - low) * (255 / (high - low)))
    return indices_TD, np.clip(steps_T, 0, 255).astype(np.uint8)


def bucketise(tables: Tables, residuals_TD: F32) -> U8:
    """The bucket of every component: as many borders as lie below it (torch.bucketize)."""
    return np.searchsorted(tables.cutoffs, residuals_TD, side="left").astype(np.uint8)
