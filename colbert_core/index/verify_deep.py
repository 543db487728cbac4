"""What a deep check reads of a shard: vectors, posting lists, texts and metadata, one by one.

Every list is decoded by the definition of its code, apart from what writes and searches it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from colbert_core.codec import Codec
from colbert_core.errors import IndexCorrupt
from colbert_core.index.reader import ShardReader
from colbert_core.packed_ints import SLACK, PackedInts
from colbert_core.posting_lists import decode_list

_BLOCK = 1 << 16
_LENGTHS = (0.5, 2.0)
"""What the length of a decoded vector may be; those of both codecs are near one."""


def check_contents(shard: ShardReader, codec: Codec) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of one shard whose counts and codes are known to be right."""
    yield from _check_vectors(shard, codec)
    yield from _check_lists(shard, codec)
    yield from _check_passages(shard)


def _check_vectors(shard: ShardReader, codec: Codec) -> Iterator[tuple[str, str]]:
    """Every token decodes to a finite vector of about unit length."""
    start, (low, high) = 0, _LENGTHS
    for run in shard.runs(0, shard.passages, _BLOCK):
        norms_T = np.linalg.norm(codec.decode(*shard.compressed(*run)), axis=1)
        odd_T = ~((norms_T >= low) & (norms_T <= high))
        if odd_T.any():
            first = int(np.flatnonzero(odd_T)[0])
            yield (
                "residuals.npy",
                f"token {start + first} decodes to a vector of length {norms_T[first]:.3g}",
            )
            return
        start += len(norms_T)


def _check_lists(shard: ShardReader, codec: Codec) -> Iterator[tuple[str, str]]:
    """Every posting list decodes, and together they hold each passage of each code once."""
    postings, count = shard.arrays.postings, codec.centroid_count
    size = len(postings) - SLACK
    starts = PackedInts("posting_offsets", shard.arrays.posting_offsets, count + 1, size)
    starts_C1 = starts.read(0, count + 1)
    total = 0
    for centroid in range(count):
        try:
            start, end = int(starts_C1[centroid]), int(starts_C1[centroid + 1])
            total += len(decode_list(postings, start, end, shard.passages))
        except ValueError as error:
            yield "postings.npy", f"the postings of centroid {centroid} {error}"
            return
    if total != shard.entry.postings:
        yield (
            "postings.npy",
            f"its lists hold {total} postings and the manifest says {shard.entry.postings}",
        )


def _check_passages(shard: ShardReader) -> Iterator[tuple[str, str]]:
    """Every id is there, every text can be read, all metadata are JSON objects."""
    for pid in range(shard.passages):
        try:
            row = shard.stored(pid)
            if not row.id:
                yield "ids.arrow", f"passage {pid} has no id"
                return
            _ = row.metadata
        except IndexCorrupt as error:
            yield "texts.arrow", str(error).split("; ")[0].removeprefix(f"{shard.folder}/")
            return
