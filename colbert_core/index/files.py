"""Write-once files: a temporary name, fsync, then rename.

Arrays are `.npy` files, so that any numpy maps them; the data starts at byte 128, which keeps it
aligned for the kernels.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colbert_core.errors import IndexCorrupt
from colbert_core.index.manifest import FileEntry
from colbert_core.npy import map_npy
from colbert_core.packed_ints import SLACK, pack_ints, width_of
from colbert_core.types import F32, U8, AnyArray

_HEADER_BYTES = 128
_BLOCK_BYTES = 1 << 20
_PACKED_AT_ONCE = 1 << 16
_ROWS = ("residuals", "contexts")


class ArrayWriter:
    """Writes one `.npy` file row by row, so that memory does not grow with the array."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._row_shape = row_shape
        self._file = path.open("wb")
        self._file.write(b"\0" * _HEADER_BYTES)
        self.rows = 0

    def append(self, rows: AnyArray) -> None:
        """Append rows; their dtype is converted, their shape must fit."""
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not fit {self._row_shape}")
        if rows.size:  # a view of nothing cannot be cast
            self._file.write(np.ascontiguousarray(rows, self._dtype).data.cast("B"))
        self.rows += len(rows)

    def close(self) -> None:
        """Write the header, sync and close."""
        header: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        if self._file.tell() != _HEADER_BYTES:
            raise AssertionError(f"the npy header took {self._file.tell()} bytes, not 128")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file as it is, unless it was closed."""
        self._file.close()

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class PackedWriter:
    """Writes packed integers (`packed_ints.py`) as they come, as one `.npy` file.

    Args:
        path: the file.
        largest: what decides their width.
    """

    def __init__(self, path: Path, largest: int) -> None:
        self._array = ArrayWriter(path, np.uint8)
        self._width = width_of(largest)
        self._kept: AnyArray = np.zeros(0, np.uint64)  # less than eight values
        self.count = 0

    def append(self, values: AnyArray) -> None:
        """Append values up to the largest."""
        self.count += len(values)
        values = np.concatenate([self._kept, values.astype(np.uint64)])
        whole = len(values) // 8 * 8
        self._array.append(pack_ints(values[:whole], self._width))
        self._kept = values[whole:]

    def close(self) -> None:
        """Write what is left and the slack, sync and close."""
        self._array.append(pack_ints(self._kept, self._width))
        self._array.append(np.zeros(SLACK, np.uint8))
        self._array.close()

    def abandon(self) -> None:
        """Let go of the file as it is, unless it was closed."""
        self._array.abandon()


def write_packed(path: Path, values: AnyArray, largest: int) -> None:
    """Write packed integers that are there already, in memory that does not grow with them."""
    writer = PackedWriter(path, largest)
    try:
        for start in range(0, len(values), _PACKED_AT_ONCE):
            writer.append(values[start : start + _PACKED_AT_ONCE])
        writer.close()
    finally:
        writer.abandon()


def map_array(path: Path) -> AnyArray:
    """Map a `.npy` file read-only; nothing is read until it is used.

    Raises:
        IndexCorrupt: the file is missing or is not an array.
    """
    try:
        return map_npy(path)
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path}: the array cannot be mapped: {error}") from error


def map_bytes(path: Path) -> U8:
    """Map one of a shard's arrays: bytes, rows of them for residuals and contexts.

    Raises:
        IndexCorrupt: the file is missing, is not an array, or is another one.
    """
    mapped = map_array(path)
    if mapped.dtype != np.uint8 or mapped.ndim != 1 + (path.stem in _ROWS):
        raise IndexCorrupt(f"{path}: it holds {mapped.dtype} {list(mapped.shape)}, not bytes")
    return mapped


def read_matrix(path: Path) -> F32:
    """A small float32 matrix, in memory.

    Raises:
        IndexCorrupt: the file is not one, or holds values that are not finite.
    """
    matrix = map_array(path)
    if matrix.dtype != np.float32 or matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise IndexCorrupt(f"{path}: it is not a matrix of finite float32")
    return np.array(matrix)


def narrowest(largest: int) -> np.dtype[Any]:
    """The smallest unsigned type of 16 or 32 bits that holds a value.

    Raises:
        ValueError: it needs more than 32 bits.
    """
    if largest < 1 << 16:
        return np.dtype(np.uint16)
    if largest < 1 << 32:
        return np.dtype(np.uint32)
    raise ValueError(f"{largest} needs more than 32 bits; use more shards")


def write_file(path: Path, data: bytes) -> None:
    """Write a small file so that it is either absent or whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def entry_of(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return FileEntry(path.stat().st_size, digest.hexdigest())


def check_size(path: Path, entry: FileEntry) -> None:
    """Raise `IndexCorrupt` where a file is missing or has another size than the manifest says."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise IndexCorrupt(f"{path}: the manifest lists this file, but {error.strerror}") from error
    if size != entry.size_bytes:
        raise IndexCorrupt(
            f"{path}: it has {size:,} bytes and the manifest says {entry.size_bytes:,}; "
            "restore the file or build the index again"
        )
