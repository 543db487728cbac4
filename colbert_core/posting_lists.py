"""Posting lists in Elias–Fano code: about 2 + log2(N / n) bits a passage of a list of n.

Shapes: N passages, C centroids, E postings.

A list of n > 0 ascending ordinals below N is a run of bytes; an empty list is none:

    n          7 bits a byte, the lowest first; the top bit is set on every byte but the last
    low bits   ⌈n·l/8⌉ bytes: the lowest l = ⌊log2(N / n)⌋ bits of every ordinal, l bits each
    high bits  to the end of the list: the i-th one (from 0) stands at bit (ordinal >> l) + i

Bit k of either string is bit k mod 8 of byte k div 8. The last byte holds the last one. Lists stand
one after the other, and `SLACK` zero bytes follow the last, for readers that take 8 bytes at once.
"""

from __future__ import annotations

import numpy as np

from colbert_core.types import I64, U8, AnyArray


def encode_lists(counts_C: I64, pids_E: AnyArray, passages: int) -> tuple[I64, U8]:
    """Lists, one after the other → (bytes of each list int64 [C], all their bytes).

    Args:
        counts_C: ordinals of each list, int64.
        pids_E: the ordinals, ascending and each once within a list.
        passages: N.
    """
    sizes_C = np.zeros(len(counts_C), np.int64)
    used_C = counts_C > 0
    n_U = counts_C[used_C]  # U: lists that are not empty
    if not len(n_U):
        return sizes_C, np.zeros(0, np.uint8)
    width_U = np.frexp(passages // n_U)[1].astype(np.int64) - 1
    last_U = pids_E[np.cumsum(n_U) - 1].astype(np.int64)
    heads_U = (np.frexp(n_U)[1].astype(np.int64) + 6) // 7
    lows_U = (n_U * width_U + 7) // 8
    sizes_U = heads_U + lows_U + (n_U + (last_U >> width_U) + 7) // 8
    sizes_C[used_C] = sizes_U
    starts_U = np.cumsum(sizes_U) - sizes_U

    rank_E = np.arange(len(pids_E)) - np.repeat(np.cumsum(n_U) - n_U, n_U)
    width_E = np.repeat(width_U, n_U)
    low_E = np.repeat(8 * (starts_U + heads_U), n_U) + rank_E * width_E
    high_E = np.repeat(8 * (starts_U + heads_U + lows_U), n_U) + rank_E + (pids_E >> width_E)
    packed = np.zeros(int(sizes_U.sum()), np.uint8)
    _put(packed, low_E, pids_E & ((1 << width_E) - 1), int(width_U.max()))
    _put(packed, high_E, np.ones_like(high_E), 1)
    for k in range(int(heads_U.max())):
        some_U = heads_U > k
        more = (heads_U[some_U] > k + 1).astype(np.int64) << 7
        packed[starts_U[some_U] + k] = (n_U[some_U] >> (7 * k)) & 127 | more
    return sizes_C, packed


def _put(packed: U8, at_E: I64, values_E: I64, width: int) -> None:
    """Write values of at most `width` bits where nothing but zeros is, at bits `at_E`."""
    shifted_E = values_E << (at_E & 7)
    for k in range((width + 14) // 8):
        # No two values share a bit: the sum of what falls into a byte is the byte.
        bytes_E = (shifted_E >> (8 * k)) & 255
        sums = np.bincount((at_E >> 3) + k, bytes_E, len(packed))
        packed |= sums[: len(packed)].astype(np.uint8)


def decode_list(data: U8, start: int, end: int, passages: int) -> I64:
    """The list in bytes start … end − 1 → its ordinals, int64.

    Raises:
        ValueError: there is no list of ordinals below `passages`; the message goes on after
            "the postings of centroid 7".
    """
    if not start <= end <= len(data):
        raise ValueError(f"span bytes {start} to {end} of {len(data)}")
    if start == end:
        return np.zeros(0, np.int64)
    data = data[start:end]
    count, head = _read_count(data)
    if not 1 <= count <= passages:
        raise ValueError(f"count {count} of {passages} passages")
    width = (passages // count).bit_length() - 1
    low_end = head + (count * width + 7) // 8
    if low_end > len(data):
        raise ValueError("are cut short")
    if len(data) - low_end > (count + (passages >> width) + 7) // 8:
        raise ValueError("are too long")
    low = np.unpackbits(data[head:low_end], bitorder="little", count=count * width)
    low_E = low.reshape(count, width) @ (np.int64(1) << np.arange(width))
    ones_E = np.flatnonzero(np.unpackbits(data[low_end:], bitorder="little"))
    if len(ones_E) != count:
        raise ValueError(f"are {len(ones_E)} and not the {count} counted")
    pids_E: I64 = ((ones_E - np.arange(count)) << width) | low_E
    if int(pids_E.max()) >= passages:
        raise ValueError(f"name passage {int(pids_E.max())} of {passages}")
    return pids_E


def _read_count(data: U8) -> tuple[int, int]:
    """How many postings, and the bytes that say so."""
    count = 0
    for k, byte in enumerate(data[:5].tolist()):
        count |= (byte & 127) << (7 * k)
        if byte < 128:
            return count, k + 1
    raise ValueError("do not end counting")
