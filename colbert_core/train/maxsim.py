"""MaxSim as it is trained: differentiable, and summed in float32 whatever the model runs in.

Shapes: B queries, M passages, W passages of each query (M = B · W), L query tokens, T passage
tokens, D dimensions. Vectors come padded, with masks of the tokens that count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, slots=True)
class Vectors:
    """Token vectors of several texts.

    Attributes:
        x_BLD: float [B, L, D], where `mask_BL` of unit length, or a query's of its weight.
        mask_BL: bool [B, L], the tokens that count.
    """

    x_BLD: Tensor
    mask_BL: Tensor

    def __len__(self) -> int:
        return len(self.x_BLD)

    def widened(self, length: int) -> Vectors:
        """The same with padding up to `length` tokens."""
        more = length - self.mask_BL.shape[1]
        return Vectors(pad(self.x_BLD, (0, 0, 0, more)), pad(self.mask_BL, (0, more)))

    def with_x(self, x_BLD: Tensor) -> Vectors:
        """Other values in the same places."""
        return Vectors(x_BLD, self.mask_BL)


def joined(parts: list[Vectors]) -> Vectors:
    """Several as one, padded to the longest."""
    length = max(part.mask_BL.shape[1] for part in parts)
    wide = [part.widened(length) for part in parts]
    return Vectors(torch.cat([w.x_BLD for w in wide]), torch.cat([w.mask_BL for w in wide]))


def own_scores(queries: Vectors, passages: Vectors) -> Tensor:
    """float32 [B, W]: each query against its own passages, which stand one after the other."""
    tokens = passages.x_BLD.shape[1:]
    own = passages.x_BLD.view(len(queries), -1, *tokens)
    mask_BWT = passages.mask_BL.view(*own.shape[:3])
    with torch.autocast(own.device.type, enabled=False):
        similar_BWLT = torch.einsum("bld,bwtd->bwlt", queries.x_BLD.float(), own.float())
        best_BWL = similar_BWLT.masked_fill(~mask_BWT[:, :, None], -torch.inf).amax(-1)
        return _sum(best_BWL, queries.mask_BL[:, None])


def all_scores(queries: Vectors, passages: Vectors) -> Tensor:
    """float32 [B, M]: each query against every passage.

    Query by query, and once more when gradients are asked for: kept for all at once, the products
    would take B · M · L · T numbers.
    """
    x_MTD = passages.x_BLD.float()
    rows = [
        checkpoint(_row, query_LD[mask_L], x_MTD, passages.mask_BL, use_reentrant=False)
        for query_LD, mask_L in zip(queries.x_BLD.float(), queries.mask_BL, strict=True)
    ]
    return torch.stack(rows)


def _row(query_LD: Tensor, x_MTD: Tensor, mask_MT: Tensor) -> Tensor:
    """float32 [M]: one query, without padding, against every passage."""
    with torch.autocast(x_MTD.device.type, enabled=False):
        similar_MLT = torch.einsum("ld,mtd->mlt", query_LD, x_MTD)
        return similar_MLT.masked_fill(~mask_MT[:, None], -torch.inf).amax(-1).sum(-1)


def _sum(best: Tensor, mask: Tensor) -> Tensor:
    return best.masked_fill(~mask, 0.0).sum(-1)
