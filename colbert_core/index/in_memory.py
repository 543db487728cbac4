"""A shard's arrays in memory of this process, on large pages, instead of mapped from files.

A search reads here and there in all of them. Mapped files lie on pages of 4 KiB, whose addresses a
processor cannot all remember, so that nearly every passage that is looked at begins with a walk
through page tables. On pages of 2 MiB it does not (docs/decisions/search.md).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from colbert_core import hardware
from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.types import U8, AnyArray

if TYPE_CHECKING:
    from colbert_core.index.reader import ShardArrays, ShardReader

LINE = 64  # bytes of a cache line, where each array begins
SHARE = 0.5  # of the memory that is available, which is taken unasked
_WAIT_S = 60.0  # for others who copy; without their turn over, nothing is copied unasked
_PAUSE_S = 0.05


def keep_in_memory(shards: Sequence[ShardReader], wanted: bool | None) -> bool:
    """Copy what is searched of shards into memory; whether all of it was.

    Args:
        wanted: True copies; None where it takes no more than half of the memory that is available
            and no other process is at it, so that several that open at once do not take too much.

    Raises:
        InvalidInput: it is wanted there, and does not fit.
        IndexCorrupt: a file cannot be read, or ends early.
    """
    if wanted is False or not shards:
        return False
    size = sum(shard.searched_bytes for shard in shards)
    with _turn() as mine:
        available = hardware.available_memory()
        if wanted is None and (not mine or available is None or size > SHARE * available):
            return False
        try:
            if available is not None and size > available:
                raise MemoryError(f"{available:,} bytes are available")
            for shard in shards:
                shard.into_memory()
        except MemoryError as error:
            if wanted is None:
                return False
            raise InvalidInput(
                f"in_memory is True: what is searched takes {size:,} bytes, and {error}; leave "
                "in_memory out, and files are searched as they are mapped"
            ) from error
    return True


def copied(part: ShardArrays) -> ShardArrays:
    """The same arrays, read into memory side by side.

    Raises:
        MemoryError: the system gives no more.
        IndexCorrupt: a file cannot be read, or ends early.
    """
    arrays, starts, size = _arrays(part), {}, 0
    for name, array in arrays.items():
        starts[name] = size
        size += -(-array.nbytes // LINE) * LINE
    memory = _large_pages(max(size, LINE))
    copies: dict[str, AnyArray] = {}
    for name, array in arrays.items():
        whole = slice(starts[name], starts[name] + array.nbytes)
        _read(array, memoryview(memory)[whole])
        copy: U8 = np.frombuffer(memory, np.uint8, array.nbytes, whole.start)
        copy.flags.writeable = False
        copies[name] = copy.reshape(array.shape)
    contexts = copies.pop("contexts", None)
    return type(part)(**copies, contexts=contexts)


def _large_pages(size: int) -> mmap.mmap:
    """Memory of this process alone. Large pages are a wish: a system without them gives others."""
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system gives no more: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _arrays(part: ShardArrays) -> dict[str, AnyArray]:
    """Those that are there, by name."""
    named = ((field.name, getattr(part, field.name)) for field in fields(part))
    return {name: array for name, array in named if array is not None}


def _read(mapped: AnyArray, out: memoryview) -> None:
    """Read from the file, not through the mapping, whose pages would count as this process's."""
    if not isinstance(mapped, np.memmap) or mapped.filename is None:
        out[:] = mapped.tobytes()
        return
    try:
        with Path(mapped.filename).open("rb") as file:
            file.seek(mapped.offset)
            got = file.readinto(out)
    except OSError as error:
        raise IndexCorrupt(f"{mapped.filename}: it cannot be read: {error}") from error
    if got != len(out):
        raise IndexCorrupt(f"{mapped.filename}: it ends after {got:,} of {len(out):,} bytes")


@contextmanager
def _turn() -> Iterator[bool]:
    """Be the one process of this user on this machine that copies; whether it came to that. Where
    there is nothing to take turns by, it is."""
    deadline = time.monotonic() + _WAIT_S
    try:
        path = Path(tempfile.gettempdir()) / f"tartan-memory-{os.getuid()}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield True
        return
    try:
        mine = os.fstat(descriptor).st_uid != os.getuid()  # another's file says nothing
        while not (mine or (mine := _locked(descriptor))) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        yield mine
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here
    return True
