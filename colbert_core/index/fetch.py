"""Remote indexes for reading: fetch what is needed into the cache, verify it, give a local folder.

    with the manifest of `s3://bucket/index` at hand
    local, pin = fetched(remote, manifest, ["global/g1", "shards/g1-0000"])

Files come in parallel; one that is cut off goes on where it stopped, in this process or a later
one. Each is compared with its SHA-256 in the manifest before its folder appears in the cache; one
that differs is fetched again, and refused if it still does.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from colbert_core.errors import IndexCorrupt, TartanError
from colbert_core.index.cache import (
    CachedFolder,
    Pin,
    cache_folder,
    content_digest,
    discard,
    make_room,
    size_of,
)
from colbert_core.index.files import sync_folder, write_file
from colbert_core.index.manifest import (
    CURRENT,
    FileEntry,
    Manifest,
    manifest_name,
    pointer_to,
    read_current,
)
from colbert_core.index.transfers import transfer
from colbert_core.storage import RemotePath, timeout_s
from colbert_core.storage.files import RemoteFile

PARALLEL = 8
ATTEMPTS = 3
_BLOCK_BYTES = 1 << 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are there, and all that are needed; from several threads."""


def fetched(
    remote: RemotePath,
    manifest: Manifest,
    parts: Sequence[str],
    on_bytes: OnBytes | None = None,
    cache: Path | None = None,
) -> tuple[Path, Pin]:
    """Parts of an index, in a local folder that the readers take.

    Args:
        parts: names of folders, such as "shards/g000001-0b1c2d-0000", or of single files.
        cache: instead of `cache_folder()`.

    Returns:
        The local folder, and what keeps it from being evicted: hold it for as long as it is read.

    Raises:
        IndexCorrupt: a file is missing, or has other bytes than the manifest says.
        InvalidInput: there is no space for it.
        StorageError, Unavailable: the bucket refuses, or does not answer.
        TartanError: the cache cannot be written.
    """
    cache = cache or cache_folder()
    locks = []
    try:
        view = cache / "indexes" / hashlib.sha256(str(remote).encode()).hexdigest()[:16]
        for part in parts:
            name = part.rstrip("/")
            files = _files_of(manifest, name)
            folder = CachedFolder(cache, content_digest(files))
            lock = folder.lock(patience_s=4 * timeout_s())
            if folder.whole and not _has_sizes(folder.path, files):
                lock.close()
                discard(folder.path)
                lock = folder.lock(patience_s=4 * timeout_s())
            locks.append(lock)
            single = name in manifest.files
            if not folder.whole:
                source = remote / name.rpartition("/")[0] if single else remote / name
                _fetch_folder(source, files, folder, cache, on_bytes)
                folder.share(lock)
            _link(view / name, folder.path / Path(name).name if single else folder.path)
    except BaseException as error:
        Pin(locks).close()
        if isinstance(error, OSError):
            raise TartanError(
                f"{cache}: the cache cannot be written: {error.strerror or error}; set "
                "TARTAN_CACHE to another folder"
            ) from error
        raise
    return view, Pin(locks)


@contextmanager
def fetched_afresh(remote: RemotePath, on_bytes: OnBytes | None = None) -> Iterator[Path]:
    """The live generation as a local index, every byte of it from the bucket now; for verifying.

    Nothing that is cached is taken, and nothing is left in the cache.

    Raises:
        IndexMissing: there is no index here.
        and what `fetched` raises.
    """
    manifest = read_current(remote)
    data = (remote / manifest_name(manifest.generation)).read_bytes()
    home = cache_folder()
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="afresh-", dir=home) as cache:
        folders = sorted({name.rpartition("/")[0] for name in manifest.files})
        local, pin = fetched(remote, manifest, folders, on_bytes, Path(cache))
        try:
            (local / "generations").mkdir()
            write_file(local / manifest_name(manifest.generation), data)
            write_file(local / CURRENT, pointer_to(manifest.generation, data))
            yield local
        finally:
            pin.close()


