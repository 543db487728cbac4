"""Packed residuals → levels. All that these kernels know of the packing is in this one file."""

from __future__ import annotations

import torch

from colbert_core.reference.residuals import PLANES
from colbert_core.reference.trellis import WINDOW, WINDOWS


def residual_levels(
    packed_TB: torch.Tensor, bits: int, dim: int, levels: torch.Tensor
) -> torch.Tensor:
    """Packed residuals uint8 [T, B] and float32 levels → the level of each dimension, float32
    [T, D]; 64 levels are those of a trellis (`reference/trellis.py`), fewer are named by planes."""
    unpack = _windows if len(levels) == WINDOWS else _indices
    indices_TD = unpack(packed_TB, bits, dim)
    return levels.index_select(0, indices_TD.view(-1)).view(len(packed_TB), dim)


def _windows(packed_TB: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """The window of every dimension, int32 [T, D], as `reference/trellis.py` defines it.

    With a byte of zeros before the string, every window lies in two neighbouring bytes.
    """
    zeros_T1 = torch.zeros_like(packed_TB[:, :1])
    bytes_TB = torch.cat([zeros_T1, packed_TB, zeros_T1], dim=1).int()
    pairs_TB = bytes_TB[:, :-1] | (bytes_TB[:, 1:] << 8)
    dims_D = torch.arange(1, dim + 1, dtype=torch.int32, device=packed_TB.device)
    first_D = 8 + bits * dims_D - WINDOW
    return (pairs_TB.index_select(1, first_D >> 3) >> (first_D & 7)) & (WINDOWS - 1)


def _indices(packed_TB: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """The index of every dimension, int32 [T, D], as `unpack_residuals` does it."""
    dims_D = torch.arange(dim, dtype=torch.int32, device=packed_TB.device)
    indices_TD = torch.zeros((len(packed_TB), dim), dtype=torch.int32, device=packed_TB.device)
    first = 0
    for width, shift in PLANES[bits]:
        size = dim * width // 8
        bytes_TD = packed_TB.index_select(1, first + dims_D % size).int()
        fields_TD = (bytes_TD >> (dims_D // size * width)) & ((1 << width) - 1)
        indices_TD |= fields_TD << shift
        first += size
    return indices_TD
