"""The nearest centroid of every vector, on a device: vectors as int8 rows, and the largest product.

Shapes: T vectors, D dimensions, C centroids.

`reference/nearest.py` is the definition. Products of int8 are integers and none is rounded, so a
GPU finds the codes that the native kernels find. Blocks of vectors meet blocks of centroids, and
the best so far is kept: memory does not grow with the number of centroids.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from colbert_core.torch_kernels.device import BUDGET

_SMALLEST_PEAK = 1e-30  # as in reference/nearest.py: below, a vector counts as zeros
_LARGEST = 127.0
_ROWS = 8192
"""Vectors of a block, at most: a product is written and read once, so blocks may be large."""
_MULTIPLE = 32
"""What int8 products on CUDA want sizes to be multiples of, and more."""


def to_int8(vectors_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 [T, D] → int8 [T, D] within ±127, the largest magnitude of a vector at 127, and the
    float32 [T] that each is multiplied by. A vector of zeros has the scale 0."""
    peaks_T = vectors_TD.abs().amax(dim=1)
    empty_T = peaks_T < _SMALLEST_PEAK
    # Tensors on both sides: torch multiplies by the reciprocal of a number, which rounds twice.
    largest_T = torch.full_like(peaks_T, _LARGEST)
    inverse_T = (largest_T / peaks_T.masked_fill(empty_T, 1.0)).masked_fill(empty_T, 0.0)
    values_TD = (vectors_TD * inverse_T[:, None]).round_().clamp_(-_LARGEST, _LARGEST)
    return values_TD.to(torch.int8), (peaks_T / largest_T).masked_fill(empty_T, 0.0)


class TorchNearest:
    """The centroid of the largest int8 product; of equal ones the first.

    Args:
        codes_CD: int8 [C, D] within ±127 on the device, all of one scale.
        budget: bytes that the products of a block may take.
    """

    def __init__(self, codes_CD: torch.Tensor, budget: int = BUDGET) -> None:
        self._centroids = len(codes_CD)
        spare = -self._centroids % _MULTIPLE  # copies of the last: they come later and never win
        self._codes_CD = torch.cat([codes_CD, codes_CD[-1:].expand(spare, -1)])
        self._integers = integer_products_work(codes_CD.device, codes_CD.shape[1])
        if not self._integers:
            self._codes_CD = self._codes_CD.float()
        self._budget = budget

    @property
    def centroids(self) -> int:
        """C."""
        return self._centroids

    def assign(self, values_TD: torch.Tensor) -> torch.Tensor:
        """Int8 [T, D] on the device → int32 [T] there."""
        codes_T = torch.empty(len(values_TD), dtype=torch.int32, device=values_TD.device)
        for start in range(0, len(values_TD), _ROWS):
            codes_T[start : start + _ROWS] = self._block(values_TD[start : start + _ROWS])
        return codes_T

    def _block(self, values_TD: torch.Tensor) -> torch.Tensor:
        """The same for at most `_ROWS` vectors."""
        tokens = len(values_TD)
        values_TD = pad(values_TD, (0, 0, 0, -tokens % _MULTIPLE))
        if not self._integers:
            values_TD = values_TD.float()
        width = max(1, self._budget // (4 * len(values_TD)) // _MULTIPLE) * _MULTIPLE
        best_T, codes_T = self._products(values_TD, 0, width).max(dim=1)
        for first in range(width, len(self._codes_CD), width):
            # Of equal products `max` gives the first, and a later block must be greater.
            most_T, found_T = self._products(values_TD, first, width).max(dim=1)
            codes_T = torch.where(most_T > best_T, found_T + first, codes_T)
            best_T = torch.maximum(best_T, most_T)
        return codes_T[:tokens].clamp(max=self._centroids - 1).int()

    def _products(self, values_TD: torch.Tensor, first: int, width: int) -> torch.Tensor:
        """[T, width], exact: |product| ≤ 127·127·1024 < 2^24, below which float32 holds all."""
        codes_CD = self._codes_CD[first : first + width]
        if self._integers:
            return torch._int_mm(values_TD, codes_CD.t())
        return values_TD @ codes_CD.t()


def integer_products_work(device: torch.device, dim: int) -> bool:
    """Whether torch multiplies int8 rows of so many dimensions on a device into exact int32, as
    tensor cores do. It is tried: libraries are particular about sizes.

    Elsewhere float32 does it, as exactly and more slowly.
    """
    rows_RD = torch.full((_MULTIPLE, dim), -127, dtype=torch.int8, device=device)
    rows_RD[:, 0] = 1
    try:
        dots_RR = torch._int_mm(rows_RD, rows_RD.t())
    except (RuntimeError, NotImplementedError):
        return False
    return dots_RR.dtype == torch.int32 and bool((dots_RR == 1 + (dim - 1) * 127 * 127).all())
