"""Writing an index: a codec, shards, and the one atomic step that makes them a generation.

Everything is written under a temporary name, synced and renamed; only `publish` changes what
readers see, and only by replacing `CURRENT`. A build that stops anywhere before leaves the live
generation as it was.

Shapes: N passages, T tokens, C centroids.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from colbert_core.codec import Codec, Compressed
from colbert_core.errors import CorpusError, IndexCorrupt, IndexExists, IndexMissing, InvalidInput
from colbert_core.index.files import (
    ArrayWriter,
    PackedWriter,
    entry_of,
    map_array,
    sync_folder,
    write_file,
)
from colbert_core.index.manifest import (
    CURRENT,
    VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    manifest_path,
    read_current,
)
from colbert_core.index.metadata import write_metadata
from colbert_core.index.passages import PassageWriter
from colbert_core.index.postings import write_postings
from colbert_core.index.presets import Preset
from colbert_core.index.windows import Windows, WindowsWriter
from colbert_core.packed_ints import PackedInts
from colbert_core.types import F32, I32

_DOCLENS = "doclens.npy"  # until the shard is whole
_LENGTHS_AT_ONCE = 1 << 16


def new_generation_id(index: Path) -> str:
    """The id of the next generation: a number that only grows, and what keeps two builds apart."""
    folder = index / "generations"
    taken = [int(m[1]) for p in folder.glob("g*.json") if (m := re.match(r"g(\d+)-", p.name))]
    return f"g{max(taken, default=0) + 1:06d}-{secrets.token_hex(3)}"


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
        self._doclens = ArrayWriter(path / _DOCLENS, np.int32)
        self._arrays = (self._codes, self._residuals, self._scales, self._doclens)
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
        if len(doclens_N) != count or int(doclens_N.sum()) != len(tokens):
            raise InvalidInput(
                f"{count} passages, {len(doclens_N)} lengths and {len(tokens)} tokens do not fit"
            )
        firsts = self._windows.append(len(ids), windows_N3)
        if count and int(doclens_N.min()) < 1:
            document = int(np.searchsorted(firsts, int(doclens_N.argmin()), side="right")) - 1
            raise InvalidInput(f"passage {ids[document]!r} has no token vectors")
        self._codes.append(tokens.codes_T)
        self._residuals.append(tokens.residuals_TB)
        self._scales.append(tokens.scales_T)
        self._doclens.append(doclens_N)
        rows = [_as_json(row, one) for row, one in zip(metadata or (), ids, strict=bool(metadata))]
        nothing: list[None] = [None] * len(ids)
        columns = (ids, texts or nothing, rows or nothing)
        if windows_N3 is None:
            self._passages.append(*columns)
        else:
            self._passages.append_first(firsts, count, *columns)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
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


def publish(
    index: Path,
    generation: str,
    codec_id: str,
    codec: Codec,
    shards: Sequence[ShardEntry],
    *,
    model: Mapping[str, Any] | None = None,
    truncated: int = 0,
    pool_factor: int = 1,
    presets: Sequence[Preset] = (),
    extras: Mapping[str, Any] | None = None,
) -> Manifest:
    """Make written shards the live generation.

    Raises:
        IndexExists: another build published this generation id first.
    """
    folders = [index / "global" / codec_id, *(index / "shards" / shard.id for shard in shards)]
    try:
        parent = read_current(index).generation
    except (IndexMissing, IndexCorrupt):  # what cannot be read is replaced, as its error advises
        parent = None
    manifest = Manifest(
        generation=generation,
        parent=parent,
        created=_now(),
        codec_id=codec_id,
        codec={
            "name": codec.name,
            "bits": codec.bits,
            "dim": codec.dim,
            "centroids": codec.centroid_count,
        },
        shards=tuple(shards),
        files={name: entry for folder in folders for name, entry in _entries(index, folder)},
        model=model,
        truncated=truncated,
        pool_factor=pool_factor,
        presets=tuple(presets),
        extras=dict(extras or {}),
    )
    _commit(index, manifest)
    return manifest


def publish_change(
    index: Path,
    parent: Manifest,
    generation: str,
    shards: Sequence[ShardEntry],
    **changed: Any,
) -> Manifest:
    """Make a generation live that shares the codec, and shards, with its parent.

    Only what the parent does not list is read, so that a small change of a large index is quick.

    Args:
        shards: all of the new generation, in the order of the corpus.
        changed: other fields of the manifest that differ from the parent's.

    Raises:
        IndexExists: another writer published this generation id first.
    """
    known: dict[str, dict[str, FileEntry]] = {}
    for name, entry in parent.files.items():
        known.setdefault("/".join(name.split("/")[:2]), {})[name] = entry
    files = dict(known[f"global/{parent.codec_id}"])
    for shard in shards:
        folder = f"shards/{shard.id}"
        files |= known[folder] if folder in known else dict(_entries(index, index / folder))
        if shard.tombstones is not None:
            name = shard.tombstones.file
            files[name] = parent.files.get(name) or entry_of(index / name)
    manifest = replace(
        parent,
        generation=generation,
        parent=parent.generation,
        created=_now(),
        shards=tuple(shards),
        files=files,
        version=VERSION,
        **changed,
    )
    _commit(index, manifest)
    return manifest


def make_live(index: Path, generation: str) -> None:
    """Point `CURRENT` to a generation whose manifest is written: the step that readers see."""
    digest = hashlib.sha256(manifest_path(index, generation).read_bytes()).hexdigest()
    pointer = {"generation": generation, "manifest_sha256": digest}
    write_file(index / CURRENT, (json.dumps(pointer) + "\n").encode())


def _commit(index: Path, manifest: Manifest) -> None:
    path = manifest_path(index, manifest.generation)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise IndexExists(f"{path}: this generation is published already")
    write_file(path, manifest.to_json())
    make_live(index, manifest.generation)


def _entries(index: Path, folder: Path) -> Iterator[tuple[str, FileEntry]]:
    for path in sorted(folder.iterdir()):
        yield path.relative_to(index).as_posix(), entry_of(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
