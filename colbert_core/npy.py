"""Reading `.npy` files of which nothing is taken on trust: headers are parsed strictly.

numpy's own reader evaluates the header as Python, allocates what it announces, and fails in a dozen
ways on a damaged one. Here a file either is a plain array whose bytes end where the file ends, or
it is a `ValueError` that says why not.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from colbert_core.types import AnyArray

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096
_HEADER = re.compile(
    r"\{\s*'descr'\s*:\s*'(?P<descr>[<|=]?[a-z]\d{1,2})'\s*,"
    r"\s*'fortran_order'\s*:\s*(?P<fortran>True|False)\s*,"
    r"\s*'shape'\s*:\s*\((?P<shape>[\d\s,]*)\)\s*,?\s*\}\s*",
    re.ASCII,
)
_KINDS = {"i", "u", "f", "b"}


def map_npy(path: Path) -> AnyArray:
    """Map a `.npy` file read-only; nothing is read until it is used.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not an array of numbers in C order whose bytes end with the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        dtype, shape, offset = _read_header(file.read(min(size, _LONGEST_HEADER)))
    expected = offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise ValueError(f"it has {size} bytes and its header announces {expected}")
    if size == offset:  # what has no bytes cannot be mapped
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def read_npy(path: Path) -> AnyArray:
    """The same, read into memory at once: for small arrays."""
    return np.array(map_npy(path))


def _read_header(data: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """(dtype, shape, where the data begins)."""
    if data[:6] != _MAGIC or len(data) < 12:
        raise ValueError("it is not a .npy file")
    if data[6:8] == b"\x01\x00":
        begin, length = 10, int.from_bytes(data[8:10], "little")
    elif data[6:8] in (b"\x02\x00", b"\x03\x00"):
        begin, length = 12, int.from_bytes(data[8:12], "little")
    else:
        raise ValueError(f".npy format {data[6]}.{data[7]} is not known")
    text = data[begin : begin + length]
    if len(text) != length:
        raise ValueError(f"its header of {length} bytes is cut short, or is too long")
    match = _HEADER.fullmatch(text.decode("latin-1"))
    if match is None:
        raise ValueError("its header is not that of a plain array of numbers")
    dtype = _dtype(match["descr"])
    shape = tuple(int(part) for part in match["shape"].split(",") if part.strip())
    if match["fortran"] == "True" and len(shape) > 1:
        raise ValueError("it is in Fortran order; arrays here are in C order")
    return dtype, shape, begin + length


def _dtype(descr: str) -> np.dtype[np.generic]:
    try:
        dtype = np.dtype(descr)
    except TypeError as error:
        raise ValueError(f"its type {descr!r} is not known") from error
    if dtype.kind not in _KINDS:
        raise ValueError(f"its type {descr!r} is not a number")
    return dtype
