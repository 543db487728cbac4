"""The global centroids on a device: the best of them, and the scores of all of them."""

from __future__ import annotations

import numpy as np
import torch

from colbert_core.reference.arithmetic import coarse_query
from colbert_core.reference.checks import check_query, require
from colbert_core.torch_kernels.device import BUDGET, upload
from colbert_core.torch_kernels.select import float_keys
from colbert_core.types import F32, I8, I32


class TorchTable:
    """The global centroids. Immutable and thread-safe; every shard on the device shares one.

    Args:
        codes_CD: int8 [C, D].
        scales_C: float32 [C].
        device: where to hold them, as float32: 4·C·D bytes.
    """

    def __init__(self, codes_CD: I8, scales_C: F32, device: torch.device) -> None:
        self.centroids, self.dim = codes_CD.shape
        self.device = device
        self.integers_CD = upload(codes_CD, device).float()
        self.scales_C = upload(scales_C, device)
        squares_C = np.sum(codes_CD.astype(np.float64) ** 2, axis=1)
        self.longest = float((np.sqrt(squares_C) * scales_C).max())

    def probe(
        self,
        Q_LD: F32,
        nprobe: int,
        threads: int = 1,  # noqa: ARG002 - the signature is the native kernel's
        keep_rows: bool = False,  # noqa: ARG002
    ) -> tuple[I32, F32]:
        """The best centroids of every query token, as the native `CentroidTable.probe`."""
        check_query(Q_LD, self.dim)
        require(nprobe >= 1, f"nprobe {nprobe} must be at least 1")
        query = coarse_query(Q_LD)
        values_LD = torch.tensor(query.values_LD, device=self.device).float()
        scales_L = torch.tensor(query.scales_L, device=self.device)
        ids_C = torch.arange(self.centroids, device=self.device)
        ids, scores = [], []
        lanes = max(1, BUDGET // (32 * self.centroids))
        for start in range(0, len(Q_LD), lanes):
            some = slice(start, start + lanes)
            dots_LC = values_LD[some] @ self.integers_CD.T
            S_LC = dots_LC * (scales_L[some, None] * self.scales_C)
            best_LP = float_keys(S_LC, ids_C).topk(min(nprobe, self.centroids), dim=1).indices
            ids.append(best_LP.int())
            scores.append(S_LC.gather(1, best_LP))
        return torch.cat(ids).cpu().numpy(), torch.cat(scores).cpu().numpy()

    def rows(self, coarse_DBL: torch.Tensor, gains_BL: torch.Tensor) -> torch.Tensor:
        """Every centroid's int16 score by every query token, as float32 [C·B, L]."""
        queries, lanes = gains_BL.shape
        dots_CX = self.integers_CD @ coarse_DBL.reshape(self.dim, queries * lanes)
        dots_CX *= gains_BL.reshape(1, -1) * self.scales_C[:, None]
        return dots_CX.round_().view(self.centroids * queries, lanes)
