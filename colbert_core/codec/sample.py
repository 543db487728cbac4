"""The vectors that a codec is trained on, wherever they lie.

Shapes: S sample vectors, D dimensions, C centroids, M rows asked for.

k-means asks a sample three things alone, so that it is one algorithm whether the vectors are in
this process (`MemorySample`) or with the workers of a cluster (`cluster/workers_sample.py`). Which
centroid is nearest is a vector's own affair, and sums are integers: however a sample is cut, and
whoever adds, the same sums come out, to the bit.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from colbert_core.codec.assign import Assigner
from colbert_core.codec.rows import Rows
from colbert_core.types import F32, I32, I64


class Sample(Protocol):
    """S vectors in the codec's space. It remembers the code that each was given last."""

    def __len__(self) -> int:
        """S."""

    def rows(self, which_M: I64) -> Rows:
        """Some of the vectors, in the order asked for."""

    def assign(self, centroids_CD: F32, rank_C: I32 | None) -> I64:
        """Give every vector a code, and sum the vectors of each.

        Args:
            centroids_CD: float32 [C, D] of unit length, in an order of likeness.
            rank_C: what has become of the codes given last: code c is rank_C[c] now. None at the
                first time: then a rough assignment does.

        Returns:
            int64 [C, D] in units of `rows.SUM_UNIT`.
        """


class MemorySample:
    """A sample in this process."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._codes_S: I32 | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, which_M: I64) -> Rows:
        """Some of the vectors, in the order asked for."""
        return self._rows[which_M]

    def assign(self, centroids_CD: F32, rank_C: I32 | None) -> I64:
        """See `Sample.assign`."""
        self._codes_S = next_codes(Assigner(centroids_CD), self._rows, self._codes_S, rank_C)
        sums_CD = no_sums(centroids_CD)
        self._rows.add_to(sums_CD, self._codes_S)
        return sums_CD


def next_codes(assigner: Assigner, rows: Rows, codes_S: I32 | None, rank_C: I32 | None) -> I32:
    """Int32 [S], the codes of some vectors among new centroids, given their last."""
    if codes_S is None or rank_C is None:
        return assigner.roughly(rows)
    return assigner.again(rows, rank_C[codes_S])


def no_sums(centroids_CD: F32) -> I64:
    """Where sums begin."""
    return np.zeros(centroids_CD.shape, np.int64)
