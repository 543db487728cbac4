"""Writing the files of an index: a codec, and shards. `publish.py` makes them a generation.

Everything is written under a temporary name, synced and renamed, so that a build that stops
anywhere leaves the live generation as it was.

Shapes: N passages, T tokens, C centroids.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.codec import Codec, Compressed
from colbert_core.errors import CorpusError, IndexExists, InvalidInput
from colbert_core.index.files import (
    ArrayWriter,
    PackedWriter,
    map_array,
    sync_folder,
)
from colbert_core.index.manifest import (
    ShardEntry,
)
from colbert_core.index.metadata import write_metadata
from colbert_core.index.passages import PassageWriter
from colbert_core.index.postings import write_postings
from colbert_core.index.windows import Windows, WindowsWriter
from colbert_core.packed_ints import PackedInts
from colbert_core.types import F32, I32, U8

_DOCLENS = "doclens.npy"  # until the shard is whole
_LENGTHS_AT_ONCE = 1 << 16


class _Folder:
    """A folder that appears whole or not at all."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def commit(self) -> None:
        for path in self.temporary.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        sync_folder(self.temporary)
        self.temporary.rename(self.final)
        sync_folder(self.final.parent)

    def discard(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


def write_codec(index: Path, codec_id: str, codec: Codec, projection: F32 | None = None) -> None:
    """Write the codec, and the projection that precedes it, as `global/<codec_id>/`."""
    folder = _Folder(index / "global" / codec_id)
    try:
        codec.save(folder.temporary)
        if projection is not None:
            np.save(folder.temporary / "projection.npy", projection)
        folder.commit()
    finally:
        folder.discard()


class ShardWriter:
    """Writes one shard, passage by passage, in memory that does not grow with the text.

    Use as a context manager: leaving it without `finish` removes what was written.

    Args:
        index: folder of the index.
        shard_id: folder under `shards/`; must not exist.
        codec: what the tokens are compressed with.

    Raises:
        IndexExists: there is a shard of this id.
    """

    def __init__(self, index: Path, shard_id: str, codec: Codec) -> None:
        final = index / "shards" / shard_id
        if final.exists():
            raise IndexExists(f"{final}: this shard is written already; shards are write-once")
        self._folder = _Folder(final)
        self._codec = codec
        path = self._folder.temporary
        self._codes = PackedWriter(path / "codes.npy", codec.centroid_count - 1)
        self._residuals = ArrayWriter(path / "residuals.npy", np.uint8, (codec.token_bytes,))
        self._scales = ArrayWriter(path / "scales.npy", np.uint8)
        self._contexts = (
            ArrayWriter(path / "contexts.npy", np.uint8, (codec.context_bytes,))
            if codec.context_bytes
            else None
        )
        self._doclens = ArrayWriter(path / _DOCLENS, np.int32)
        arrays = (self._codes, self._residuals, self._scales, self._doclens, self._contexts)
        self._arrays = tuple(array for array in arrays if array is not None)
        self._passages = PassageWriter(path)
        self._windows = WindowsWriter(path)

    def add(
        self,
        tokens: Compressed,
        doclens_N: I32,
        ids: Sequence[str],
        texts: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        windows_N3: Windows | None = None,
    ) -> None:
        """Append passages: their tokens, one after the other, and their lengths in tokens.

        Args:
            ids, texts, metadata: one a passage, or one a document where `windows_N3` says which
                passages are windows of which document.

        Raises:
            InvalidInput: the lengths do not add up, or a passage has no token (`CorpusError`: its
                metadata are no JSON).
        """
        count = len(ids) if windows_N3 is None else len(windows_N3)
        counts = len(doclens_N), len(tokens.contexts_NX)
        if counts != (count, count) or int(doclens_N.sum()) != len(tokens):
            raise InvalidInput(
                f"{count} passages, {counts[0]} lengths, {counts[1]} contexts and {len(tokens)} "
                "tokens do not fit"
            )
        firsts = self._windows.append(len(ids), windows_N3)
        if count and int(doclens_N.min()) < 1:
            document = int(np.searchsorted(firsts, int(doclens_N.argmin()), side="right")) - 1
            raise InvalidInput(f"passage {ids[document]!r} has no token vectors")
        self._codes.append(tokens.codes_T)
        self._residuals.append(tokens.residuals_TB)
        self._scales.append(tokens.scales_T)
        if self._contexts is not None:
            self._contexts.append(self._contexts_of(tokens))
        self._doclens.append(doclens_N)
        rows = [_as_json(row, one) for row, one in zip(metadata or (), ids, strict=bool(metadata))]
        nothing: list[None] = [None] * len(ids)
        columns = (ids, texts or nothing, rows or nothing)
        if windows_N3 is None:
            self._passages.append(*columns)
        else:
            self._passages.append_first(firsts, count, *columns)

    def _contexts_of(self, tokens: Compressed) -> U8:
        """What is stored as the passages' contexts: where an older shard had none, zeros, which
        decode to nothing."""
        count, known = tokens.contexts_NX.shape
        return (
            tokens.contexts_NX if known else np.zeros((count, self._codec.context_bytes), np.uint8)
        )

    def finish(self) -> ShardEntry:
        """Write the postings, sync everything and give the shard its name."""
        for array in self._arrays:
            array.close()
        self._passages.close()
        self._windows.close()
        fields = write_metadata(self._folder.temporary)
        self._write_offsets()
        postings = self._write_postings()
        self._folder.commit()
        return ShardEntry(
            self._folder.final.name,
            self._doclens.rows,
            self._codes.count,
            postings,
            continued=self._windows.continued,
            fields=fields,
            contexts=self._contexts is not None,
        )

    def _write_offsets(self) -> None:
        """From the lengths, which were kept in a file: a shard of short passages has tens of
        millions."""
        path, end = self._folder.temporary, 0
        lengths_N = map_array(path / _DOCLENS)
        offsets = PackedWriter(path / "offsets.npy", self._codes.count)
        try:
            offsets.append(np.zeros(1, np.int64))
            for start in range(0, len(lengths_N), _LENGTHS_AT_ONCE):
                part = lengths_N[start : start + _LENGTHS_AT_ONCE]
                offsets.append(end + np.cumsum(part, dtype=np.int64))
                end += int(part.sum(dtype=np.int64))
            offsets.close()
        finally:
            offsets.abandon()
        (path / _DOCLENS).unlink()

    def _write_postings(self) -> int:
        path, tokens = self._folder.temporary, self._codes.count
        centroids = self._codec.centroid_count
        codes_T = PackedInts("codes", map_array(path / "codes.npy"), tokens, centroids - 1)
        offsets = map_array(path / "offsets.npy")
        offsets_N1 = PackedInts("offsets", offsets, self._doclens.rows + 1, tokens)
        return write_postings(path, codes_T, offsets_N1, centroids)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in (*self._arrays, self._windows):
            array.abandon()
        self._folder.discard()


def _as_json(metadata: Mapping[str, Any], identity: str) -> str | None:
    """Metadata as they are stored; None for none."""
    try:
        return json.dumps(metadata, ensure_ascii=False, allow_nan=False) if metadata else None
    except (TypeError, ValueError) as error:
        raise CorpusError(
            f"passage {identity!r}: its metadata cannot be kept as JSON ({error}); use strings, "
            "finite numbers, booleans, lists and objects with string keys"
        ) from error
