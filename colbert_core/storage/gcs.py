"""Google Cloud Storage by pyarrow.fs: no further dependency, and less than S3 has by boto3.

Credentials are Google's standard ones (GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the machine's).
An object that `put` writes bears its SHA-256 as metadata, and the bucket's MD5 of it is compared
with that of what was sent. pyarrow passes no conditions: `swap` compares before it writes and looks
again afterwards, which finds most lost updates, not all (docs/storage.md).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from colbert_core.errors import IndexCorrupt, StorageError, Unavailable
from colbert_core.storage.scrub import scrubbed
from colbert_core.storage.store import ByteStream, Conflict, Stored, timeout_s

_BLOCK_BYTES = 8 << 20
_REFUSED = re.compile(r"PERMISSION_DENIED|UNAUTHENTICATED|\b40[13]\b", re.IGNORECASE)
_BUSY = re.compile(
    r"UNAVAILABLE|DEADLINE|timed? ?out|retry|connect|resolve|\b(429|5\d\d)\b", re.IGNORECASE
)


class GcsStore:
    """One bucket on Google Cloud Storage (`Store`)."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._files = _filesystem(timeout_s(), _environment())

    def head(self, key: str) -> Stored:
        with self._translated(key), self._files.open_input_file(self._path(key)) as file:
            return _described(key, file)

    def open(self, key: str, start: int, version: str) -> ByteStream:
        with self._translated(key):
            file = self._files.open_input_file(self._path(key))
        if version and _described(key, file).version != version:
            file.close()
            raise StorageError(
                f"{self._uri(key)}: it was replaced while it was being read; run it again"
            )
        file.seek(start)
        return _Stream(self, key, file)

    def objects(self, prefix: str) -> Iterator[Stored]:
        from pyarrow.fs import FileSelector, FileType

        folder = prefix if prefix.endswith("/") or not prefix else prefix.rpartition("/")[0]
        folder = self._path(folder.rstrip("/"))
        selector = FileSelector(folder, recursive=True, allow_not_found=True)
        with self._translated(prefix):
            infos = self._files.get_file_info(selector)
        keys = {info.path.removeprefix(f"{self._bucket}/"): info for info in infos}
        for key in sorted(keys):
            if key.startswith(prefix) and keys[key].type == FileType.File:
                yield Stored(key, keys[key].size)

    def names(self, prefix: str) -> list[str]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path(prefix), allow_not_found=True)
        with self._translated(prefix):
            infos = self._files.get_file_info(selector)
        return sorted(PurePosixPath(info.path).name for info in infos)

    def put(self, key: str, local: Path, sha256: str) -> None:
        sent, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with (
            self._translated(key),
            local.open("rb") as source,
            self._files.open_output_stream(self._path(key), metadata={"sha256": sha256}) as target,
        ):
            while block := source.read(_BLOCK_BYTES):
                sent.update(block)
                md5.update(block)
                target.write(block)
        stored = self.head(key)
        if sent.hexdigest() != sha256:
            self.delete(key)
            raise IndexCorrupt(
                f"{local}: its SHA-256 is no longer the one it was written with; build again"
            )
        if stored.st_size != local.stat().st_size or not self._arrived(key, sha256, md5.digest()):
            raise IndexCorrupt(f"{self._uri(key)}: it did not arrive as it was sent; run it again")

    def _arrived(self, key: str, sha256: str, md5: bytes) -> bool:
        """Whether the bucket holds what was sent: by its MD5; where it has none, by the bytes."""
        with self._translated(key), self._files.open_input_file(self._path(key)) as file:
            if found := _metadata(file).get("md5Hash"):
                return found == base64.b64encode(md5).decode()
            digest = hashlib.sha256()
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest() == sha256

    def delete(self, key: str) -> None:
        with self._translated(key), suppress(FileNotFoundError):
            self._files.delete_file(self._path(key))

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        if self._version(key) != expected:
            raise Conflict(self._uri(key))
        with self._translated(key), self._files.open_output_stream(self._path(key)) as target:
            target.write(data)
        with self._translated(key), self._files.open_input_file(self._path(key)) as file:
            if file.read() != data:
                raise Conflict(self._uri(key))

    def _version(self, key: str) -> str | None:
        try:
            return self.head(key).version
        except FileNotFoundError:
            return None

    def _path(self, key: str) -> str:
        return f"{self._bucket}/{key}".rstrip("/")

    def _uri(self, key: str) -> str:
        return f"gs://{self._path(key)}"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """pyarrow's errors, which are texts, as Tartan's."""
        uri = self._uri(key)
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(2, "there is no such object", uri) from None
        except OSError as error:
            message = scrubbed(error)
            if _REFUSED.search(message):
                raise StorageError(
                    f"{uri}: access is denied; give credentials in the environment "
                    "(GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login): "
                    f"{message}"
                ) from None
            if _BUSY.search(message):
                raise Unavailable(
                    f"{uri}: the server does not answer within {timeout_s():g} s: {message}; "
                    "run it again"
                ) from None
            raise StorageError(f"{uri}: Google Cloud Storage refuses: {message}") from None


class _Stream:
    """An open file, with Tartan's errors."""

    def __init__(self, store: GcsStore, key: str, file: Any) -> None:
        self._store, self._key, self._file = store, key, file

    def read(self, count: int) -> bytes:
        with self._store._translated(self._key):
            data: bytes = self._file.read(count)
        return data

    def close(self) -> None:
        self._file.close()


def _metadata(file: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in file.metadata().items()}


def _described(key: str, file: Any) -> Stored:
    about = _metadata(file)
    version = about.get("generation", "")
    put = datetime.fromisoformat(about["updated"]).timestamp() if "updated" in about else 0.0
    return Stored(key, file.size(), version, about.get("metadata.sha256"), int(put * 1e9))


def _environment() -> str | None:
    return os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT")


@lru_cache(4)
def _filesystem(timeout: float, emulator: str | None) -> Any:
    from pyarrow.fs import GcsFileSystem

    limit = timedelta(seconds=max(1.0, timeout))
    if emulator:
        scheme, _, host = emulator.rstrip("/").partition("://")
        return GcsFileSystem(
            anonymous=True, scheme=scheme, endpoint_override=host, retry_time_limit=limit
        )
    return GcsFileSystem(retry_time_limit=limit)
