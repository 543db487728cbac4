"""Unsigned integers in as many bits as the largest of them needs, one string of bits.

Value i of width w lies in bits i·w … i·w + w − 1 of the string, its lowest bit first; bit k of the
string is bit k mod 8 of byte k div 8. `SLACK` zero bytes follow, so that one 64-bit load at the
byte where a value of up to 57 bits begins holds all of it and never leaves the array.
"""

from __future__ import annotations

import numpy as np

from colbert_core.types import I64, U8, AnyArray

SLACK = 7


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


def packed_array(values: AnyArray, largest: int) -> U8:
    """Values up to `largest` → uint8, packed, with the slack."""
    return np.append(pack_ints(values, width_of(largest)), np.zeros(SLACK, np.uint8))


class PackedInts:
    """Packed values, read in place.

    Args:
        name: of the array, for the message.
        data: uint8, the packed values and the slack.
        count: how many there are.
        largest: what decides their width.

    Raises:
        ValueError: the array has another length than these values take.
    """

    def __init__(self, name: str, data: U8, count: int, largest: int) -> None:
        self._width = width_of(largest)
        expected = packed_bytes(count, self._width)
        if len(data) != expected:
            raise ValueError(f"{name} has {len(data)} bytes, expected {expected}")
        self._count = count
        self._words = np.ndarray(expected - SLACK, "<u8", data, strides=(1,))  # one at each byte

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return int(self.read(index, index + 1)[0])

    def read(self, start: int, stop: int) -> I64:
        """Values start … stop − 1, int64."""
        bits = np.arange(start, stop, dtype=np.int64) * self._width
        words = self._words[bits >> 3] >> (bits & 7).astype(np.uint64)
        values: I64 = (words & np.uint64((1 << self._width) - 1)).astype(np.int64)
        return values
