"""One shard from the chunks of its passages: streamed, so that memory does not grow with it."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from colbert_core.codec import Codec
from colbert_core.index import ShardEntry, ShardWriter
from colbert_core.index.files import entry_of, sync_folder
from colbert_core.index.manifest import FileEntry
from workers.units import Staging, UnitChunk, UnitSlice


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to write: its id, and the passages it takes, in the order of the corpus."""

    shard_id: str
    slices: tuple[UnitSlice, ...]

    def __str__(self) -> str:
        passages = sum(piece.stop - piece.start for piece in self.slices)
        return f"shard {self.shard_id} ({passages:,} passages)"


@dataclass(frozen=True, slots=True)
class BuiltShard:
    """A shard that was committed: what a manifest says of it, and its files by name."""

    entry: ShardEntry
    files: Mapping[str, FileEntry]


def build_shard(index: str, staging: Staging, task: ShardTask, codec: Codec) -> BuiltShard:
    """Write a shard of a generation that is not published yet.

    Two workers may write the same one at a time: the first to finish gives it its name, the other's
    is the same, and is thrown away.
    """
    own = f"{task.shard_id}.{secrets.token_hex(4)}"
    with ShardWriter(Path(index), own, codec) as writer:
        for piece in task.slices:
            chunk = staging.chunk(piece.unit)
            passages = staging.passages(piece.unit).without(chunk.skipped)
            rows = slice(piece.start, piece.stop)
            part = _cut(chunk, piece)
            writer.add(
                part.tokens,
                part.doclens_N,
                passages.ids[rows],
                passages.texts[rows],
                [orjson.loads(metadata) for metadata in passages.metadata[rows]],
                part.windows_N3,
            )
        entry = writer.finish()
    folder = Path(index) / "shards" / own
    files = {path.name: entry_of(path) for path in sorted(folder.iterdir())}
    _give_name(folder, folder.with_name(task.shard_id))
    return BuiltShard(replace(entry, id=task.shard_id), files)


def _give_name(folder: Path, final: Path) -> None:
    try:
        folder.rename(final)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        sync_folder(final.parent)


def _cut(chunk: UnitChunk, piece: UnitSlice) -> UnitChunk:
    """The chunk of some of a unit's passages."""
    windows_N3, (start, stop) = chunk.windows_N3, (piece.start, piece.stop)
    if windows_N3 is not None:
        start, stop = np.searchsorted(windows_N3[:, 0], (start, stop)).tolist()
        windows_N3 = windows_N3[start:stop] - np.array([piece.start, 0, 0], np.int32)
    offsets_N1 = np.concatenate([[0], np.cumsum(chunk.doclens_N, dtype=np.int64)])
    first, last = int(offsets_N1[start]), int(offsets_N1[stop])
    return replace(
        chunk,
        tokens=chunk.tokens.part(slice(start, stop), slice(first, last)),
        doclens_N=chunk.doclens_N[start:stop],
        windows_N3=windows_N3,
    )
