"""The local cache of remote indexes: folders named by what is in them, whole or not at all.

    CACHE/content/<digest>/           the files of one shard, or of one codec, verified
    CACHE/content/<digest>.partial/   the same while it is fetched; a later fetch goes on with it
    CACHE/content/<digest>.lock       held shared while open, exclusively while fetched or evicted;
                                      its time is that of the last use
    CACHE/indexes/<of the URI>/       one index as the readers expect it: links into content/

`<digest>` follows from the SHA-256 sums in the manifest, so equal folders are fetched once,
whatever index they belong to. Beyond TARTAN_CACHE_GB the longest unused ones go; one that is open
never does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from colbert_core.errors import InvalidInput, Unavailable
from colbert_core.index.manifest import FileEntry

DEFAULT_GB = 100.0
_POLL_S = 0.1


class Pin:
    """Keeps folders of the cache from being evicted, until it is closed or forgotten."""

    def __init__(self, locks: Iterable[IO[bytes]] = ()) -> None:
        self._locks = list(locks)

    def close(self) -> None:
        """Let go of the folders."""
        for lock in self._locks:
            lock.close()
        self._locks.clear()

    def __del__(self) -> None:
        self.close()


def cache_folder() -> Path:
    """TARTAN_CACHE, else `tartan` in XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("TARTAN_CACHE"):
        return Path(named).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().absolute() / "tartan"


def cache_limit_bytes() -> int:
    """The most that the cache may keep, from TARTAN_CACHE_GB.

    Raises:
        InvalidInput: it is not a number from 0.
    """
    text = os.environ.get("TARTAN_CACHE_GB", "")
    try:
        gigabytes = float(text) if text else DEFAULT_GB
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise InvalidInput(
            f"TARTAN_CACHE_GB is {text!r}; give gigabytes from 0, or leave it unset for "
            f"{DEFAULT_GB:g}"
        )
    return int(gigabytes * 1e9)


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """The name of a folder of these files, given by their names within it."""
    lines = (f"{name}\0{e.size_bytes}\0{e.sha256}\n" for name, e in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


class CachedFolder:
    """One folder of the cache, by its digest."""

    def __init__(self, cache: Path, digest: str) -> None:
        self.path = cache / "content" / digest
        self.partial = self.path.with_name(f"{digest}.partial")
        self._lock_path = self.path.with_name(f"{digest}.lock")

    @property
    def whole(self) -> bool:
        """Whether it is there; only sure while a lock is held."""
        return self.path.is_dir()

    def lock(self, patience_s: float) -> IO[bytes]:
        """Hold it shared if it is whole, exclusively if it is still to be fetched.

        Raises:
            Unavailable: another process fetches it, and nothing was added for `patience_s`.
        """
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock_path.open("ab")
        held, since = -1, time.monotonic()
        while True:
            kind = fcntl.LOCK_SH if self.whole else fcntl.LOCK_EX
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if (now := size_of(self.partial)) != held:
                    held, since = now, time.monotonic()
                if time.monotonic() - since > patience_s:
                    lock.close()
                    raise Unavailable(
                        f"{self.path}: waited {patience_s:.0f} s for another process that fetches "
                        f"it and has stopped at {held:,} bytes; end that process, or try again"
                    ) from None
                time.sleep(_POLL_S)
                continue
            if not self._is_lock(lock):  # it was discarded meanwhile
                lock.close()
                lock = self._lock_path.open("ab")
            elif (kind == fcntl.LOCK_SH) == self.whole:  # it may have come or gone meanwhile
                os.utime(self._lock_path)
                return lock

    def _is_lock(self, lock: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(lock.fileno()), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def share(self, lock: IO[bytes]) -> None:
        """Turn an exclusive lock into a shared one, once the folder is whole."""
        fcntl.flock(lock, fcntl.LOCK_SH)


def discard(folder: Path) -> None:
    """Take a damaged folder out of the cache, so that it is fetched again.

    Those who have it open keep what they mapped, and the lock that they hold is nobody's any more.
    """
    damaged = folder.resolve()
    aside = damaged.with_name(f"{damaged.name}.damaged-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        damaged.rename(aside)
    _lock_of(damaged).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def make_room(cache: Path, needed: int) -> None:
    """Evict what was not used for longest until `needed` more bytes fit the limit and the disk.

    Raises:
        InvalidInput: the disk has not enough space, whatever is evicted.
    """
    folder = cache / "content"
    folder.mkdir(parents=True, exist_ok=True)
    limit = cache_limit_bytes()
    sizes = {path: size_of(path) for path in folder.iterdir() if path.is_dir()}
    total = sum(sizes.values())
    for path in sorted(sizes, key=_last_use):
        if total + needed <= limit and shutil.disk_usage(folder).free >= needed:
            return
        if _evict(path):
            total -= sizes[path]
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InvalidInput(
            f"{cache}: {needed:,} bytes are to be fetched and {free:,} are free; free some, or set "
            "TARTAN_CACHE to a folder on a larger disk"
        )


def _last_use(path: Path) -> float:
    try:
        return _lock_of(path).stat().st_mtime
    except OSError:
        return 0.0


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name.split('.')[0]}.lock")


def _evict(path: Path) -> bool:
    """Remove a folder, unless somebody holds it."""
    with _lock_of(path).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(path, ignore_errors=True)
    return True


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total
