"""The generations of an index: which there are, going back to one, and collecting old ones.

A generation is a manifest; its files may be shared with others. One that a process has open holds
a lease (`index/lease.py`) and is never collected, and neither is the live one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from colbert_core.errors import IndexMissing, InvalidInput
from colbert_core.index import Manifest, make_live, read_current, read_generation, write_lock
from colbert_core.index.files import check_size, sync_folder
from colbert_core.index.lease import in_use, lock_alone
from colbert_core.index.leftovers import WRITTEN, remove
from colbert_core.index.manifest import manifest_path

STAGING = "staging"
BEGUN_ANEW = "add"
"""The folder in it of jobs that cannot be gone on with: one that is there was killed."""


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """One generation.

    Attributes:
        generation, parent, created: as its manifest says.
        live: whether it is what `Index.open` opens.
        in_use: whether a process has it open.
        passages: that can be found.
        deleted: that are stored and cannot.
        shards, delta_shards: all of them, and those that were added.
        size_bytes: of all its files, those that it shares among them.
    """

    generation: str
    parent: str | None
    created: str
    live: bool
    in_use: bool
    passages: int
    deleted: int
    shards: int
    delta_shards: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What was, or would be, collected.

    Attributes:
        removed: generations that are gone.
        kept: generations that stay, the newest first.
        in_use: those of them that stay because a process has them open.
        files: paths relative to the index that are gone; a folder stands for what is in it.
        freed_bytes: that these took.
        unfinished: whether work of an interrupted job was left.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    in_use: tuple[str, ...]
    files: tuple[str, ...]
    freed_bytes: int
    unfinished: bool


def generations(path: str | os.PathLike[str]) -> list[GenerationInfo]:
    """Every generation that is stored, the newest first.

    Raises:
        IndexMissing, IndexCorrupt: there is no index, or a manifest cannot be read.
    """
    index = Path(path)
    live = read_current(index).generation
    return [
        GenerationInfo(
            generation=manifest.generation,
            parent=manifest.parent,
            created=manifest.created,
            live=manifest.generation == live,
            in_use=in_use(index, manifest.generation),
            passages=manifest.passages,
            deleted=manifest.deleted,
            shards=len(manifest.shards),
            delta_shards=sum(shard.delta for shard in manifest.shards),
            size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        )
        for manifest in _manifests(index)
    ]


def rollback(path: str | os.PathLike[str], to: str | None = None) -> Manifest:
    """Make an older (or newer) generation live again; nothing is written but `CURRENT`.

    Args:
        to: which; by default the one that the live one replaced.

    Raises:
        IndexMissing: there is no such generation, or no older one.
        IndexCorrupt: a file of it is missing.
        IndexExists: another writer is at work in this index.
    """
    index = Path(path)
    read_current(index)  # there is an index, before its folder is locked
    with write_lock(index):
        live = read_current(index)
        wanted = to or live.parent
        if wanted is None:
            raise IndexMissing(f"{index}: {live.generation} is the first generation; none is older")
        manifest = read_generation(index, wanted)
        for name, entry in manifest.files.items():
            check_size(index / name, entry)
        make_live(index, wanted)
        return manifest


def collect(
    path: str | os.PathLike[str],
    keep: int = 1,
    *,
    dry_run: bool = False,
    unfinished: bool = False,
) -> Collected:
    """Remove generations that nobody needs, and files that no generation does.

    The live generation stays, and so do the `keep` newest others and each that a process has open.
    What killed writers left goes, but for the staging folders of jobs.

    Args:
        keep: how many beside the live one; 0 and more.
        dry_run: only say what would go.
        unfinished: whether what interrupted jobs could go on with goes, too.

    Raises:
        InvalidInput: `keep` is negative, or the folder cannot be written.
        IndexMissing, IndexCorrupt: there is no index, or a manifest cannot be read. Nothing was
            removed.
        IndexExists: a writer is at work in this index.
    """
    if keep < 0:
        raise InvalidInput(f"keep is {keep}; give 0 or more")
    index = Path(path)
    read_current(index)
    with write_lock(index), ExitStack() as stack:
        live = read_current(index).generation
        manifests = _manifests(index)
        others = [manifest.generation for manifest in manifests if manifest.generation != live]
        used = [one for one in others[keep:] if not _lock(index, one, stack)]
        removed = tuple(one for one in others[keep:] if one not in used)
        kept = [manifest for manifest in manifests if manifest.generation not in removed]
        interrupted = any(one.name != BEGUN_ANEW for one in (index / STAGING).glob("*"))
        everything = unfinished or not interrupted
        unneeded = list(_unneeded(index, manifests, removed, everything))
        files = tuple(path.relative_to(index).as_posix() for path in unneeded)
        freed = sum(map(_size, unneeded)) + sum(_size(manifest_path(index, g)) for g in removed)
        if not dry_run:
            # Manifests first: what is killed here leaves files that nothing needs, never the
            # other way round.
            for generation in removed:
                manifest_path(index, generation).unlink()
            sync_folder(index / "generations")
            for left in unneeded:
                remove(left)
        return Collected(
            removed,
            tuple(manifest.generation for manifest in kept),
            tuple(used),
            files,
            freed,
            interrupted and not unfinished,
        )


def _manifests(index: Path) -> list[Manifest]:
    """All that are stored, the newest first."""
    names = [path.stem for path in (index / "generations").glob("g*.json")]
    return [read_generation(index, name) for name in sorted(names, key=_number, reverse=True)]


def _number(generation: str) -> tuple[int, str]:
    found = re.match(r"g(\d+)-", generation)
    return int(found[1]) if found else 0, generation


def _lock(index: Path, generation: str, stack: ExitStack) -> bool:
    """Hold a manifest until the stack is left, so that nobody opens it; False if somebody has."""
    descriptor = os.open(manifest_path(index, generation), os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return lock_alone(descriptor)


def _unneeded(
    index: Path, manifests: Sequence[Manifest], removed: Sequence[str], everything: bool
) -> Iterator[Path]:
    """Files and folders that no kept generation lists.

    Where an interrupted job can go on, what bears the id of no generation may be its work, and
    stays.
    """
    kept = [manifest for manifest in manifests if manifest.generation not in removed]
    needed = {"/".join(name.split("/")[:2]) for manifest in kept for name in manifest.files}
    known = tuple(manifest.generation for manifest in manifests)
    for folder in WRITTEN:
        for path in sorted((index / folder).glob("*")):
            left = f"{folder}/{path.name}" not in needed
            if left and (everything or path.name.startswith(known)):
                yield path
    yield from sorted((index / "generations").glob(".*.tmp"))
    yield from sorted(index.glob(".CURRENT.*.tmp"))
    staging = index / STAGING if everything else index / STAGING / BEGUN_ANEW
    if staging.is_dir():
        yield staging


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size
