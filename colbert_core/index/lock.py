"""One writer at a time: builds, changes, compaction and collection hold the index's lock.

The folder itself is locked, so that no lock file is left over; the system frees the lock when the
process ends, however it ends. Readers never take it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from colbert_core.errors import IndexExists, IndexMissing, InvalidInput


@contextmanager
def write_lock(index: Path) -> Iterator[None]:
    """Hold an index folder for one writer.

    Raises:
        IndexExists: another writer holds it.
        IndexMissing: there is no such folder.
        InvalidInput: the folder cannot be written.
    """
    descriptor = take_lock(index)
    try:
        if not os.access(index, os.W_OK | os.X_OK):
            raise InvalidInput(f"{index}: the folder cannot be written; change its permissions")
        yield
    finally:
        os.close(descriptor)


def take_lock(index: Path) -> int:
    """The same as a descriptor, to be closed by the caller."""
    try:
        descriptor = os.open(index, os.O_RDONLY)
    except OSError as error:
        raise IndexMissing(f"{index}: there is no index here: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise IndexExists(
            f"{index}: another build or change is writing here; wait for its end or choose "
            "another place"
        ) from error
    return descriptor
