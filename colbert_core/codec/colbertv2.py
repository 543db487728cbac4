"""The codec of the ColBERTv2 paper (Santhanam et al. 2022), as colbert-ai's `ResidualCodec` has it.

Shapes: T tokens, S sample tokens, D dimensions, C centroids, B packed bytes of a token.

The centroids are kept in fp16. Every component of a residual falls into one of 2^b buckets, whose
borders are the quantiles j/2^b of all residual components and whose values are the quantiles
(j+½)/2^b. A decoded vector is normalise(centroid + values[bucket]). The scale byte, which the paper
does not have, is the inverse norm of the decoded vector on 256 steps: kernels scan with it and then
score the best passages with the exact norm.
"""

from __future__ import annotations

import numpy as np

from colbert_core import hardware, kernels
from colbert_core.codec.packing import pack_planes, unpack_planes
from colbert_core.codec.tables import Tables
from colbert_core.reference.residuals import inverse_norms, scale_steps
from colbert_core.types import F32, I32, U8

_SCALE_RANGE = (0.5, 2.5)


def rotation(dim: int, seed: int) -> F32 | None:  # noqa: ARG001
    """The paper's codec does not rotate."""
    return None


def storable(centroids_CD: F32) -> F32:
    """Centroids as they will be read back from fp16."""
    return centroids_CD.astype(np.float16).astype(np.float32)


def train_tables(vectors_SD: F32, centroids_SD: F32, *, bits: int) -> Tables:
    """Bucket borders and values from the residuals of a sample, given the centroid of each."""
    return tables_from(*buckets_from(vectors_SD - centroids_SD, bits))


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


def residual_levels(tables: Tables, packed_TB: U8, bits: int, dim: int) -> F32:
    """Packed indices uint8 [T, B] → the value of every dimension's bucket, float32 [T, D]."""
    values_TD: F32 = tables.levels[unpack_planes(packed_TB, bits, dim)]
    return values_TD


def level_count(bits: int) -> int:
    """Buckets of a dimension."""
    return 1 << bits


def quantise(
    tables: Tables, vectors_TD: F32, codes_T: I32, centroids_CD: F32, bits: int
) -> tuple[U8, U8]:
    """Vectors and their codes → (packed indices uint8 [T, B], scale bytes uint8 [T])."""
    assert tables.cutoffs is not None
    return kernels.quantise_colbertv2(
        vectors_TD,
        codes_T,
        centroids_CD,
        bits,
        tables.levels,
        tables.cutoffs,
        *scale_bytes(),
        hardware.threads(),
    )


def scale_bytes() -> tuple[float, float]:
    """The inverse norm that scale byte 0 stands for, and how many bytes a unit of it has."""
    low, high = _SCALE_RANGE
    return low, 255 / (high - low)


def from_indices(
    tables: Tables, indices_TD: U8, codes_T: I32, centroids_CD: F32, bits: int
) -> tuple[U8, U8, F32]:
    """Tokens that another program compressed with the same buckets, as they are stored here.

    Returns:
        packed indices uint8 [T, B], scale bytes uint8 [T], and the length of each token's vector
        before it is normalised, float32 [T].
    """
    inverse_T = inverse_norms(centroids_CD[codes_T] + tables.levels[indices_TD])
    steps_T = scale_steps(inverse_T, *scale_bytes())
    return pack_planes(indices_TD, bits), steps_T, np.float32(1) / inverse_T
