"""Fewer dimensions for a model that has no projection of its own: PCA fitted on a sample."""

from __future__ import annotations

import hashlib

import numpy as np

from colbert_core.errors import InvalidInput
from colbert_core.types import F32, F64

_ROWS_AT_ONCE = 65_536
_GRID = np.float32(2**17)


def fit_pca(sample_TD: F32, dim: int) -> F32:
    """The projection that keeps most of the squared length of the sample's vectors.

    The second moment is not centred: MaxSim compares directions from the origin, and taking a
    mean away would change every inner product.

    Args:
        sample_TD: float32 [T, D], token vectors.
        dim: dimensions to keep, 1 … D.

    Returns:
        float32 [D, dim] with orthonormal columns, by falling share of the squared length. The
        largest entry of each column is positive, so that the same sample gives the same matrix.

    Raises:
        InvalidInput: `dim` is outside the range, or the sample is empty or not finite.
    """
    if sample_TD.ndim != 2 or len(sample_TD) == 0:
        raise InvalidInput(
            f"PCA needs a sample of token vectors [T, D], got shape {sample_TD.shape}"
        )
    width = sample_TD.shape[1]
    if not 1 <= dim <= width:
        raise InvalidInput(
            f"dim {dim} is outside 1 … {width}: a projection cannot add dimensions to the"
            f" {width} that the model gives"
        )
    return principal_directions(second_moment(sample_TD), dim)


def second_moment(sample_TD: F32) -> F64:
    """Float64 [D, D]: the sum of the outer products of vectors [T, D] with themselves."""
    width = sample_TD.shape[1]
    moment_DD = np.zeros((width, width), np.float64)
    for start in range(0, len(sample_TD), _ROWS_AT_ONCE):
        rows_TD = sample_TD[start : start + _ROWS_AT_ONCE].astype(np.float64)
        moment_DD += rows_TD.T @ rows_TD
    return moment_DD


def on_grid(vectors_TD: F32) -> F32:
    """Unit vectors at multiples of 2^-17, a hundredth of what float16 rounds off at most.

    The second moments of up to 2^18 of them are exact in float64, so that those of parts of a
    sample add up to the same in any order.
    """
    grid_TD: F32 = np.rint(vectors_TD * _GRID) / _GRID
    return grid_TD


def principal_directions(moment_DD: F64, dim: int) -> F32:
    """`fit_pca`, given the second moment of the sample.

    Raises:
        InvalidInput: it is not finite.
    """
    if not np.isfinite(moment_DD).all():
        raise InvalidInput("PCA: the sample holds NaN or infinite values")
    _, vectors_DD = np.linalg.eigh(moment_DD)
    matrix = vectors_DD[:, ::-1][:, :dim]
    largest = matrix[np.abs(matrix).argmax(axis=0), np.arange(dim)]
    return np.ascontiguousarray(matrix * np.where(largest < 0, -1.0, 1.0), dtype=np.float32)


def matrix_sha256(matrix: F32) -> str:
    """Hash of a projection's shape and values, as `ModelIdentity` holds it."""
    shape = "×".join(str(size) for size in matrix.shape)
    values = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    return hashlib.sha256(shape.encode() + values).hexdigest()
