"""The manifest of a generation: what an index consists of, as frozen values and as JSON.

    INDEX/CURRENT                 names a manifest and its SHA-256; the only file that changes
    INDEX/generations/<id>.json   this manifest
    INDEX/global/<id>/            the codec, and the projection where the model was reduced
    INDEX/shards/<id>/            one shard; generations share those that did not change
    INDEX/tombstones/<file>       passages of one shard that were deleted

Every file that a generation needs is listed with its size and SHA-256, so `sha256sum` can check an
index without Tartan. An unknown key is an error: a newer format is never half-understood.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from colbert_core.errors import IndexCorrupt, IndexMissing
from colbert_core.filters import merge_fields
from colbert_core.index.manifest_checks import check_name, check_values
from colbert_core.index.presets import Preset
from colbert_core.storage import Location

FORMAT = "tartan-index"
VERSION = 5
MIN_VERSION = 3
CURRENT = "CURRENT"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its size and SHA-256."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Tombstones:
    """What was deleted of a shard: a file under `tombstones/`, and how much that is.

    Of its passages `continued` are later windows of a document.
    """

    file: str
    passages: int
    tokens: int
    continued: int = 0


@dataclass(frozen=True)
class ShardEntry:
    """One shard: its folder under `shards/`, and the counts of what is stored there.

    Attributes:
        continued: passages that are later windows of a document (`windows.py`).
        fields: the types of its metadata's fields, by name.
        delta: whether it was added to the index after it was built (or compacted).
        tombstones: what was deleted of it since; None for nothing.
        contexts: whether it has a context for each passage (`colbert_core.codec.contexts`).
    """

    id: str
    passages: int
    tokens: int
    postings: int
    continued: int = 0
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    delta: bool = False
    tombstones: Tombstones | None = None
    contexts: bool = False

    @property
    def live_passages(self) -> int:
        """Passages that were not deleted."""
        return self.passages - (self.tombstones.passages if self.tombstones else 0)

    @property
    def live_documents(self) -> int:
        """Of these, a document in windows counted once."""
        gone = self.tombstones.continued if self.tombstones else 0
        return self.live_passages - (self.continued - gone)

    @property
    def live_tokens(self) -> int:
        """Tokens of the passages that were not deleted."""
        return self.tokens - (self.tombstones.tokens if self.tombstones else 0)

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> ShardEntry:
        """From a manifest's JSON; an unknown key is a TypeError."""
        tombstones = raw.get("tombstones")
        return cls(**{**raw, "tombstones": Tombstones(**tombstones) if tombstones else None})


