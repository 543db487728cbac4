"""Texts on disk: mapped, read by row or by id, so that memory does not grow with them.

    DIR/texts.bin, texts.npy     the texts end to end, and where each begins (int64 [N + 1])
    DIR/ids.bin, ids.npy         the ids, in the same way; both empty where texts have none
    DIR/hashes.npy, rows.npy     uint64 [N] ascending, 64-bit hashes of the ids, and their rows

An id is found by its hash and then compared, so that a collision is never a wrong text.
"""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

import numpy as np

from colbert_core.errors import TrainingDataError
from colbert_core.npy import map_npy
from colbert_core.text.corpus_records import shown_id
from colbert_core.types import I64, U8, AnyArray


class TextWriter:
    """Appends texts, with ids or without."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._texts = (folder / "texts.bin").open("wb")
        self._ids = (folder / "ids.bin").open("wb")
        self._text_ends, self._id_ends = array("q", [0]), array("q", [0])
        self._hashes = array("Q")
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._text_ends) - 1

    def append(self, text: str, text_id: str | None = None) -> int:
        """Write one; returns its row."""
        row = len(self)
        data = text.encode()
        self._texts.write(data)
        self._text_ends.append(self._text_ends[-1] + len(data))
        self._digest.update(len(data).to_bytes(8) + data)
        if text_id is not None:
            name = text_id.encode()
            self._ids.write(name)
            self._id_ends.append(self._id_ends[-1] + len(name))
            self._hashes.append(_hash(name))
        return row

    def close(self) -> str:
        """Write the arrays; returns the sha256 of all texts.

        Raises:
            TrainingDataError: an id came twice.
        """
        self._texts.close()
        self._ids.close()
        hashes = np.frombuffer(self._hashes, np.uint64)
        rows = np.argsort(hashes, kind="stable").astype(np.int64)
        for name, values in (
            ("texts", np.frombuffer(self._text_ends, np.int64)),
            ("ids", np.frombuffer(self._id_ends, np.int64)),
            ("hashes", hashes[rows]),
            ("rows", rows),
        ):
            np.save(self._folder / f"{name}.npy", values)
        _refuse_duplicates(TextStore(self._folder))
        return self._digest.hexdigest()


class TextStore:
    """Reads what `TextWriter` wrote; may be opened by many processes."""

    def __init__(self, folder: Path) -> None:
        self._texts, self._text_ends = _map(folder, "texts")
        self._ids, self._id_ends = _map(folder, "ids")
        self.hashes: AnyArray = map_npy(folder / "hashes.npy")
        self.rows: I64 = map_npy(folder / "rows.npy")

    def __len__(self) -> int:
        return len(self._text_ends) - 1

    def text(self, row: int) -> str:
        """The text of a row."""
        return _part(self._texts, self._text_ends, row).decode()

    def id(self, row: int) -> str:
        """Its id; only where ids were written."""
        return _part(self._ids, self._id_ends, row).decode()

    def row(self, text_id: str) -> int | None:
        """The row of an id, or None."""
        name = text_id.encode()
        value = np.uint64(_hash(name))
        at = int(np.searchsorted(self.hashes, value))
        while at < len(self.hashes) and self.hashes[at] == value:
            row = int(self.rows[at])
            if _part(self._ids, self._id_ends, row) == name:
                return row
            at += 1
        return None


def _refuse_duplicates(store: TextStore) -> None:
    for at in np.flatnonzero(store.hashes[1:] == store.hashes[:-1]).tolist():
        first, second = (store.id(int(row)) for row in store.rows[at : at + 2])
        if first == second:
            raise TrainingDataError(
                f"the id {shown_id(first)} stands for two texts; every id may stand there once"
            )


def _map(folder: Path, name: str) -> tuple[U8, I64]:
    path = folder / f"{name}.bin"
    empty = path.stat().st_size == 0  # what has no bytes cannot be mapped
    data: U8 = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
    return data, map_npy(folder / f"{name}.npy")


def _part(data: U8, ends: I64, row: int) -> bytes:
    return data[int(ends[row]) : int(ends[row + 1])].tobytes()


def _hash(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
