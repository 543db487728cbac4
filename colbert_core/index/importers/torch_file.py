"""Tensors of a `.pt` file, mapped from disk, without torch and without running what it says.

Since torch 1.6 such a file is a zip whose members are stored as they are: `NAME/data.pkl` describes
the tensors, `NAME/data/KEY` holds the numbers of each. The description is a pickle; of its language
only what describes tensors, tuples, lists and numbers is understood here, and anything else is an
error. So a file cannot make this program do anything, and memory does not grow with its size.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.errors import IndexCorrupt
from colbert_core.types import AnyArray

_DTYPES = {
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}
_LARGEST_PICKLE = 1 << 20
_BLOCK = 1 << 20
_FAILURES = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    OverflowError,
    struct.error,
    zlib.error,
)


def read_torch(path: Path, check: bool = True) -> Any:
    """What a `.pt` file holds, with tensors as read-only mapped arrays.

    Args:
        path: the file.
        check: read all of it once and compare the checksums that it carries.

    Raises:
        IndexCorrupt: it is missing or damaged, or it holds other than tensors and numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("it has no data.pkl")
            if archive.getinfo(names[0]).file_size > _LARGEST_PICKLE:
                raise ValueError("its data.pkl is too large to describe tensors")
            if check:
                _check(archive)
            root = names[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist():
                order = archive.read(f"{root}byteorder")
                if order != b"little":
                    raise ValueError(f"its byte order is {order!r}")
            return _Reader(path, archive, root).run(archive.read(names[0]))
    except _FAILURES as error:
        raise IndexCorrupt(
            f"{path}: this is not a readable file of torch tensors (torch 1.6 or later): {error}"
        ) from error


def _check(archive: zipfile.ZipFile) -> None:
    """Read every member; `zipfile` compares its CRC at the end."""
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its member {info.filename} is compressed")
        with archive.open(info) as member:
            while member.read(_BLOCK):
                pass


class _Global:
    """A name that the pickle mentions; never imported."""

    def __init__(self, name: str) -> None:
        self.name = name


_MARK = object()


class _Reader:
    """Runs the description on a stack: the opcodes of tensors and plain values, nothing else."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        self._path, self._archive, self._root = path, archive, root
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                (result,) = self._stack
                return _plain(result)
            self._step(name, argument)
        raise ValueError("its description has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE",
                    "BINFLOAT"):  # fmt: skip
            stack.append(argument)
        elif name in ("NEWTRUE", "NEWFALSE", "NONE"):
            stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST"):
            stack.append(() if name == "EMPTY_TUPLE" else [])
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            values = tuple(stack[-count:])
            if len(values) != count:
                raise ValueError("its description is damaged")
            stack[-count:] = [values]
        elif name in ("APPEND", "APPENDS"):
            values = tuple(self._since_mark()) if name == "APPENDS" else (stack.pop(),)
            if not isinstance(stack[-1], list):
                raise ValueError("its description is damaged")
            stack[-1].extend(values)
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_rebuild(stack.pop(), arguments))
        else:
            raise ValueError(f"it holds more than tensors and numbers ({name})")

    def _since_mark(self) -> list[Any]:
        at = max(i for i, value in enumerate(self._stack) if value is _MARK)
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def _storage(self, persistent: Any) -> AnyArray:
        """The numbers of one storage, as one flat mapped array."""
        kind, storage_type, key, _location, count = persistent
        dtype = np.dtype(_DTYPES[storage_type.name.split(" ")[-1]])
        if kind != "storage":
            raise ValueError("its description is damaged")
        info = self._archive.getinfo(f"{self._root}data/{key}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its member {info.filename} is compressed")
        if count * dtype.itemsize != info.file_size or count < 0:
            raise ValueError(f"its member {info.filename} has {info.file_size} bytes")
        if count == 0:
            return np.zeros(0, dtype)
        start = self._data_start(info)
        if start + info.file_size > self._path.stat().st_size:
            raise ValueError(f"its member {info.filename} is cut short")
        return np.memmap(self._path, dtype, "r", start, (count,))

    def _data_start(self, info: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin: behind its local header."""
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise ValueError(f"its member {info.filename} has no header")
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        return int(info.header_offset) + 30 + int(name_bytes) + int(extra_bytes)


def _rebuild(function: Any, arguments: Any) -> Any:
    """A tensor from its storage, or the empty dict of its hooks."""
    if function.name == "collections OrderedDict" and arguments == ():
        return None
    if function.name != "torch._utils _rebuild_tensor_v2":
        raise ValueError(f"it holds {function.name}, which is not a tensor")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, np.ndarray) or not all(
        isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)
    ):
        raise ValueError("its description is damaged")
    count = math.prod(shape)
    if count and not _contiguous(shape, strides):
        raise ValueError("a tensor is not contiguous; save it again with .contiguous()")
    if offset + count > len(storage):
        raise ValueError("a tensor is larger than its storage")
    return storage[offset : offset + count].reshape(shape)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements lie in C order without gaps; a dimension of one may have any stride."""
    return len(shape) == len(strides) and all(
        size == 1 or strides[i] == math.prod(shape[i + 1 :]) for i, size in enumerate(shape)
    )


def _plain(value: Any) -> Any:
    """Refuse what is left of names and marks."""
    if isinstance(value, tuple | list):
        return tuple(_plain(one) for one in value)
    if value is _MARK or isinstance(value, _Global):
        raise ValueError("its description is damaged")
    return value
