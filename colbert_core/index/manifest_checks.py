"""What the values of a manifest must be, whatever wrote it.

The manifest that `CURRENT` names is protected by its SHA-256; others are opened by their id alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from colbert_core.types import MAX_DIM

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 1 << 48
_SHARD_FILES = (
    *(f"{name}.npy" for name in ("codes", "residuals", "scales", "offsets")),
    *("posting_offsets.npy", "postings.npy", "ids.arrow", "texts.arrow"),
)
_SHARD_COUNTS = ("passages", "tokens", "postings", "continued")


def check_values(raw: Mapping[str, Any]) -> None:
    """Check what the parts of a parsed manifest hold.

    Args:
        raw: its keys, with `shards`, `files` and `presets` made into their classes.

    Raises:
        ValueError, TypeError, KeyError: a value is none that a builder writes.
    """
    for key in ("generation", "codec_id"):
        check_name(key, raw[key])
    if raw["parent"] is not None:
        check_name("parent", raw["parent"])
    for shard in raw["shards"]:
        check_name("id of a shard", shard.id)
        for key in _SHARD_COUNTS:
            check_count(f"{key} of shard {shard.id}", getattr(shard, key))
        if type(shard.contexts) is not bool:
            raise ValueError(f"contexts of shard {shard.id} is {shard.contexts!r}")
        _check_tombstones(shard, raw["files"])
    if len({shard.id for shard in raw["shards"]}) != len(raw["shards"]):
        raise ValueError("a shard is listed twice")
    for path, entry in raw["files"].items():
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
            raise ValueError(f"file {path!r} lies outside of the index")
        check_count(f"size_bytes of {path}", entry.size_bytes)
        if not isinstance(entry.sha256, str) or not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"the SHA-256 of {path} is {entry.sha256!r}")
    _check_files(raw)
    codec = raw["codec"]
    for key in ("bits", "dim", "centroids"):
        check_count(f"{key} of the codec", codec[key])
    if not isinstance(codec["name"], str) or not 8 <= codec["dim"] <= MAX_DIM:
        raise ValueError(f"the codec is {dict(codec)!r}")
    for key in ("model", "extras"):
        if raw.get(key) is not None and not isinstance(raw[key], dict):
            raise ValueError(f"{key} is {raw[key]!r}")
    for key in ("truncated", "pool_factor"):
        check_count(key, raw.get(key, 0))


def _check_tombstones(shard: Any, files: Mapping[str, Any]) -> None:
    """What was deleted of a shard is no more than what it has."""
    stones = shard.tombstones
    if stones is None:
        return
    if stones.file not in files or not str(stones.file).startswith("tombstones/"):
        raise ValueError(f"the tombstones of shard {shard.id} are {stones.file!r}")
    for key in ("passages", "tokens", "continued"):
        check_count(f"deleted {key} of shard {shard.id}", getattr(stones, key))
        if getattr(stones, key) > getattr(shard, key):
            raise ValueError(f"more {key} of shard {shard.id} were deleted than it has")


def _check_files(raw: Mapping[str, Any]) -> None:
    """Every shard has its files, and no file is of a shard or codec that is not listed."""
    files = raw["files"]
    folders = {f"shards/{shard.id}" for shard in raw["shards"]} | {f"global/{raw['codec_id']}"}
    for path in files:
        parts = PurePosixPath(path).parts
        if parts[0] in ("shards", "global") and "/".join(parts[:-1]) not in folders:
            raise ValueError(f"file {path!r} belongs to nothing that is listed")
    needed = [f"global/{raw['codec_id']}/codec.json"]
    needed += [f"shards/{shard.id}/{name}" for shard in raw["shards"] for name in _SHARD_FILES]
    needed += [f"shards/{shard.id}/contexts.npy" for shard in raw["shards"] if shard.contexts]
    missing = [path for path in needed if path not in files]
    if missing:
        raise ValueError(f"file {missing[0]!r} is not listed")


def check_name(key: str, value: object) -> None:
    """A name of one file or folder."""
    if not isinstance(value, str) or not value or value in (".", "..") or set(value) & set("/\0"):
        raise ValueError(f"{key} is {value!r}, which is no name of a file")


def check_count(key: str, value: object) -> None:
    """A whole number that a file can have."""
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError(f"{key} is {value!r}, which is no count")
