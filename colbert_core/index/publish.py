"""The one atomic step that makes written files a generation.

Only what is here changes what readers see, and only by replacing `CURRENT`. A build that stops
anywhere before leaves the live generation as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from colbert_core.codec import Codec
from colbert_core.errors import IndexCorrupt, IndexExists, IndexMissing
from colbert_core.index.files import entry_of, write_file
from colbert_core.index.manifest import (
    CURRENT,
    VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    manifest_path,
    read_current,
)
from colbert_core.index.presets import Preset


def new_generation_id(index: Path) -> str:
    """The id of the next generation: a number that only grows, and what keeps two builds apart."""
    folder = index / "generations"
    taken = [int(m[1]) for p in folder.glob("g*.json") if (m := re.match(r"g(\d+)-", p.name))]
    return f"g{max(taken, default=0) + 1:06d}-{secrets.token_hex(3)}"


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
