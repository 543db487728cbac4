"""What a bucket must be able to do for an index, and which implementation does it.

    s3://   boto3 (`pip install 'tartan-search[s3]'`), s3.py
    gs://   pyarrow.fs, gcs.py

Every call is bounded: `TARTAN_STORAGE_TIMEOUT` seconds (20 by default) without an answer or a byte,
a few attempts, then `Unavailable`. Errors are Tartan's own and never hold credentials.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from colbert_core.errors import InvalidInput
from colbert_core.storage.location import RemotePath

DEFAULT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the bucket describes it.

    Attributes:
        key: within the bucket.
        st_size: bytes.
        version: changes when the object does (ETag, generation); for conditions, not for people.
        sha256: what was recorded when Tartan put it there; None for others' objects.
        st_mtime_ns: when it was put there, as of a local file.
    """

    key: str
    st_size: int
    version: str = ""
    sha256: str | None = None
    st_mtime_ns: int = 0


class ByteStream(Protocol):
    """An open download."""

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; b"" at the end."""

    def close(self) -> None:
        """Let go of the connection."""


class Conflict(Exception):
    """A pointer was not what it was expected to be; nothing was written."""


class Store(Protocol):
    """One bucket. Safe to share between threads.

    Every method raises `StorageError` where the bucket is missing or refuses, and `Unavailable`
    where it does not answer in time; those that read an object, `FileNotFoundError`.
    """

    def head(self, key: str) -> Stored:
        """What is stored under a key."""

    def open(self, key: str, start: int, version: str) -> ByteStream:
        """Read from byte `start` on, of just this version of the object."""

    def objects(self, prefix: str) -> Iterator[Stored]:
        """Every object below a prefix, in the order of the keys; without their `sha256`."""

    def names(self, prefix: str) -> list[str]:
        """The names directly below a prefix, as of a folder's files and folders; sorted."""

    def put(self, key: str, local: Path, sha256: str) -> None:
        """Upload a file whole: it appears when its last byte is there and was checked.

        Raises:
            IndexCorrupt: the file does not have this SHA-256, or did not arrive as it was sent.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        """Replace a small object if it still is of the version `expected` (None: absent).

        Raises:
            Conflict: it is not.
        """


def store_of(path: RemotePath) -> Store:
    """The bucket that a path lies in.

    Raises:
        InvalidInput: what speaks with it is not installed.
    """
    if path.scheme == "s3":
        from colbert_core.storage.s3 import S3Store

        return S3Store(path.bucket)
    from colbert_core.storage.gcs import GcsStore

    return GcsStore(path.bucket)


def timeout_s() -> float:
    """Seconds without an answer or a byte after which a server counts as not answering.

    Raises:
        InvalidInput: TARTAN_STORAGE_TIMEOUT is not a number above 0.
    """
    text = os.environ.get("TARTAN_STORAGE_TIMEOUT", "")
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT_S
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InvalidInput(
            f"TARTAN_STORAGE_TIMEOUT is {text!r}; give seconds above 0, or leave it unset for "
            f"{DEFAULT_TIMEOUT_S:g}"
        )
    return seconds
