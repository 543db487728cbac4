"""Checking that an index is whole: every checksum, every count, every code and posting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from colbert_core.errors import IndexCorrupt
from colbert_core.index.files import entry_of
from colbert_core.index.manifest import Manifest, read_current
from colbert_core.index.postings import build_postings
from colbert_core.index.reader import ShardReader, check_size, open_generation
from colbert_core.types import AnyArray

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
    generation = open_generation(index)
    seen: dict[str, str] = {}
    for shard in generation.shards:
        check_shard(shard)
        for identity in shard.ids():
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
    arrays, centroids = shard.arrays, shard.codec.centroid_count
    _check_offsets(shard.folder / "offsets.npy", arrays.offsets, shard.tokens, least=1)
    codes_T = shard.codes(0, shard.tokens)
    for start in range(0, shard.tokens, _BLOCK):
        largest = int(codes_T[start : start + _BLOCK].max())
        if largest >= centroids:
            raise IndexCorrupt(
                f"{shard.folder / 'codes.npy'}: code {largest} is past the {centroids} centroids"
            )
    _check_offsets(
        shard.folder / "posting_offsets.npy", arrays.posting_offsets, len(arrays.postings), least=0
    )
    offsets, postings = build_postings(codes_T, arrays.offsets, centroids, arrays.postings.dtype)
    for name, stored, derived in (
        ("posting_offsets", arrays.posting_offsets, offsets),
        ("postings", arrays.postings, postings),
    ):
        if not np.array_equal(stored, derived):
            raise IndexCorrupt(f"{shard.folder / name}.npy: it does not follow from the codes")


def _check_offsets(path: Path, offsets: AnyArray, end: int, *, least: int) -> None:
    steps = np.diff(offsets.astype(np.int64))
    if offsets[0] != 0 or int(offsets[-1]) != end or (len(steps) and int(steps.min()) < least):
        raise IndexCorrupt(f"{path}: the offsets do not rise from 0 to {end}")
