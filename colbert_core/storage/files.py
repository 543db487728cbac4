"""Reading remote files: streams that survive a broken connection, copies, and patterns."""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from colbert_core.errors import Unavailable
from colbert_core.storage.location import RemotePath
from colbert_core.storage.store import ByteStream, Stored, store_of, timeout_s

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 1 << 20
MAX_BREAKS = 4  # in a row, without a byte between them
_PAUSE_S = 0.2


class RemoteFile(io.RawIOBase):
    """One object as a stream of bytes, from `start` on.

    A connection that breaks is made again where it broke, for the same version of the object, up to
    MAX_BREAKS times without a byte between, and no longer than twice the time-out.

    Raises (from reading):
        Unavailable: it broke for good; says at which byte.
        FileNotFoundError, StorageError: the object has gone, was replaced, or is refused.
    """

    def __init__(self, path: RemotePath, start: int = 0) -> None:
        self._path = path
        self._store = store_of(path)
        self.stored: Stored = self._store.head(path.key)
        self._at = start
        self._breaks = 0
        self._last_byte = time.monotonic()
        self._stream: ByteStream | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._at >= self.stored.st_size or not len(view):
            return 0
        while True:
            try:
                data = self._read(len(view))
                break
            except Unavailable as error:
                self._after_break(error)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, count: int) -> bytes:
        if self._stream is None:
            self._stream = self._store.open(self._path.key, self._at, self.stored.version)
        data = self._stream.read(count)
        if not data:  # the server ended early
            raise Unavailable("the connection ended before the file did")
        self._breaks, self._last_byte = 0, time.monotonic()
        return data

    def _after_break(self, error: Unavailable) -> None:
        """Wait before another attempt, or give up."""
        self._drop()
        self._breaks += 1
        waited = time.monotonic() - self._last_byte
        if self._breaks > MAX_BREAKS or waited > 2 * timeout_s():
            raise Unavailable(
                f"{self._path}: reading stopped at byte {self._at:,} of {self.stored.st_size:,}, "
                f"{waited:.0f} s after the last byte and {self._breaks} attempts: {error}; "
                "run it again when the server answers"
            ) from error
        time.sleep(_PAUSE_S * 2**self._breaks)

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        self._drop()
        super().close()


def open_remote(path: RemotePath, start: int = 0) -> BinaryIO:
    """A buffered stream of an object from byte `start` on."""
    raw = RemoteFile(path, start)
    return cast(BinaryIO, io.BufferedReader(raw, BLOCK_BYTES))


@contextmanager
def read_copy(path: RemotePath) -> Iterator[Path]:
    """A whole object as a temporary local file, for formats that are not read in order."""
    with tempfile.TemporaryDirectory(prefix="tartan-copy-") as folder:
        copy = Path(folder, path.name)
        with path.open() as source, copy.open("wb") as target:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
        yield copy


def corpus_matches(pattern: RemotePath) -> list[RemotePath]:
    """The objects that a pattern with `*`, `**`, `?` or `[…]` matches, sorted by key.

    As in a shell: `*` stays within a folder, `**` does not.
    """
    fixed = re.split(r"[*?\[]", pattern.key, maxsplit=1)[0]
    wanted = re.compile(_translated(pattern.key), re.DOTALL)
    found = store_of(pattern).objects(fixed)
    return [
        RemotePath(pattern.scheme, pattern.bucket, item.key)
        for item in found
        if wanted.fullmatch(item.key)
    ]


def _translated(pattern: str) -> str:
    """A shell pattern as a regular expression."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return "".join(_TRANSLATED.get(piece) or _one(piece) for piece in pieces)


_TRANSLATED = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _one(piece: str) -> str:
    if piece.startswith("[") and piece.endswith("]"):
        inside = piece[1:-1].replace("\\", "\\\\")
        return f"[{'^' + inside[1:] if inside.startswith('!') else inside}]"
    return re.escape(piece)