def _files_of(manifest: Manifest, folder: str) -> dict[str, FileEntry]:
    """The manifest's files of a folder, by their names within it; or a single one."""
    files = {}
    for name, entry in manifest.files.items():
        parent, _, own = name.rpartition("/")
        if folder in (parent, name):
            files[own] = entry
    # These names come from a bucket, and become names of files here.
    for part in (*folder.split("/"), *files):
        if not _SAFE_NAME.fullmatch(part):
            raise IndexCorrupt(f"manifest {manifest.generation}: {part!r} is no name of a file")
    return files


def _has_sizes(folder: Path, files: Mapping[str, FileEntry]) -> bool:
    try:
        return all((folder / n).stat().st_size == e.size_bytes for n, e in files.items())
    except OSError:
        return False


def _link(link: Path, target: Path) -> None:
    """Point a link at a folder, atomically; other processes may be doing the same."""
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.fspath(link.readlink()) == wanted:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    temporary.symlink_to(wanted)
    temporary.replace(link)


def _fetch_folder(
    remote: RemotePath,
    files: Mapping[str, FileEntry],
    folder: CachedFolder,
    cache: Path,
    on_bytes: OnBytes | None,
) -> None:
    """Fetch a folder that we hold exclusively; it appears when every file of it is verified."""
    total = sum(entry.size_bytes for entry in files.values())
    make_room(cache, total - size_of(folder.partial))
    folder.partial.mkdir(exist_ok=True)
    progress = _Progress(total, on_bytes)
    stop = threading.Event()

    def fetch(name: str) -> None:
        _fetch_file(remote / name, files[name], folder.partial / name, progress, stop)

    largest_first = sorted(files, key=lambda name: -files[name].size_bytes)
    transfer(largest_first, fetch, PARALLEL, stop)
    sync_folder(folder.partial)
    folder.partial.rename(folder.path)
    sync_folder(folder.path.parent)


class _Progress:
    """Bytes that are there, over all threads."""

    def __init__(self, total: int, on_bytes: OnBytes | None) -> None:
        self._total, self._on_bytes = total, on_bytes
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes; below 0 where some were thrown away."""
        with self._lock:
            self._done += count
            if self._on_bytes is not None:
                self._on_bytes(self._done, self._total)


class _Stopped(Exception):
    """Another file has failed."""


def _fetch_file(
    remote: RemotePath, entry: FileEntry, local: Path, progress: _Progress, stop: threading.Event
) -> None:
    """Fetch one file, going on with what is there of it, until it is what the manifest says."""
    try:
        for _ in range(ATTEMPTS):
            if _append_rest(remote, entry, local, progress, stop) == entry.sha256:
                return
            progress.add(-local.stat().st_size)
            local.unlink()
    except FileNotFoundError as error:
        raise IndexCorrupt(
            f"{remote}: the manifest lists this file, and it is not in the bucket; restore it, or "
            "build the index again"
        ) from error
    except _Stopped:
        return
    raise IndexCorrupt(
        f"{remote}: its bytes were altered (fetched {ATTEMPTS} times, its SHA-256 is not the "
        "manifest's); restore the file or build the index again"
    )


def _append_rest(
    remote: RemotePath, entry: FileEntry, local: Path, progress: _Progress, stop: threading.Event
) -> str:
    """Fetch what is missing of a file; gives the SHA-256 of all of it."""
    digest = hashlib.sha256()
    with local.open("a+b") as file:
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            progress.add(len(block))
        have = file.tell()
        if have < entry.size_bytes:
            with RemoteFile(remote, have) as source:
                _check_size(remote, source.stored.st_size, entry)
                while block := source.read(_BLOCK_BYTES):
                    if stop.is_set():
                        raise _Stopped
                    file.write(block)
                    digest.update(block)
                    progress.add(len(block))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check_size(remote: RemotePath, size: int, entry: FileEntry) -> None:
    if size != entry.size_bytes:
        raise IndexCorrupt(
            f"{remote}: it has {size:,} bytes and the manifest says {entry.size_bytes:,}; "
            "restore the file or build the index again"
        )
