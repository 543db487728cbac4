"""Checking that an index is whole: every checksum, every count, every code and posting.

    check_index      every problem there is, as a report
    verify           the same, and an error at the first of them
    verify_checksums what a shard server does before it maps a shard

`deep` reads what checksums cannot vouch for where an index was wrong from the start: it decodes
every vector, every posting list, every text and every metadata object.

Shapes: N passages, T tokens, D dimensions, C centroids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.codec import Codec
from colbert_core.errors import IndexCorrupt
from colbert_core.index.derive import follows_from
from colbert_core.index.files import entry_of
from colbert_core.index.manifest import (
    CURRENT,
    FileEntry,
    Manifest,
    ShardEntry,
    read_current,
)
from colbert_core.index.postings import build_postings
from colbert_core.index.reader import ShardReader, check_size
from colbert_core.index.verify_deep import check_contents
from colbert_core.packed_ints import SLACK, PackedInts, packed_array

_BLOCK = 1 << 22
_MEANS = {
    "codes": "tokens of this shard are taken for others: its hits cannot be trusted",
    "residuals": "vectors of this shard decode wrongly: its scores cannot be trusted",
    "scales": "vectors of this shard decode to wrong lengths: its scores cannot be trusted",
    "offsets": "tokens of this shard are given to other passages: its hits cannot be trusted",
    "posting_offsets": "candidates of this shard are lost or wrong",
    "postings": "candidates of this shard are lost or wrong",
    "ids": "hits of this shard may bear wrong ids",
    "texts": "hits of this shard may show wrong texts or metadata",
    "metadata": "filters on this shard may be answered wrongly",
    "windows": "hits of this shard may name wrong documents or windows",
    "projection": "text queries are reduced wrongly",
}
_CODEC_MEANS = "every vector decodes wrongly, and queries probe wrong centroids"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an index.

    Attributes:
        file: path relative to the index.
        what: what was found.
        means: what it does to searches.
        repairable: whether `repair` can make the file again from others, if those are whole.
    """

    file: str
    what: str
    means: str
    repairable: bool = False


@dataclass(frozen=True)
class Report:
    """What was checked, and every problem that was found.

    Attributes:
        generation: of the live generation, or "" where it cannot be known.
        files, size_bytes, passages, tokens: what was read.
        deep: whether contents were decoded too.
        problems: none where the index is whole.
    """

    generation: str = ""
    files: int = 0
    size_bytes: int = 0
    passages: int = 0
    tokens: int = 0
    deep: bool = False
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": not self.problems, **asdict(self)}


def check_index(
    path: str | Path,
    *,
    deep: bool = False,
    on_file: Callable[[str], None] | None = None,
    manifest: Manifest | None = None,
) -> Report:
    """Read every byte of a generation and report every problem.

    Args:
        path: folder of the index.
        deep: decode every vector, posting list, text and metadata object as well.
        on_file: called with the name of each file before it is read.
        manifest: of the generation to check; the live one by default.

    Raises:
        IndexMissing: there is no index here.
    """
    index = Path(path)
    if manifest is None:
        try:
            manifest = read_current(index)
        except IndexCorrupt as error:
            return Report(problems=(_unreadable(index, error),))
    problems: dict[str, Problem] = {}
    for name, entry in manifest.files.items():
        if on_file:
            on_file(name)
        try:
            _check_file(index / name, entry)
        except IndexCorrupt as error:
            _add(problems, manifest, name, _after(error, index / name))
    for problem in _check_structure(index, manifest, set(problems), deep, on_file):
        _add(problems, manifest, *problem)
    return Report(
        manifest.generation,
        len(manifest.files),
        sum(entry.size_bytes for entry in manifest.files.values()),
        manifest.passages,
        manifest.tokens,
        deep,
        tuple(problems.values()),
    )


def verify(
    path: str | Path, on_file: Callable[[str], None] | None = None, *, deep: bool = False
) -> Manifest:
    """Read every byte of the live generation and check that it holds together.

    Args:
        path: folder of the index.
        on_file: called with the name of each file before it is read.
        deep: as for `check_index`.

    Raises:
        IndexMissing: there is no index here.
        IndexCorrupt: naming the file and what is wrong with it.
    """
    index = Path(path)
    manifest = read_current(index)
    report = check_index(index, deep=deep, on_file=on_file, manifest=manifest)
    if report.problems:
        first, more = report.problems[0], len(report.problems) - 1
        raise IndexCorrupt(
            f"{index / first.file}: {first.what}"
            + (f" (and {more} more problems)" if more else "")
            + "; `tartan index verify` lists all, `tartan index repair` mends what can be mended"
        )
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
        _check_file(index / name, entry)


def _check_file(path: Path, entry: FileEntry) -> None:
    """Compare one file's size and SHA-256 with what the manifest says."""
    check_size(path, entry)
    try:
        found = entry_of(path).sha256
    except OSError as error:
        raise IndexCorrupt(f"{path}: it cannot be read: {error.strerror}") from error
    if found != entry.sha256:
        raise IndexCorrupt(
            f"{path}: its bytes were altered (SHA-256 is not the manifest's); "
            "restore the file or build the index again"
        )


def _unreadable(index: Path, error: IndexCorrupt) -> Problem:
    """The pointer or the manifest, whichever the message is about."""
    path, _, what = str(error).partition(": ")
    file = path.removeprefix(f"{index}/")
    return Problem(file or CURRENT, what, "the index cannot be opened")


def _after(error: IndexCorrupt, path: Path) -> str:
    """What a message says behind the name of the file, without the remedy."""
    return str(error).removeprefix(f"{path}: ").split("; ")[0]


def _add(problems: dict[str, Problem], manifest: Manifest, name: str, what: str) -> None:
    """Note a problem; the first one of a file says most."""
    if name in problems:
        return
    stem = name.rsplit("/", 1)[-1].split(".")[0]
    means = _MEANS.get(stem, _CODEC_MEANS if name.startswith("global/") else "unknown")
    problems[name] = Problem(name, what, means, follows_from(manifest, name) is not None)


def _check_structure(
    index: Path,
    manifest: Manifest,
    damaged: set[str],
    deep: bool,
    on_file: Callable[[str], None] | None,
) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of everything that checksums do not say; only whole files are read."""
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
