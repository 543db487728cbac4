"""Leases: a generation that a process has open is never collected.

A reader holds a shared lock on the manifest of its generation for as long as the generation is
open, and `gc` collects only what it can lock alone. The system frees a lock when its process ends,
even by kill -9. Nothing is written: a read-only folder is protected, too. Where the file system
knows no locks, opening works, and `Lease.protects` says that nothing is protected.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from colbert_core.errors import IndexCorrupt, IndexMissing, Unavailable
from colbert_core.index.manifest import (
    Manifest,
    manifest_path,
    read_current,
    read_generation,
    read_pointer,
)

_WAIT_S = 10.0  # for a collector, which holds a manifest for a moment
_PAUSE_S = 0.005
_TRIES = 20  # at opening what is live while it changes


class Lease:
    """A shared lock on one generation; ends when closed, or when nothing refers to it."""

    def __init__(self, index: Path, generation: str) -> None:
        """Take it.

        Raises:
            IndexMissing: there is no such generation, or it was collected just now.
            Unavailable: something else has held the manifest for ten seconds.
        """
        self._descriptor = -1
        path = manifest_path(index, generation)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _gone(index, generation, error.strerror) from error
        try:
            self.protects = _lock_shared(self._descriptor, path)
            if os.fstat(self._descriptor).st_nlink == 0:
                raise _gone(index, generation, "it was collected")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _lock_shared(descriptor: int, path: Path) -> bool:
    """Lock; whether this file system can."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{path}: waited {_WAIT_S:.0f} s for the lock of this file, which another "
                    "program holds"
                ) from error
            time.sleep(_PAUSE_S)
        except OSError:
            return False
        else:
            return True


def lease_generation(index: Path, generation: str | None) -> tuple[Manifest, Lease]:
    """A manifest, the live one by default, and a lease that was taken before it was read.

    Raises:
        IndexMissing: there is no index, or no such generation.
        IndexCorrupt: the manifest, or what points to it, is damaged.
    """
    if generation is not None:
        lease = Lease(index, generation)
        return read_generation(index, generation), lease
    for _ in range(_TRIES):
        live, _ = read_pointer(index)
        try:
            lease = Lease(index, live)
            manifest = read_current(index)
        except (IndexMissing, IndexCorrupt) as error:
            if read_pointer(index)[0] != live:
                continue  # another became live, and this one was collected
            if isinstance(error, IndexMissing):  # what CURRENT names has to be there
                read_current(index)
            raise
        if manifest.generation == live:
            return manifest, lease
        lease.close()
    raise Unavailable(f"{index}: the live generation changed {_TRIES} times while it was opened")


def in_use(index: Path, generation: str) -> bool:
    """Whether a process has this generation open."""
    try:
        descriptor = os.open(manifest_path(index, generation), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock_alone(descriptor)
    finally:
        os.close(descriptor)


def lock_alone(descriptor: int) -> bool:
    """Lock a manifest against being opened; False where it is open."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here, and so no leases
    return True


def _gone(index: Path, generation: str, why: str | None) -> IndexMissing:
    return IndexMissing(
        f"{index}: generation {generation!r} cannot be opened: {why}; open the live one, or serve "
        "the index again"
    )
