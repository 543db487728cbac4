"""A place by path or URI: local ones become a `Path`, those in a bucket a `RemotePath`.

`RemotePath` has of pathlib's methods those that reading an index or a corpus needs, so that the
readers take either. What is in a bucket is never changed through it; `Store` does that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote

from colbert_core.errors import InvalidInput

if TYPE_CHECKING:
    from colbert_core.storage.store import Stored

REMOTE_SCHEMES = ("s3", "gs")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_FLATTENED = re.compile(r"(s3|gs|file):/[^/]")


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """An object, or a prefix that objects share, in a bucket; prints as its URI."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> RemotePath:
        key = f"{self.key.rstrip('/')}/{name}" if self.key else name
        return RemotePath(self.scheme, self.bucket, key)

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePosixPath(self.key).suffixes

    def absolute(self) -> RemotePath:
        """Itself: there is no working folder in a bucket."""
        return self

    def stat(self) -> Stored:
        """What is stored here; `st_size` as of a local file.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the bucket is missing, or refuses.
            Unavailable: the server does not answer.
        """
        from colbert_core.storage.store import store_of

        return store_of(self).head(self.key)

    def exists(self) -> bool:
        """Whether there is an object of exactly this key."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """The whole object; errors as of `stat`."""
        with self.open() as file:
            return file.read()

    def open(self, mode: str = "rb", start: int = 0) -> BinaryIO:
        """A stream from byte `start` on, which connects again where a connection breaks."""
        from colbert_core.storage.files import open_remote

        if mode != "rb":
            raise ValueError(f"a remote file is opened to be read, not with mode {mode!r}")
        return open_remote(self, start)


Location = Path | RemotePath


def is_uri(text: str | os.PathLike[str]) -> bool:
    """Whether this is a URI rather than a local path."""
    return isinstance(text, str) and _URI.match(text) is not None


def location(place: str | os.PathLike[str] | RemotePath) -> Location:
    """The place that a path or URI names.

    Raises:
        InvalidInput: the URI has a scheme that is not known, no bucket, or credentials in it.
    """
    if isinstance(place, RemotePath):
        return place
    text = os.fspath(place)
    found = _URI.fullmatch(text)
    if found is None:
        if not isinstance(place, str) and _FLATTENED.match(text):
            raise InvalidInput(f"{text}: a Path cannot hold a URI; give the URI as a string")
        return Path(text)
    scheme, rest = found[1].lower(), found[2]
    host, _, key = rest.partition("/")
    if "@" in host:  # not repeated: what stands before the @ may be a secret
        raise InvalidInput(
            f"a {scheme}:// URI holds something before an @: leave credentials out of it; they are "
            "taken from the environment"
        )
    if scheme == "file":
        return _local(host, unquote(key))
    if scheme not in REMOTE_SCHEMES:
        raise InvalidInput(
            f"{text}: the scheme {scheme!r} is not known; give a local path, file://, "
            + " or ".join(f"{name}://" for name in REMOTE_SCHEMES)
        )
    if not host:
        raise InvalidInput(f"{text}: it names no bucket; write {scheme}://BUCKET/KEY")
    return RemotePath(scheme, host, key.rstrip("/"))


def _local(host: str, path: str) -> Path:
    if host not in ("", "localhost"):
        raise InvalidInput(
            f"file://{host}/{path}: it names the host {host!r}, and only this machine's files can "
            f"be read so; write file:///{path}"
        )
    return Path("/" + path)
