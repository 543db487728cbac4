"""Compressing a unit where its vectors are: on the worker's GPU.

Imports torch; a worker without a GPU does not load it from here (`workers/encoder.py`).
"""

from __future__ import annotations

import numpy as np
import torch

from colbert_core.codec import Codec, Compressed
from colbert_core.codec.on_device import TorchCompressor
from colbert_core.pooling import pool_passages, pooled_doclens
from colbert_core.torch_kernels import open_device
from colbert_core.types import F32
from workers.units import UnitVectors


class DeviceCompressor:
    """`workers.encoder.compress_vectors` on a device.

    Args:
        device: "cuda", of which Ray shows a worker its own alone, or "torch:cpu" for testing.
        codec: the trained codec.
        projection: float32 [model's dim, codec's dim], or None.
        pool_factor: how many times fewer vectors than tokens a passage gets.

    Raises:
        InvalidInput: there is no such device here, or its arithmetic is not exact.
    """

    def __init__(self, device: str, codec: Codec, projection: F32 | None, pool_factor: int) -> None:
        self._device = open_device(device)
        self._compressor = TorchCompressor(codec, self._device, projection)
        self._pool_factor = pool_factor

    def __call__(self, vectors: UnitVectors) -> Compressed:
        """Project, normalise, pool if asked, and compress the vectors of a unit.

        Vectors that were kept on disk come to the device first. Pooling clusters tokens passage by
        passage on the processor: where it is asked for, vectors go there and back.
        """
        vectors_TD = torch.as_tensor(vectors.vectors_TD).to(self._device)
        if self._pool_factor == 1:
            return self._compressor.compress(vectors_TD, vectors.doclens_N)
        units_TD = self._compressor.unit_vectors(vectors_TD).cpu().numpy()
        pooled_PD = pool_passages(units_TD, vectors.doclens_N, self._pool_factor)
        on_device = torch.from_numpy(np.ascontiguousarray(pooled_PD)).to(self._device)
        pooled_N = pooled_doclens(vectors.doclens_N, self._pool_factor)
        return self._compressor.compress_units(on_device, pooled_N)
