"""Packing the residual indices of `colbertv2`: bit planes, and the layout of Stanford's ColBERT.

Shapes: T tokens, D dimensions, B packed bytes per token = D·bits/8.

We store *planes*, so that a kernel unpacks with shifts and masks alone. In a plane of width w
with n = D·w/8 bytes, byte i holds in field j (bits j·w … j·w+w−1) the value of dimension i + j·n.
1, 2 and 4 bits are one plane; 3 bits are a plane of the low two bits, then one of the high bit.

Stanford's layout (colbert-ai `residual.py`) writes the bits of every dimension least significant
first, dimensions ascending, and fills each byte from its most significant bit. It is kept for
importing indexes and for checking our codec against the paper's reference.
"""

from __future__ import annotations

import numpy as np

from colbert_core.reference.residuals import PLANES, pack_planes
from colbert_core.types import U8

__all__ = [
    "PLANES",
    "pack_planes",
    "pack_stanford",
    "packed_bytes",
    "unpack_planes",
    "unpack_stanford",
]


def packed_bytes(dim: int, bits: int) -> int:
    """Bytes of one token's packed residual."""
    return dim * bits // 8


def unpack_planes(packed_TB: U8, bits: int, dim: int) -> U8:
    """uint8 [T, B] → uint8 [T, D] indices; the inverse of `pack_planes`."""
    tokens = len(packed_TB)
    indices_TD = np.zeros((tokens, dim), np.uint8)
    first = 0
    for width, shift in PLANES[bits]:
        fields, size = 8 // width, dim * width // 8
        plane = packed_TB[:, first : first + size]
        for j in range(fields):
            field = (plane >> (j * width)) & ((1 << width) - 1)
            indices_TD[:, j * size : (j + 1) * size] |= field << shift
        first += size
    return indices_TD


def pack_stanford(indices_TD: U8, bits: int) -> U8:
    """uint8 [T, D] indices → uint8 [T, B] as colbert-ai's `ResidualCodec.binarize` packs them."""
    tokens, dim = indices_TD.shape
    bits_TDb = (indices_TD[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(bits_TDb.reshape(tokens, dim * bits), axis=1)


def unpack_stanford(packed_TB: U8, bits: int, dim: int) -> U8:
    """The inverse of `pack_stanford`."""
    if 8 % bits == 0:  # a byte holds whole dimensions: one look-up
        bytes_256 = np.arange(256, dtype=np.uint8)[:, None]
        indices_TD: U8 = _unpack_bits(bytes_256, bits, 8 // bits)[packed_TB].reshape(-1, dim)
        return indices_TD
    return _unpack_bits(packed_TB, bits, dim)


def _unpack_bits(packed_TB: U8, bits: int, dim: int) -> U8:
    bits_TDb = np.unpackbits(packed_TB, axis=1, count=dim * bits).reshape(-1, dim, bits)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    indices_TD: U8 = (bits_TDb * weights).sum(axis=2, dtype=np.uint8)
    return indices_TD
