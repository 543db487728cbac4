"""The nearest centroid of every vector.

Shapes: T vectors, D dimensions, C centroids, G groups, M runs.

Int8 vectors are compared with int8 centroids: on the processor by a kernel, on a GPU by torch. The
codes are the same.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from colbert_core import hardware, kernels
from colbert_core.codec.rows import Rows
from colbert_core.types import F32, I8, I32, I64

NEAR_RUNS = 16
"""Runs of `kernels.RUN` centroids that `again` and `roughly` look at."""
AT_ONCE = 4096
"""Centroids of which temporaries are made together."""
_GROUPS_AT_ONCE = 1024
_GPU_ROWS = 1 << 20
"""Vectors that are copied to a GPU at a time."""


class Assigner:
    """Assigns unit vectors to unit centroids by the largest inner product.

    Args:
        centroids_CD: float32 [C, D].
    """

    def __init__(self, centroids_CD: F32) -> None:
        self._centroids_CD = centroids_CD

    def __call__(self, rows: Rows) -> I32:
        """Int32 [T], the code of each vector."""
        if hardware.has_cuda():
            return self._gpu(rows)
        return self._kernel.assign(rows.values_TD, hardware.threads())

    def roughly(self, rows: Rows) -> I32:
        """The same in two steps: the nearest mean of a run, then what is near that run.

        One vector in five misses its nearest centroid. Worth it where a start is all that is
        needed and centroids with near codes lie near each other (`order.by_likeness`).
        """
        if self._looks_at_all:
            return self(rows)
        return self._near(rows, Assigner(self._run_means)(rows))

    def again(self, rows: Rows, codes_T: I32) -> I32:
        """The same, given codes that were right for similar centroids of a like order.

        A vector looks at the centroids near its present one alone.
        """
        if self._looks_at_all:
            return self(rows)
        return self._near(rows, codes_T // np.int32(kernels.RUN))

    @property
    def _looks_at_all(self) -> bool:
        runs = len(self._centroids_CD) // kernels.RUN
        return runs < 4 * NEAR_RUNS or hardware.has_cuda()

    def _near(self, rows: Rows, group_T: I32) -> I32:
        """The nearest of the centroids near a run, given for each vector."""
        groups = len(self._run_means)
        group_T = group_T.astype(np.uint16 if groups < 1 << 16 else np.uint32)  # sorts faster
        order_T = np.argsort(group_T, kind="stable").astype(np.int32)
        starts_G1: I64 = np.zeros(groups + 1, np.int64)
        np.cumsum(np.bincount(group_T, minlength=groups), out=starts_G1[1:])
        return self._kernel.assign_among(
            rows.values_TD, order_T, starts_G1, self._near_runs(), hardware.threads()
        )

    def _near_runs(self) -> I32:
        """Int32 [G, M]: the runs whose mean is nearest to that of each run, nearest first."""
        means_GD = self._run_means
        near_GM = np.empty((len(means_GD), NEAR_RUNS), np.int32)
        for start in range(0, len(means_GD), _GROUPS_AT_ONCE):
            rows = slice(start, start + _GROUPS_AT_ONCE)
            likeness_GG = means_GD[rows] @ means_GD.T
            for row, likeness_G in enumerate(likeness_GG, start):
                distance_G = -likeness_G
                found_M = np.argpartition(distance_G, NEAR_RUNS - 1)[:NEAR_RUNS]
                near_GM[row] = found_M[distance_G[found_M].argsort()]
        return near_GM

    @cached_property
    def _run_means(self) -> F32:
        """Float32 [G, D], of unit length."""
        starts = np.arange(0, len(self._centroids_CD), kernels.RUN)
        means_GD: F32 = np.add.reduceat(self._centroids_CD, starts, axis=0)
        means_GD /= np.maximum(np.linalg.norm(means_GD, axis=1, keepdims=True), 1e-12)
        return means_GD

    @cached_property
    def _gpu(self) -> InTorch:
        return InTorch(self._centroids_CD, "cuda")

    @cached_property
    def _kernel(self) -> kernels.NearestCentroid:
        return kernels.NearestCentroid(one_scale(self._centroids_CD))


def one_scale(centroids_CD: F32) -> I8:
    """Int8 [C, D] of one scale, so that integer products of different centroids compare."""
    peak = max(centroids_CD.max(), -centroids_CD.min(), np.float32(1e-30))
    codes_CD: I8 = np.empty(centroids_CD.shape, np.int8)
    for start in range(0, len(centroids_CD), AT_ONCE):
        part_CD = centroids_CD[start : start + AT_ONCE]
        codes_CD[start : start + AT_ONCE] = np.rint(part_CD * (np.float32(127) / peak))
    return codes_CD


class InTorch:
    """The same on a device of torch, where the centroids stay: integers too, so the same codes,
    however vectors are shared out."""

    def __init__(self, centroids_CD: F32, device: str) -> None:
        import torch

        from colbert_core.torch_kernels.nearest import TorchNearest

        self._device = torch.device(device)
        self._nearest = TorchNearest(torch.tensor(one_scale(centroids_CD), device=self._device))

    def __call__(self, rows: Rows) -> I32:
        """Int32 [T], the code of each vector."""
        import torch

        codes_T = np.empty(len(rows), np.int32)
        for start in range(0, len(rows), _GPU_ROWS):
            part = slice(start, start + _GPU_ROWS)
            # Copied: what comes from an object store cannot be written, which torch warns of.
            values_TD = torch.tensor(rows.values_TD[part], device=self._device)
            codes_T[part] = self._nearest.assign(values_TD).cpu().numpy()
        return codes_T
