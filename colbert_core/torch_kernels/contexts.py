"""What contexts add to scores, on a device (`reference/contexts.py`).

Shapes: M pairs of query and passage, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch

from colbert_core.reference.arithmetic import LOW_STEPS, quantise_levels
from colbert_core.torch_kernels.arrays import DeviceArrays
from colbert_core.torch_kernels.device import upload
from colbert_core.torch_kernels.queries import QueryBatch
from colbert_core.torch_kernels.residuals import residual_levels
from colbert_core.types import F32

LOW_PART = float(np.float32(1) / LOW_STEPS)


class ContextScorer:
    """The contexts of a shard; without them it adds nothing.

    Args: those of `reference.Shard`.
    """

    def __init__(self, arrays: DeviceArrays, bits: int, levels: F32, device: torch.device) -> None:
        levels_i8, step = quantise_levels(levels)
        self._arrays, self._bits, self._step = arrays, bits, float(step)
        self._levels = upload(levels, device)
        self._integers = upload(levels_i8.astype(np.float32), device)

    def added_to(
        self, scores_M: torch.Tensor, batch: QueryBatch, rows_M: torch.Tensor, pids_M: torch.Tensor
    ) -> torch.Tensor:
        """Scores, float32 [M], with what the contexts of the passages add for the batch's queries
        `rows_M`. Products of integers are exact in any order."""
        packed_NB, scales_N = self._arrays.contexts_NB, self._arrays.context_scales_N
        if packed_NB is None or scales_N is None:
            return scores_M
        levels_MD = self._look_up(packed_NB, pids_M, self._integers, batch.sum_planes_BDX.shape[1])
        dots_M2 = torch.bmm(levels_MD[:, None], batch.sum_planes_BDX[rows_M])[:, 0]
        dots_M = dots_M2[:, 0] + dots_M2[:, 1] * LOW_PART
        weights_M = scales_N[pids_M] * self._step
        return scores_M + weights_M * dots_M * batch.sum_scales_B[rows_M]

    def decoded(self, pids_M: torch.Tensor, dim: int) -> torch.Tensor:
        """The contexts of passages, float32 [M, D]; there must be some."""
        packed_NB, scales_N = self._arrays.contexts_NB, self._arrays.context_scales_N
        assert packed_NB is not None
        assert scales_N is not None
        return scales_N[pids_M, None] * self._look_up(packed_NB, pids_M, self._levels, dim)

    def _look_up(
        self, packed_NB: torch.Tensor, pids_M: torch.Tensor, levels: torch.Tensor, dim: int
    ) -> torch.Tensor:
        return residual_levels(packed_NB.index_select(0, pids_M), self._bits, dim, levels)
