"""Rotating tokens, assigning them to centroids, and the sums that k-means takes: the definitions.

Shapes: T (or S, of a sample) tokens, C centroids, D dimensions, G groups, M runs of each group.
"""

from __future__ import annotations

import numpy as np

from colbert_core.reference.checks import check_array, require, require_dim
from colbert_core.types import F32, I8, I32, I64

RUN = 32
"""Centroids, one after the other, that `assign_among` looks at together."""
MAX_WEIGHT = 1 << 24
"""Of a row that `add_rows` adds: a product with an int8 stays within an int32."""

_SMALLEST_PEAK = np.float32(1e-30)
_ROWS = 2048


class NearestCentroid:
    """The centroid of the largest int8 product; of equal ones the first.

    Args:
        codes_CD: int8 [C, D] within ±127, C-contiguous.
    """

    def __init__(self, codes_CD: I8) -> None:
        check_array("codes_CD", codes_CD, 2, "int8")
        centroids, dim = codes_CD.shape
        require_dim(dim)
        require(centroids >= 1, "codes_CD has no centroids; at least 1 is needed")
        require(bool((codes_CD > -128).all()), "codes_CD holds -128; values must lie within ±127")
        self._codes_CD = codes_CD.astype(np.float32)

    @property
    def centroids(self) -> int:
        """C."""
        return len(self._codes_CD)

    @property
    def dim(self) -> int:
        """D."""
        return int(self._codes_CD.shape[1])

    def assign(self, tokens_TD: I8, threads: int = 1) -> I32:
        """Int8 [T, D] → int32 [T]."""
        self._check(tokens_TD, threads)
        codes_T = np.empty(len(tokens_TD), np.int32)
        for start in range(0, len(tokens_TD), _ROWS):
            products_TC = _products(tokens_TD[start : start + _ROWS], self._codes_CD)
            codes_T[start : start + _ROWS] = products_TC.argmax(axis=1)
        return codes_T

    def assign_among(
        self, tokens_TD: I8, order_T: I32, starts_G1: I64, runs_GM: I32, threads: int = 1
    ) -> I32:
        """The same for tokens in groups, each of which looks at some runs of centroids alone.

        Args:
            tokens_TD: int8 [T, D].
            order_T: int32 [T], the tokens, group after group.
            starts_G1: int64 [G + 1], where in `order_T` each group starts, and the end.
            runs_GM: int32 [G, M], the runs that a group looks at, one after the other; M is at
                least 1. Of equal products the first that is met wins.
            threads: how many to use.
        """
        self._check(tokens_TD, threads)
        check_array("order_T", order_T, 1, "int32")
        check_array("starts_G1", starts_G1, 1, "int64")
        check_array("runs_GM", runs_GM, 2, "int32")
        tokens, runs = len(tokens_TD), -(-self.centroids // RUN)
        require(len(order_T) == tokens, f"order_T has {len(order_T)} entries for {tokens} tokens")
        require(
            bool(((order_T >= 0) & (order_T < tokens)).all()),
            f"order_T must lie below the number of tokens, {tokens}",
        )
        require(
            len(starts_G1) > 0
            and int(starts_G1[0]) == 0
            and int(starts_G1[-1]) == tokens
            and bool((np.diff(starts_G1) >= 0).all()),
            f"starts_G1 must ascend from 0 to the number of tokens, {tokens}",
        )
        require(
            len(runs_GM) + 1 == len(starts_G1),
            "runs_GM must have one row for each group of starts_G1",
        )
        require(runs_GM.shape[1] > 0, f"runs_GM must have {len(runs_GM)} rows of at least one run")
        require(
            bool(((runs_GM >= 0) & (runs_GM < runs)).all()),
            f"runs_GM must lie below the number of runs, {runs}",
        )
        codes_T = np.zeros(tokens, np.int32)
        for group, runs_M in enumerate(runs_GM):
            looked = (runs_M[:, None] * RUN + np.arange(RUN)).ravel()
            looked = looked[looked < self.centroids]
            members = order_T[starts_G1[group] : starts_G1[group + 1]]
            products_TC = _products(tokens_TD[members], self._codes_CD[looked])
            codes_T[members] = looked[products_TC.argmax(axis=1)]
        return codes_T

    def _check(self, tokens_TD: I8, threads: int) -> None:
        check_array("tokens_TD", tokens_TD, 2, "int8")
        dim = tokens_TD.shape[1]
        require(dim == self.dim, f"tokens_TD has dimension {dim}, the centroids have {self.dim}")
        require(threads >= 1, f"threads {threads} must be at least 1")


def _products(tokens_TD: I8, codes_CD: F32) -> F32:
    """Exact: |product| ≤ 128·127·1024 < 2^24."""
    products_TC: F32 = tokens_TD.astype(np.float32) @ codes_CD.T
    return products_TC


def rotate(vectors_TD: F32, rotation_DD: F32, threads: int = 1) -> F32:  # noqa: ARG001
    """Vectors in the codec's space: the product of the two, each sum by ascending dimension.

    A vector gets the same bits whichever others it comes with: what was built in parts, or again
    after a crash, has the same bytes.

    Args:
        vectors_TD: float32 [T, D].
        rotation_DD: float32 [D, D].

    Returns:
        float32 [T, D].

    Raises:
        ValueError: an array has the wrong dtype or shape; the message names it.
    """
    check_array("vectors_TD", vectors_TD, 2, "float32")
    check_array("rotation_DD", rotation_DD, 2, "float32")
    dim = rotation_DD.shape[1]
    require(1 <= dim <= 1024, f"dimension {dim} must lie between 1 and 1024")
    require(len(rotation_DD) == dim, "rotation_DD must be square")
    require(
        vectors_TD.shape[1] == dim,
        f"vectors_TD has dimension {vectors_TD.shape[1]}, the rotation has {dim}",
    )
    rotated_TD = np.zeros_like(vectors_TD)
    for d in range(dim):
        rotated_TD += vectors_TD[:, d, None] * rotation_DD[d]
    return rotated_TD


def to_int8(vectors_TD: F32, threads: int = 1) -> tuple[I8, F32]:  # noqa: ARG001
    """Float32 [T, D] → int8 [T, D] within ±127, and the float32 [T] that each is multiplied by.

    The largest magnitude of a vector becomes 127. A vector of zeros has the scale 0.
    """
    check_array("vectors_TD", vectors_TD, 2, "float32")
    peaks_T = np.abs(vectors_TD).max(axis=1)
    empty_T = peaks_T < _SMALLEST_PEAK
    divisors_T = np.where(empty_T, np.float32(1), peaks_T)
    inverse_T = np.where(empty_T, np.float32(0), np.float32(127) / divisors_T)
    values_TD = np.clip(np.rint(vectors_TD * inverse_T[:, None]), -127, 127)
    scales_T: F32 = np.where(empty_T, np.float32(0), peaks_T / np.float32(127))
    return values_TD.astype(np.int8), scales_T


def add_rows(
    values_SD: I8,
    weights_S: I32,
    codes_S: I32,
    sums_CD: I64,
    threads: int = 1,  # noqa: ARG001
) -> None:
    """Add each row, times its weight, to the int64 [C, D] sum of its code, in place.

    Args:
        weights_S: int32 [S], 0 to `MAX_WEIGHT`.
    """
    require(
        bool(((weights_S >= 0) & (weights_S <= MAX_WEIGHT)).all()),
        f"weights must lie between 0 and {MAX_WEIGHT}",
    )
    for start in range(0, len(values_SD), _ROWS):
        rows = slice(start, start + _ROWS)
        np.add.at(sums_CD, codes_S[rows], values_SD[rows] * weights_S[rows, None].astype(np.int64))
