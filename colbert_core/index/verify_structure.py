"""What checksums do not say of an index: that codec, offsets, codes, postings and ids fit together.

`deep` reads what checksums cannot vouch for where an index was wrong from the start: it decodes
every vector, every posting list, every text and every metadata object.

Shapes: N passages, T tokens, D dimensions, C centroids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from colbert_core.codec import Codec
from colbert_core.errors import IndexCorrupt
from colbert_core.index.manifest import Manifest, ShardEntry
from colbert_core.index.postings import build_postings
from colbert_core.index.reader import ShardReader
from colbert_core.index.verify_deep import check_contents
from colbert_core.packed_ints import SLACK, PackedInts, packed_array

_BLOCK = 1 << 22


def check_structure(
    index: Path,
    manifest: Manifest,
    damaged: set[str],
    deep: bool,
    on_file: Callable[[str], None] | None,
) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of everything that checksums do not say; only whole files are read.

    Args:
        damaged: names of the files that are not whole.
        deep: decode every vector, posting list, text and metadata object as well.
        on_file: called with the name of each shard's folder before it is read.
    """
    here = f"global/{manifest.codec_id}"
    if any(name.startswith(f"{here}/") for name in damaged):
        return
    try:
        codec = Codec.load(index / here)
        _ = codec.centroid_table
    except (IndexCorrupt, ValueError) as error:
        yield f"{here}/codec.json", _after_folder(error, index / here)
        return
    seen: dict[str, str] = {}
    for entry in manifest.shards:
        folder = f"shards/{entry.id}"
        if on_file:
            on_file(folder)
        if any(name.startswith(f"{folder}/") for name in damaged):
            continue
        try:
            shard = ShardReader(index, entry, codec)
        except IndexCorrupt as error:
            yield _file_of(error, index, folder), _after_folder(error, index / folder)
            continue
        for file, what in _check_shard(shard, entry, codec, seen, deep):
            yield f"{folder}/{file}", what


def _check_shard(
    shard: ShardReader, entry: ShardEntry, codec: Codec, seen: dict[str, str], deep: bool
) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of one shard's offsets, codes, postings, kernel view and ids."""
    wrong = list(_check_tokens(shard))
    yield from wrong
    if wrong:
        return
    try:
        _ = shard.kernel
    except IndexCorrupt as error:
        yield "residuals.npy", _after_folder(error, shard.folder)
        return
    try:
        live = shard.live_ids()
    except IndexCorrupt as error:
        yield "ids.arrow", _after_folder(error, shard.folder)
        return
    for identity in live:
        if identity in seen:
            yield "ids.arrow", f"id {identity!r} stands in shard {seen[identity]} too"
            break
        seen[identity] = entry.id
    if deep:
        yield from check_contents(shard, codec)


def _check_tokens(shard: ShardReader) -> Iterator[tuple[str, str]]:
    centroids = shard.codec.centroid_count
    try:
        codes_T = shard.codes
    except ValueError as error:
        yield "codes.npy", str(error)
        return
    try:
        offsets_N1 = shard.offsets.read(0, shard.passages + 1)
    except ValueError as error:
        yield "offsets.npy", str(error)
        return
    ends = int(offsets_N1[0]), int(offsets_N1[-1])
    if ends != (0, shard.tokens) or (shard.passages and int(np.diff(offsets_N1).min()) < 1):
        yield "offsets.npy", f"the offsets do not rise from 0 to {shard.tokens}"
        return
    for start in range(0, shard.tokens, _BLOCK):
        largest = int(codes_T.read(start, min(start + _BLOCK, shard.tokens)).max())
        if largest >= centroids:
            yield "codes.npy", f"code {largest} is past the {centroids} centroids"
            return
    yield from _check_postings(shard, codes_T)


def _check_postings(shard: ShardReader, codes_T: PackedInts) -> Iterator[tuple[str, str]]:
    """Compare the lists with those that the codes give; a list has one encoding."""
    stored, stored_offsets = shard.arrays.postings, shard.arrays.posting_offsets
    postings, end, same, lengths = 0, 0, True, [np.zeros(1, np.int64)]
    for counts, sizes, lists in build_postings(codes_T, shard.offsets, shard.codec.centroid_count):
        same &= np.array_equal(stored[end : end + len(lists)], lists)
        postings, end = postings + int(counts.sum()), end + len(lists)
        lengths.append(sizes)
    same &= len(stored) == end + SLACK and not stored[end:].any()
    packed = packed_array(np.cumsum(np.concatenate(lengths)), end)
    if not same:
        yield "postings.npy", "it does not follow from the codes"
    elif postings != shard.entry.postings:
        yield (
            "postings.npy",
            f"it has {postings} postings and the manifest says {shard.entry.postings}",
        )
    if not np.array_equal(stored_offsets, packed):
        yield "posting_offsets.npy", "it does not follow from the codes"


def _after_folder(error: Exception, folder: Path) -> str:
    """A message without the path before it and the remedy behind."""
    text = str(error)
    path, colon, what = text.partition(": ")
    return (what if colon and path.startswith(str(folder)) else text).split("; ")[0]


def _file_of(error: IndexCorrupt, index: Path, folder: str) -> str:
    """The file that a message begins with, or the shard's ids where it names its folder alone."""
    path = str(error).partition(": ")[0].removeprefix(f"{index}/")
    return path if path.startswith(f"{folder}/") else f"{folder}/ids.arrow"
