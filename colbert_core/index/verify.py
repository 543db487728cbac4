"""Checking that an index is whole: every checksum, every count, every code and posting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from colbert_core.errors import IndexCorrupt
from colbert_core.index.files import entry_of
from colbert_core.index.manifest import Manifest, read_current
from colbert_core.index.postings import build_postings
from colbert_core.index.reader import ShardReader, check_size, open_generation
from colbert_core.packed_ints import SLACK, packed_array
from colbert_core.types import I64, U8

_BLOCK = 1 << 22


def verify(path: str | Path, on_file: Callable[[str], None] | None = None) -> Manifest:
    """Read every byte of the live generation and check that it holds together.

    Args:
        path: folder of the index.
        on_file: called with the name of each file before it is read.

    Raises:
        IndexMissing: there is no index here.
        IndexCorrupt: naming the file and what is wrong with it.
    """
    index = Path(path)
    manifest = read_current(index)
    verify_checksums(index, manifest, on_file)
    generation = open_generation(index, generation=manifest.generation)
    seen: dict[str, str] = {}
    for shard in generation.shards:
        check_shard(shard)
        live_N = shard.live_N
        for pid, identity in enumerate(shard.ids()):
            if live_N is not None and not live_N[pid]:
                continue
            if identity in seen:
                raise IndexCorrupt(
                    f"{shard.folder}: id {identity!r} stands in shard {seen[identity]} too"
                )
            seen[identity] = shard.entry.id
    return manifest


def verify_checksums(
    index: Path, manifest: Manifest, on_file: Callable[[str], None] | None = None, under: str = ""
) -> None:
    """Compare the files below `under` with the manifest's sizes and SHA-256 sums."""
    for name, entry in manifest.files.items():
        if not name.startswith(under):
            continue
        if on_file:
            on_file(name)
        check_size(index / name, entry)
        if entry_of(index / name).sha256 != entry.sha256:
            raise IndexCorrupt(
                f"{index / name}: its bytes were altered (SHA-256 is not the manifest's); "
                "restore the file or build the index again"
            )


def check_shard(shard: ShardReader) -> None:
    """Check one shard's offsets and codes, and that its postings are those of its codes."""
    centroids = shard.codec.centroid_count
    try:
        codes_T, offsets_N1 = shard.codes, shard.offsets.read(0, shard.passages + 1)
    except ValueError as error:
        raise IndexCorrupt(f"{shard.folder}: {error}") from error
    ends = int(offsets_N1[0]), int(offsets_N1[-1])
    if ends != (0, shard.tokens) or (shard.passages and int(np.diff(offsets_N1).min()) < 1):
        raise IndexCorrupt(
            f"{shard.folder / 'offsets.npy'}: the offsets do not rise from 0 to {shard.tokens}"
        )
    for start in range(0, shard.tokens, _BLOCK):
        largest = int(codes_T.read(start, min(start + _BLOCK, shard.tokens)).max())
        if largest >= centroids:
            raise IndexCorrupt(
                f"{shard.folder / 'codes.npy'}: code {largest} is past the {centroids} centroids"
            )
    _check_postings(shard, build_postings(codes_T, offsets_N1, centroids))


def _check_postings(shard: ShardReader, derived: Iterator[tuple[I64, I64, U8]]) -> None:
    """Compare the lists with those that the codes give; a list has one encoding."""
    stored, stored_offsets = shard.arrays.postings, shard.arrays.posting_offsets
    postings, end, same, lengths = 0, 0, True, [np.zeros(1, np.int64)]
    for counts, sizes, lists in derived:
        same &= np.array_equal(stored[end : end + len(lists)], lists)
        postings, end = postings + int(counts.sum()), end + len(lists)
        lengths.append(sizes)
    same &= len(stored) == end + SLACK and not stored[end:].any()
    packed = packed_array(np.cumsum(np.concatenate(lengths)), end)
    for name, fits in (
        ("postings", same and postings == shard.entry.postings),
        ("posting_offsets", np.array_equal(stored_offsets, packed)),
    ):
        if not fits:
            raise IndexCorrupt(f"{shard.folder / name}.npy: it does not follow from the codes")
