"""Checking that an index is whole: every checksum, here, and then what the files say
(`verify_structure.py`, `verify_deep.py`).

    check_index      every problem there is, as a report
    verify           the same, and an error at the first of them
    verify_checksums what a shard server does before it maps a shard
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colbert_core.errors import IndexCorrupt
from colbert_core.index.derive import follows_from
from colbert_core.index.files import check_size, entry_of
from colbert_core.index.manifest import CURRENT, FileEntry, Manifest, read_current
from colbert_core.index.verify_structure import check_structure

_MEANS = {
    "codes": "tokens of this shard are taken for others: its hits cannot be trusted",
    "residuals": "vectors of this shard decode wrongly: its scores cannot be trusted",
    "scales": "vectors of this shard decode to wrong lengths: its scores cannot be trusted",
    "contexts": "vectors of this shard decode wrongly: its scores cannot be trusted",
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
    for problem in check_structure(index, manifest, set(problems), deep, on_file):
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
