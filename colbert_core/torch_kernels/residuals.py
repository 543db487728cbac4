"""Packed residuals → levels. All that these kernels know of the packing is in this one function."""

from __future__ import annotations

import torch

from colbert_core.reference.residuals import PLANES


def residual_levels(
    packed_TB: torch.Tensor, bits: int, dim: int, levels: torch.Tensor
) -> torch.Tensor:
    """Packed residuals uint8 [T, B] and float32 levels [2^bits] → the level of each dimension,
    float32 [T, D]; `reference/arithmetic.py`, `unpack_residuals`, defines the layout."""
    dims_D = torch.arange(dim, dtype=torch.int32, device=packed_TB.device)
    indices_TD = torch.zeros((len(packed_TB), dim), dtype=torch.int32, device=packed_TB.device)
    first = 0
    for width, shift in PLANES[bits]:
        size = dim * width // 8
        bytes_TD = packed_TB.index_select(1, first + dims_D % size).int()
        fields_TD = (bytes_TD >> (dims_D // size * width)) & ((1 << width) - 1)
        indices_TD |= fields_TD << shift
        first += size
    return levels.index_select(0, indices_TD.view(-1)).view(len(packed_TB), dim)