@dataclass(frozen=True)
class Manifest:
    """One immutable generation.

    Attributes:
        generation: its id.
        parent: the generation that it replaced, or None.
        created: UTC, ISO 8601.
        codec_id: folder under `global/`.
        codec: name, bits, dim and centroids, for people who read the manifest.
        shards: in the order of the corpus.
        files: path relative to the index → size and checksum.
        model: identity of the encoder, or None where the vectors came from elsewhere.
        truncated: passages that were cut to the model's length, deleted ones among them.
        pool_factor: how many times fewer vectors than tokens a passage has; 1 where not pooled.
        presets: what recall targets take on this index; empty for a small one.
    """

    generation: str
    parent: str | None
    created: str
    codec_id: str
    codec: Mapping[str, Any]
    shards: tuple[ShardEntry, ...]
    files: Mapping[str, FileEntry]
    model: Mapping[str, Any] | None = None
    truncated: int = 0
    pool_factor: int = 1
    presets: tuple[Preset, ...] = ()
    format: str = FORMAT
    version: int = VERSION
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passages(self) -> int:
        """Passages that can be found: without the deleted ones."""
        return sum(shard.live_passages for shard in self.shards)

    @property
    def documents(self) -> int:
        """The same, but of a document in windows only one."""
        return sum(shard.live_documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of the passages that can be found."""
        return sum(shard.live_tokens for shard in self.shards)

    @property
    def deleted(self) -> int:
        """Passages that are stored still and were deleted."""
        return sum(shard.passages for shard in self.shards) - self.passages

    @property
    def metadata_fields(self) -> dict[str, str]:
        """The fields that passages can be filtered by, and their types, by name."""
        return merge_fields(shard.fields for shard in self.shards)

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Manifest:
        """Parse a manifest strictly.

        Raises:
            IndexCorrupt: it is not a manifest of a version that this program reads.
        """
        try:
            raw = json.loads(data)
            if raw.get("format") != FORMAT:
                raise ValueError(f"its format is {raw.get('format')!r}, not {FORMAT!r}")
            version = raw.get("version")
            if not isinstance(version, int) or not MIN_VERSION <= version <= VERSION:
                older = isinstance(version, int) and version < MIN_VERSION
                remedy = (
                    "build the index again, with --overwrite" if older else "upgrade tartan-search"
                )
                raise ValueError(
                    f"its version is {version!r} and this program reads {MIN_VERSION} to "
                    f"{VERSION}: {remedy}"
                )
            unknown = set(raw) - {f.name for f in fields(cls)}
            if unknown:
                raise ValueError(f"it has unknown keys {sorted(unknown)}")
            raw["shards"] = tuple(ShardEntry.from_raw(shard) for shard in raw["shards"])
            raw["presets"] = tuple(Preset.from_raw(preset) for preset in raw.get("presets", ()))
            raw["files"] = {path: FileEntry(**entry) for path, entry in raw["files"].items()}
            check_values(raw)
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IndexCorrupt(f"{name}: this is not a readable manifest: {error}") from error


def manifest_path(index: Path, generation: str) -> Path:
    """Where the manifest of a generation lies."""
    return index / manifest_name(generation)


def manifest_name(generation: str) -> str:
    """The same, within the index."""
    return f"generations/{generation}.json"


def pointer_to(generation: str, manifest: bytes) -> bytes:
    """What `CURRENT` holds, to make a generation with this manifest live."""
    pointer = {"generation": generation, "manifest_sha256": hashlib.sha256(manifest).hexdigest()}
    return (json.dumps(pointer) + "\n").encode()


def read_generation(index: Location, generation: str) -> Manifest:
    """The manifest of a named generation, live or not.

    Raises:
        IndexMissing: it was never published here, or was collected since.
        IndexCorrupt: the manifest cannot be read.
    """
    path = index / manifest_name(generation)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IndexMissing(
            f"{index}: generation {generation!r} cannot be opened: {error.strerror}; "
            "open the live one, or serve the index again"
        ) from error
    return Manifest.from_json(data, str(path))


def read_current(index: Location) -> Manifest:
    """The manifest that `CURRENT` names, checked against the checksum that `CURRENT` holds.

    Raises:
        IndexMissing: nothing was ever published here.
        IndexCorrupt: `CURRENT` or the manifest is damaged.
    """
    generation, expected = read_pointer(index)
    path = index / manifest_name(generation)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IndexCorrupt(f"{path}: {CURRENT} names this manifest, but {error}") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise IndexCorrupt(f"{path}: the manifest was altered (its SHA-256 is not {CURRENT}'s)")
    return Manifest.from_json(data, str(path))


def read_pointer(index: Location) -> tuple[str, str]:
    """The live generation and the SHA-256 of its manifest, as `CURRENT` has them.

    Raises:
        IndexMissing: nothing was ever published here.
        IndexCorrupt: `CURRENT` is damaged.
    """
    pointer = index / CURRENT
    try:
        raw = json.loads(pointer.read_bytes())
        check_name("generation", raw["generation"])
        return raw["generation"], str(raw["manifest_sha256"])
    except FileNotFoundError as error:
        raise IndexMissing(
            f"{index}: there is no index here (no {CURRENT} file); "
            "build one with `tartan index build CORPUS --out INDEX`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IndexCorrupt(f"{pointer}: the pointer cannot be read: {error}") from error
