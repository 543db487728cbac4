"""Arrays as `bytes` and back: little-endian, row-major, without padding; sizes always checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.wire.tartan.v1 import search_pb2
from colbert_core.errors import QueryError
from colbert_core.types import F32, I32, I64, AnyArray

_F32_LE = np.dtype("<f4")
_I32_LE = np.dtype("<i4")
_I64_LE = np.dtype("<i8")


def _to_bytes(array: AnyArray, dtype: np.dtype[Any]) -> bytes:
    return np.ascontiguousarray(array, dtype=dtype).tobytes()


def _from_bytes(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], name: str
) -> npt.NDArray[Any]:
    """A read-only view of `data`; raises QueryError if its length does not fit `shape`."""
    wanted = dtype.itemsize
    for extent in shape:
        wanted *= extent
    if len(data) != wanted:
        sizes = " × ".join(str(extent) for extent in (*shape, dtype.itemsize))
        raise QueryError(
            f"{name} has {len(data)} bytes where {sizes} = {wanted} are needed: send little-endian "
            f"{dtype.name}, row-major, without padding, and state the dimensions of that array"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def f32_to_bytes(array: F32) -> bytes:
    """float32 of any shape, as bytes."""
    return _to_bytes(array, _F32_LE)


def i32_to_bytes(array: I32) -> bytes:
    """int32 of any shape, as bytes."""
    return _to_bytes(array, _I32_LE)


def i64_to_bytes(array: I64) -> bytes:
    """int64 of any shape, as bytes."""
    return _to_bytes(array, _I64_LE)


def f32_from_bytes(data: bytes, shape: tuple[int, ...], name: str) -> F32:
    """float32 of `shape`, a read-only view; raises QueryError naming `name` if sizes disagree."""
    return _from_bytes(data, _F32_LE, shape, name)


def i32_from_bytes(data: bytes, shape: tuple[int, ...], name: str) -> I32:
    """int32 of `shape`, a read-only view; raises QueryError naming `name` if sizes disagree."""
    return _from_bytes(data, _I32_LE, shape, name)


def i64_from_bytes(data: bytes, shape: tuple[int, ...], name: str) -> I64:
    """int64 of `shape`, a read-only view; raises QueryError naming `name` if sizes disagree."""
    return _from_bytes(data, _I64_LE, shape, name)


def count_of(data: bytes, item_bytes: int) -> int:
    """How many items `data` holds, rounded down; the exact check is `*_from_bytes`'s."""
    return len(data) // item_bytes


def matrix_to_proto(matrix_RD: F32) -> search_pb2.Matrix:
    """float32 [R, D] as a message."""
    rows, dim = matrix_RD.shape
    return search_pb2.Matrix(data=f32_to_bytes(matrix_RD), rows=rows, dim=dim)


def matrix_from_proto(message: search_pb2.Matrix, name: str = "vectors") -> F32:
    """A message as float32 [R, D]; raises QueryError if its sizes disagree."""
    return f32_from_bytes(message.data, (message.rows, message.dim), name)
