"""The global centroids, and the best of them for every query token."""

from __future__ import annotations

import numpy as np

from colbert_core.reference.arithmetic import centroid_scores, coarse_query
from colbert_core.reference.checks import (
    MAX_MAGNITUDE,
    check_array,
    check_query,
    require,
    require_dim,
)
from colbert_core.types import F32, I8, I32


class CentroidTable:
    """The global centroids as int8 with one scale each. Immutable and thread-safe.

    Args:
        codes_CD: int8 [C, D], C-contiguous; D a multiple of 8, at most 1024; C at least 1.
        scales_C: float32 [C], each in [0, 1e6].

    Raises:
        ValueError: an array has the wrong dtype, shape or value; the message names it.
    """

    def __init__(self, codes_CD: I8, scales_C: F32) -> None:
        check_array("codes_CD", codes_CD, 2, "int8")
        check_array("scales_C", scales_C, 1, "float32")
        self.centroids, self.dim = codes_CD.shape
        require(self.centroids >= 1, "codes_CD has no centroids; at least 1 is needed")
        require_dim(self.dim)
        require(
            len(scales_C) == self.centroids,
            f"scales_C has {len(scales_C)} entries for {self.centroids} centroids",
        )
        require(
            bool(np.all((scales_C >= 0) & (scales_C <= MAX_MAGNITUDE))),
            "scales_C must lie in [0, 1e6]",
        )
        self.codes_CD, self.scales_C = codes_CD, scales_C
        squares_C = np.sum(codes_CD.astype(np.float64) ** 2, axis=1)
        self.longest = float((np.sqrt(squares_C) * scales_C).max())

    def probe(
        self, Q_LD: F32, nprobe: int, threads: int = 1, keep_rows: bool = False
    ) -> tuple[I32, F32]:
        """The best centroids of every query token.

        Args:
            Q_LD: float32 [L, D], rotated; L from 1 to 1024, |values| ≤ 1e6.
            nprobe: centroids per query token, at least 1; capped at C.
            threads: at least 1; the native kernel splits the table, the result is the same.
            keep_rows: the native kernel keeps every centroid's scores, for the shards of this
                process to find; the result is the same.

        Returns:
            ids int32 [L, P] and scores float32 [L, P], P = min(nprobe, C): score descending, ties
            by smaller id.
        """
        del keep_rows  # nothing to gain here
        check_query(Q_LD, self.dim)
        require(nprobe >= 1, f"nprobe {nprobe} must be at least 1")
        require(threads >= 1, f"threads {threads} must be at least 1")
        S_LC = centroid_scores(self.codes_CD, self.scales_C, coarse_query(Q_LD)).T
        ids_LP = np.argsort(-S_LC, axis=1, kind="stable")[:, : min(nprobe, self.centroids)]
        scores_LP = np.take_along_axis(S_LC, ids_LP, axis=1)
        return ids_LP.astype(np.int32), np.ascontiguousarray(scores_LP)
