"""Vectors as int8, as k-means and assignment take them.

Shapes: T (or S, of a sample) vectors, D dimensions, C centroids.

A vector is eight bits a component with a scale of its own. Which centroid is nearest does not
depend on the scale, so assignment multiplies integers: exact, the same on every processor, and as
good as fp32 (docs/decisions/building.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from colbert_core import hardware, kernels
from colbert_core.types import F32, I8, I32, I64, AnyArray

SUM_UNIT = np.float32(2**-30)
"""What sums count in. A unit vector of 1,024 dimensions has a scale of 2^-12 at least, so that none
is off by more than two millionths; 2^32 vectors fit into an int64."""
_MAX_WEIGHT = 1 << 24  # of the kernel; the scale of a unit vector is half of that


def rotated(vectors_TD: F32, rotation_DD: F32 | None) -> F32:
    """Float32 [T, D] in the codec's space, C-contiguous; None is the codec that does not rotate."""
    vectors_TD = np.ascontiguousarray(vectors_TD, np.float32)
    if rotation_DD is None:
        return vectors_TD
    return kernels.rotate(vectors_TD, rotation_DD, hardware.threads())


@dataclass(frozen=True)
class Rows:
    """Int8 vectors within ±127 [T, D], and the float32 [T] that each is multiplied by."""

    values_TD: I8
    scales_T: F32

    @classmethod
    def of(cls, vectors_TD: F32) -> Rows:
        """Float32 [T, D] → int8, the largest magnitude of every vector at 127."""
        return cls(*kernels.to_int8(np.ascontiguousarray(vectors_TD), hardware.threads()))

    @classmethod
    def gather(cls, parts: list[Rows]) -> Rows:
        """All rows of at least one part. The list is emptied, so that nothing is there twice."""
        values_TD = np.empty((sum(map(len, parts)), parts[0].values_TD.shape[1]), np.int8)
        scales_T = np.empty(len(values_TD), np.float32)
        end = len(values_TD)
        while parts:
            part = parts.pop()
            start = end - len(part)
            values_TD[start:end] = part.values_TD
            scales_T[start:end] = part.scales_T
            end = start
        return cls(values_TD, scales_T)

    def __len__(self) -> int:
        return len(self.scales_T)

    def __getitem__(self, which: slice | AnyArray) -> Rows:
        return Rows(self.values_TD[which], self.scales_T[which])

    def floats(self) -> F32:
        """Float32 [T, D]."""
        return self.values_TD * self.scales_T[:, None]

    def add_to(self, sums_CD: I64, codes_T: I32) -> None:
        """Add each vector to the int64 [C, D] sum of its code, in place, in units of `SUM_UNIT`.

        Integers: sums of parts of a sample add up to the same whoever adds them, in any order.
        """
        weights_T = np.minimum(np.rint(self.scales_T / SUM_UNIT), _MAX_WEIGHT).astype(np.int32)
        kernels.add_rows(self.values_TD, weights_T, codes_T, sums_CD, hardware.threads())
