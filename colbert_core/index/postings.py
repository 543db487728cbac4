"""Postings from codes: for each centroid, the passages that have a token of it, ascending.

Shapes: N passages, T tokens, C centroids, E postings.

Passages are taken in runs. A run's (centroid, passage) pairs are sorted, and each centroid's are
put behind those of the runs before, into as much room as the centroid has tokens: so lists are
sorted without sorting them. Where the tokens are many, this is done for some of the centroids at a
time, so that memory is 2 or 4 bytes for `TOKENS_AT_ONCE` tokens beside what one run takes; of a
shard that is larger than `MOST_PARTS` times that, for a part of its tokens, since each part reads
all codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from colbert_core.index.files import ArrayWriter, narrowest, write_packed
from colbert_core.packed_ints import SLACK, PackedInts
from colbert_core.posting_lists import encode_lists
from colbert_core.types import I64, U8, AnyArray

RUN_TOKENS = 1 << 17
TOKENS_AT_ONCE = 1 << 22
MOST_PARTS = 16


def build_postings(
    codes_T: PackedInts, offsets_N1: PackedInts, centroids: int
) -> Iterator[tuple[I64, I64, U8]]:
    """Codes and token offsets → the lists of all centroids, encoded, run by run of centroids.

    Args:
        codes_T: the centroid of each token, below `centroids`.
        offsets_N1: the first token of each passage, then T.
        centroids: how many lists there are.

    Yields:
        postings of each list of a run, bytes of each list, and all their bytes.
    """
    room_C = np.zeros(centroids, np.int64)
    for start in range(0, len(codes_T), RUN_TOKENS):
        codes = codes_T.read(start, min(start + RUN_TOKENS, len(codes_T)))
        room_C += np.bincount(codes, minlength=centroids)
    starts_C1 = np.concatenate([[0], np.cumsum(room_C)])
    at_once = max(TOKENS_AT_ONCE, len(codes_T) // MOST_PARTS)
    for low, high in _runs(starts_C1, at_once):
        starts_P1 = starts_C1[low : high + 1] - starts_C1[low]  # P: centroids of this part
        pids_T, counts_P = _invert(codes_T, offsets_N1, low, starts_P1)
        for first, last in _runs(starts_P1, RUN_TOKENS):
            counts = counts_P[first:last]
            room = room_C[low + first : low + last]
            begin, end = int(starts_P1[first]), int(starts_P1[last])
            rank = np.arange(begin, end) - np.repeat(starts_P1[first:last], room)
            pids_E = pids_T[begin:end][rank < np.repeat(counts, room)]
            yield counts, *encode_lists(counts, pids_E, len(offsets_N1) - 1)


def write_postings(
    folder: Path, codes_T: PackedInts, offsets_N1: PackedInts, centroids: int
) -> int:
    """Write `postings.npy` and `posting_offsets.npy` of a shard into a folder; how many postings.

    The same codes and offsets give the same bytes.
    """
    postings, sizes = 0, [np.zeros(1, np.int64)]
    with ArrayWriter(folder / "postings.npy", np.uint8) as lists:
        for counts, bytes_of, encoded in build_postings(codes_T, offsets_N1, centroids):
            postings += int(counts.sum())
            sizes.append(bytes_of)
            lists.append(encoded)
        lists.append(np.zeros(SLACK, np.uint8))
    starts_C1 = np.cumsum(np.concatenate(sizes))
    write_packed(folder / "posting_offsets.npy", starts_C1, int(starts_C1[-1]))
    return postings


def _invert(
    codes_T: PackedInts, offsets_N1: PackedInts, low: int, starts_P1: I64
) -> tuple[AnyArray, I64]:
    """(passages at starts_P1[p] … of each centroid low + p, how many they are)."""
    passages = len(offsets_N1) - 1
    pids_T = np.empty(int(starts_P1[-1]), narrowest(max(passages - 1, 0)))
    ends_P = starts_P1[:-1].copy()
    for first, offsets in _passage_runs(offsets_N1):
        codes = codes_T.read(int(offsets[0]), int(offsets[-1]))
        pids = np.repeat(np.arange(first, first + len(offsets) - 1), np.diff(offsets))
        if len(pids_T) < len(codes_T):
            codes -= low
            here = (codes >= 0) & (codes < len(ends_P))
            codes, pids = codes[here], pids[here]
        pairs_E = np.sort(codes << 32 | pids)
        pairs_E = pairs_E[np.diff(pairs_E, prepend=-1) != 0]
        codes_E = pairs_E >> 32
        first_E = np.flatnonzero(np.diff(codes_E, prepend=-1))
        lengths = np.diff(first_E, append=len(codes_E))
        at_E = np.arange(len(codes_E)) + np.repeat(ends_P[codes_E[first_E]] - first_E, lengths)
        pids_T[at_E] = pairs_E & 0xFFFFFFFF
        ends_P[codes_E[first_E]] += lengths
    return pids_T, ends_P - starts_P1[:-1]


def _passage_runs(offsets_N1: PackedInts) -> Iterator[tuple[int, I64]]:
    """Runs of passages that have `RUN_TOKENS` tokens at most: the first, and the offsets of all."""
    passages = len(offsets_N1) - 1
    for first in range(0, passages, RUN_TOKENS):
        offsets = offsets_N1.read(first, min(first + RUN_TOKENS, passages) + 1)
        for start, stop in _runs(offsets, RUN_TOKENS):
            yield first + start, offsets[start : stop + 1]


def _runs(offsets: I64, longest: int) -> Iterator[tuple[int, int]]:
    """Runs of entries that span at most `longest` together, or one that alone spans more."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + longest, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last
