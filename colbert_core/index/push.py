"""Publishing a local index in a bucket: every file, then the manifest, then the pointer.

    check_remote_place(remote, overwrite=False)       before any work
    push(local, remote, overwrite=False)              the live generation of `local` becomes live

What was live before stays so until the last step. A push that ended in the middle is done again by
the same call: files that arrived, with the same SHA-256, are not sent twice.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from colbert_core.errors import IndexCorrupt, IndexExists, IndexMissing
from colbert_core.index.files import entry_of, write_file
from colbert_core.index.manifest import (
    CURRENT,
    FileEntry,
    Manifest,
    manifest_name,
    manifest_path,
    pointer_to,
    read_current,
)
from colbert_core.index.transfers import transfer
from colbert_core.storage import RemotePath, Store, store_of
from colbert_core.storage.store import Conflict

PARALLEL = 4
OWN_NAMES = {CURRENT, "generations", "global", "shards", "tombstones"}

OnSent = Callable[[int], None]
"""Called with the bytes of each file that is in the bucket; one call at a time."""


def live_generation(remote: RemotePath) -> str | None:
    """The generation that is live in a bucket; None where there is none that can be read."""
    return _pointer(remote)[0]


def check_remote_place(remote: RemotePath, *, overwrite: bool) -> None:
    """Refuse a place in a bucket that is taken, before any work.

    Raises:
        IndexExists: there is an index and `overwrite` is false, or something that is no index.
        StorageError, Unavailable: the bucket is missing or refuses, or does not answer.
    """
    if (remote / CURRENT).exists():
        if not overwrite:
            raise _taken(remote)
        return
    others = [name for name in store_of(remote).names(remote.key) if name not in OWN_NAMES]
    if others:
        raise IndexExists(
            f"{remote}: this is not an index and not empty (it holds {others[0]!r}); choose a new "
            "or empty place for --out"
        )


def number_after(local: Path, remote: RemotePath) -> None:
    """Let the next generation of a local index be numbered after the one that is live remotely.

    The name of its manifest is what counts (`new_generation_id`).
    """
    if live := live_generation(remote):
        path = manifest_path(local, live)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (remote / manifest_name(live)).read_bytes())


def push(
    local: Path, remote: RemotePath, *, overwrite: bool, on_sent: OnSent | None = None
) -> Manifest:
    """Make the live generation of a local index the live one in a bucket.

    Args:
        overwrite: whether an index that is there becomes the parent of this generation.

    Returns:
        The manifest that was published: the local one, with the parent that was found.

    Raises:
        IndexExists: there is an index and `overwrite` is false, or another generation was
            published at the same time.
        IndexCorrupt: a local file has changed since it was written, or one arrived otherwise.
        StorageError, Unavailable: the bucket refuses, or does not answer.
    """
    manifest = read_current(local)
    live, version = _pointer(remote)
    if live == manifest.generation:  # an earlier push went through, and its answer was lost
        return read_current(remote)
    if version is not None and not overwrite:
        raise _taken(remote)
    manifest = dataclasses.replace(manifest, parent=live)
    store = store_of(remote)
    _send_files(local, remote, store, manifest, on_sent or (lambda _bytes: None))
    data = manifest.to_json()
    with TemporaryDirectory(prefix="tartan-push-") as folder:
        path = Path(folder, "manifest.json")
        path.write_bytes(data)
        _send(store, path, remote / manifest_name(manifest.generation), entry_of(path))
    try:
        pointer = pointer_to(manifest.generation, data)
        store.swap((remote / CURRENT).key, pointer, version)
    except Conflict as error:
        now = live_generation(remote)
        if now != manifest.generation:  # else it was our own, asked for twice
            raise IndexExists(
                f"{remote}: generation {now} was published while this one was built on "
                f"{live or 'nothing'}; it stays live. Run it again with --overwrite to replace it"
            ) from error
    return manifest


def _pointer(remote: RemotePath) -> tuple[str | None, str | None]:
    """The live generation, and the version of the pointer; None where there is none.

    The version is asked for first: a pointer that changes in between makes the swap fail. What
    cannot be read is no generation, and is replaced, as its error advises.
    """
    try:
        version = (remote / CURRENT).stat().version
    except FileNotFoundError:
        return None, None
    try:
        return read_current(remote).generation, version
    except (IndexMissing, IndexCorrupt):
        return None, version


def _taken(remote: RemotePath) -> IndexExists:
    return IndexExists(
        f"{remote}: there is an index here already; choose another --out, or give --overwrite for "
        "a new generation that replaces it"
    )


def _send_files(
    local: Path, remote: RemotePath, store: Store, manifest: Manifest, on_sent: OnSent
) -> None:
    stop, one_at_a_time = threading.Event(), threading.Lock()

    def send(name: str) -> None:
        if not stop.is_set():
            entry = manifest.files[name]
            _send(store, local / name, remote / name, entry)
            with one_at_a_time:
                on_sent(entry.size_bytes)

    transfer(manifest.files, send, PARALLEL, stop)


def _send(store: Store, path: Path, remote: RemotePath, entry: FileEntry) -> None:
    """Upload a file, unless it is there with the same bytes."""
    try:
        stored = store.head(remote.key)
        if stored.st_size == entry.size_bytes and stored.sha256 == entry.sha256:
            return
    except FileNotFoundError:
        pass
    try:
        store.put(remote.key, path, entry.sha256)
    except FileNotFoundError as error:
        raise IndexCorrupt(f"{path}: the manifest lists this file, and it is gone") from error
