"""One shard from the chunks of its passages: streamed, so that memory does not grow with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from colbert_core.codec import Codec, Compressed
from colbert_core.index import ShardEntry, ShardWriter
from workers.units import Staging, UnitChunk, UnitSlice


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to write: its id, and the passages it takes, in the order of the corpus."""

    shard_id: str
    slices: tuple[UnitSlice, ...]

    def __str__(self) -> str:
        passages = sum(piece.stop - piece.start for piece in self.slices)
        return f"shard {self.shard_id} ({passages:,} passages)"


def build_shard(index: str, staging: Staging, task: ShardTask, codec: Codec) -> ShardEntry:
    """Write a shard; one that an earlier, lost attempt left behind is replaced.

    Only for shards of a generation that is not published yet.
    """
    # The id is this build's own: what lies there was written by a worker that was lost.
    shutil.rmtree(Path(index) / "shards" / task.shard_id, ignore_errors=True)
    with ShardWriter(Path(index), task.shard_id, codec) as writer:
        for piece in task.slices:
            passages = staging.passages(piece.unit)
            rows = slice(piece.start, piece.stop)
            chunk = _cut(staging.chunk(piece.unit), piece)
            writer.add(
                chunk.tokens,
                chunk.doclens_N,
                passages.ids[rows],
                passages.texts[rows],
                [orjson.loads(metadata) for metadata in passages.metadata[rows]],
                chunk.windows_N3,
            )
        return writer.finish()


def _cut(chunk: UnitChunk, piece: UnitSlice) -> UnitChunk:
    """The chunk of some of a unit's passages."""
    windows_N3, (start, stop) = chunk.windows_N3, (piece.start, piece.stop)
    if windows_N3 is not None:
        start, stop = np.searchsorted(windows_N3[:, 0], (start, stop)).tolist()
        windows_N3 = windows_N3[start:stop] - np.array([piece.start, 0, 0], np.int32)
    offsets_N1 = np.concatenate([[0], np.cumsum(chunk.doclens_N, dtype=np.int64)])
    first, last = int(offsets_N1[start]), int(offsets_N1[stop])
    tokens = Compressed(
        chunk.tokens.codes_T[first:last],
        chunk.tokens.residuals_TB[first:last],
        chunk.tokens.scales_T[first:last],
    )
    return UnitChunk(tokens, chunk.doclens_N[start:stop], chunk.truncated, windows_N3)
