"""A codec's compression in torch: vectors that are on a device become bytes there.

Shapes: N passages (n of them at a time), T tokens, D dimensions of the codec, M of the model,
C centroids, B packed bytes of a token, X bytes of a context.

What leaves the device is what is stored, and the mean of each passage's residuals, whose bits are
chosen on the host. Imported where a device is asked for, and
nowhere else (`workers/encoder.py`); docs/decisions/gpu-building.md has what is equal and why.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from colbert_core.codec import colbertv2, tartan
from colbert_core.codec.assign import one_scale
from colbert_core.codec.codec import Codec
from colbert_core.codec.compressed import Compressed
from colbert_core.codec.contexts import check_doclens
from colbert_core.reference.trellis import WINDOWS
from colbert_core.runs import runs
from colbert_core.torch_kernels.device import upload
from colbert_core.torch_kernels.nearest import TorchNearest, to_int8
from colbert_core.torch_kernels.quantise import (
    ColbertSteps,
    TartanSteps,
    quantise_colbertv2,
    quantise_tartan,
)
from colbert_core.types import F32, I32, U8, AnyArray

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
        self._codec = codec
        self._projection = self._optional(projection)
        self._rotation_DD = self._optional(codec.rotation_DD)
        self._centroids_CD = upload(codec.centroids_CD, device)
        self._nearest = TorchNearest(upload(one_scale(codec.centroids_CD), device))
        self._quantise = _quantiser(codec, device)
        self._slice = max(1, budget // _bytes_of_token(codec))

    def compress(self, vectors_TD: torch.Tensor, doclens_N: I32) -> Compressed:
        """Floats [T, M] on the device, of any width and length, and how many belong to each passage
        → compressed tokens on the host."""
        return self.compress_units(self.unit_vectors(vectors_TD), doclens_N)

    def unit_vectors(self, vectors_TD: torch.Tensor) -> torch.Tensor:
        """Floats [T, M] on the device → projected unit vectors, float32 [T, D]."""
        wide_TD = vectors_TD.float()
        if self._projection is not None:
            wide_TD = wide_TD @ self._projection
        norms_T1: torch.Tensor = torch.linalg.vector_norm(wide_TD, dim=1, keepdim=True)
        return wide_TD / norms_T1.clamp_min_(1e-12)

    def compress_units(self, vectors_TD: torch.Tensor, doclens_N: I32) -> Compressed:
        """Float32 unit vectors [T, D] on the device → compressed tokens on the host.

        Raises:
            InvalidInput: the lengths do not fit the vectors, or a passage has none.
        """
        check_doclens(doclens_N, len(vectors_TD))
        ends_N = np.cumsum(doclens_N, dtype=np.int64)
        parts = [Compressed.empty(self._codec.token_bytes, self._codec.context_bytes)]
        for start, stop in runs(doclens_N, self._slice):
            doclens_n = doclens_N[start:stop]
            some_TD = vectors_TD[int(ends_N[start] - doclens_n[0]) : int(ends_N[stop - 1])]
            parts.append(self._compress_passages(some_TD, doclens_n))
        return Compressed.joined(parts)

    def _compress_passages(self, vectors_TD: torch.Tensor, doclens_n: I32) -> Compressed:
        if self._rotation_DD is not None:
            vectors_TD = vectors_TD @ self._rotation_DD
        codes_T = self._nearest.assign(to_int8(vectors_TD)[0])
        centroids_TD = self._centroids_CD.index_select(0, codes_T)
        contexts_nX = np.zeros((len(doclens_n), 0), np.uint8)
        if self._codec.context_bytes:
            contexts_nX, shared_TD = self._contexts(vectors_TD - centroids_TD, doclens_n)
            vectors_TD = vectors_TD - shared_TD
        packed_TB, scales_T = self._quantise(vectors_TD, centroids_TD)
        return Compressed(
            codes_T.cpu().numpy(), packed_TB.cpu().numpy(), scales_T.cpu().numpy(), contexts_nX
        )

    def _contexts(self, residuals_TD: torch.Tensor, doclens_n: I32) -> tuple[U8, torch.Tensor]:
        """The contexts of passages, and each token's, float32 [T, D] on the device. Bits are chosen
        on the host: there are as many contexts as passages."""
        lengths_n = torch.tensor(doclens_n.astype(np.int64), device=self._device)
        sums_nD = torch.segment_reduce(residuals_TD, "sum", lengths=lengths_n, axis=0, unsafe=True)
        means_nD = (sums_nD / lengths_n[:, None]).cpu().numpy()
        contexts_nX = self._codec.encode_contexts(means_nD)
        decoded_nD = upload(self._codec.decode_contexts(contexts_nX), self._device)
        tokens = len(residuals_TD)
        return contexts_nX, torch.repeat_interleave(decoded_nD, lengths_n, 0, output_size=tokens)

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
