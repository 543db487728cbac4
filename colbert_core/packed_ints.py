"""Unsigned integers in as many bits as the largest of them needs, one string of bits.

Value i of width w lies in bits i·w … i·w + w − 1 of the string, its lowest bit first; bit k of the
string is bit k mod 8 of byte k div 8. `SLACK` zero bytes follow, so that one 64-bit load at the
byte where a value begins holds all of it and never leaves the array: hence `MAX_WIDTH`.
"""

from __future__ import annotations

import numpy as np

from colbert_core.types import U8, U64, AnyArray

SLACK = 7
MAX_WIDTH = 57


def width_of(largest: int) -> int:
    """Bits that values up to `largest` are packed in; at least one."""
    return max(1, int(largest).bit_length())


def packed_bytes(count: int, width: int) -> int:
    """Bytes of `count` packed values, the slack included."""
    return -(-count * width // 8) + SLACK


def pack_ints(values: AnyArray, width: int) -> U8:
    """Values [n] below 2^width → uint8 [⌈n·width/8⌉], the slack not included.

    Eight values take `width` whole bytes, so what was packed in multiples of eight can be joined.
    """
    groups = -(-len(values) // 8)
    values_G8 = np.zeros((groups, 8), np.uint64)
    values_G8.reshape(-1)[: len(values)] = values
    packed = np.zeros((groups, width), np.uint8)
    for j in range(8):
        byte, shift = divmod(j * width, 8)
        shifted_G = values_G8[:, j] << np.uint64(shift)
        for k in range(-(-(shift + width) // 8)):
            packed[:, byte + k] |= (shifted_G >> np.uint64(8 * k)).astype(np.uint8)
    return packed.reshape(-1)[: -(-len(values) * width // 8)]


def unpack_ints(packed: U8, width: int, start: int, stop: int) -> U64:
    """Values start … stop − 1, uint64, of a packed array with its slack."""
    bits = np.arange(start, stop, dtype=np.int64) * width
    words = np.ndarray(max(0, len(packed) - SLACK), "<u8", packed, strides=(1,))
    shifts = (bits & 7).astype(np.uint64)
    values: U64 = (words[bits >> 3] >> shifts) & np.uint64((1 << width) - 1)
    return values
