"""A codec's compression in torch: vectors that are on a device become bytes there.

Shapes: T tokens, D dimensions of the codec, M of the model, C centroids, B packed bytes of a token.

The only thing that leaves the device is what is stored. Imported where a device is asked for, and
nowhere else (`workers/encoder.py`); docs/decisions/gpu-building.md has what is equal and why.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from colbert_core.codec import colbertv2, tartan
from colbert_core.codec.assign import one_scale
from colbert_core.codec.codec import Codec, Compressed
from colbert_core.reference.trellis import WINDOWS
from colbert_core.torch_kernels.device import upload
from colbert_core.torch_kernels.nearest import TorchNearest, to_int8
from colbert_core.torch_kernels.quantise import (
    ColbertSteps,
    TartanSteps,
    quantise_colbertv2,
    quantise_tartan,
)
from colbert_core.types import F32, AnyArray

BUDGET = 1 << 30
"""Bytes that the temporary arrays of a slice may take, about. A dimension is a few small steps
whatever the number of tokens, so slices are large."""

_Quantise = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class TorchCompressor:
    """`Codec.compress` on a device, with the projection and the normalising before it.

    Codes and bytes are those of the native kernels wherever the rotated vectors are; matrix
    products of float32 differ from the processor's in their last bits.

    Args:
        codec: the trained codec.
        device: where to compute, from `torch_kernels.open_device`.
        projection: float32 [M, D] that vectors are multiplied by first, or None.
        budget: bytes that the temporary arrays of a slice may take, about.
    """

    def __init__(
        self,
        codec: Codec,
        device: torch.device,
        projection: F32 | None = None,
        budget: int = BUDGET,
    ) -> None:
        self._device = device
        self._token_bytes = codec.token_bytes
        self._projection = self._optional(projection)
        self._rotation_DD = self._optional(codec.rotation_DD)
        self._centroids_CD = upload(codec.centroids_CD, device)
        self._nearest = TorchNearest(upload(one_scale(codec.centroids_CD), device))
        self._quantise = _quantiser(codec, device)
        self._slice = max(1, budget // _bytes_of_token(codec))

    def compress(self, vectors_TD: torch.Tensor) -> Compressed:
        """Floats [T, M] on the device, of any width and length → compressed tokens on the host."""
        return self.compress_units(self.unit_vectors(vectors_TD))

    def unit_vectors(self, vectors_TD: torch.Tensor) -> torch.Tensor:
        """Floats [T, M] on the device → projected unit vectors, float32 [T, D]."""
        wide_TD = vectors_TD.float()
        if self._projection is not None:
            wide_TD = wide_TD @ self._projection
        norms_T1: torch.Tensor = torch.linalg.vector_norm(wide_TD, dim=1, keepdim=True)
        return wide_TD / norms_T1.clamp_min_(1e-12)

    def compress_units(self, vectors_TD: torch.Tensor) -> Compressed:
        """Float32 unit vectors [T, D] on the device → compressed tokens on the host."""
        tokens = len(vectors_TD)
        codes_T = torch.empty(tokens, dtype=torch.int32, device=self._device)
        packed_TB = torch.empty((tokens, self._token_bytes), dtype=torch.uint8, device=self._device)
        scales_T = torch.empty(tokens, dtype=torch.uint8, device=self._device)
        for start in range(0, tokens, self._slice):
            rows = slice(start, start + self._slice)
            rotated_TD = vectors_TD[rows]
            if self._rotation_DD is not None:
                rotated_TD = rotated_TD @ self._rotation_DD
            codes_T[rows] = self._nearest.assign(to_int8(rotated_TD)[0])
            centroids_TD = self._centroids_CD.index_select(0, codes_T[rows])
            packed_TB[rows], scales_T[rows] = self._quantise(rotated_TD, centroids_TD)
        return Compressed(codes_T.cpu().numpy(), packed_TB.cpu().numpy(), scales_T.cpu().numpy())

    def _optional(self, matrix: F32 | None) -> torch.Tensor | None:
        return None if matrix is None else upload(matrix, self._device)


def _quantiser(codec: Codec, device: torch.device) -> _Quantise:
    """What turns vectors and their centroids into bytes."""
    tables, bits = codec.tables, codec.bits

    def there(values: AnyArray) -> torch.Tensor:
        return upload(np.ascontiguousarray(values, np.float32), device)

    if codec.name == "tartan":
        ratios, gains = tartan.steps_of(tables)
        middles = [(steps[1:] + steps[:-1]) / np.float32(2) for steps in (ratios, gains)]
        steps = TartanSteps(there(tables.levels), there(ratios), *map(there, middles))
        return lambda x_TD, c_TD: quantise_tartan(x_TD, c_TD, bits, steps)
    assert tables.cutoffs is not None
    buckets = ColbertSteps(there(tables.levels), there(tables.cutoffs), *colbertv2.scale_bytes())
    return lambda x_TD, c_TD: quantise_colbertv2(x_TD, c_TD, bits, buckets)


def _bytes_of_token(codec: Codec) -> int:
    """About what a token takes while it is quantised: some copies of its vector, the costs of every
    window, and the choices of every state in each dimension."""
    choices = codec.dim * (WINDOWS >> codec.bits) if codec.name == "tartan" else 0
    return 32 * codec.dim + 24 * WINDOWS + choices
