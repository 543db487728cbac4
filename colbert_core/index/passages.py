"""Ids, texts and metadata of a shard: two Arrow IPC files, mapped into memory.

`ids.arrow` holds `id`; `texts.arrow` holds `text` and `metadata` (a JSON object, or null for none).
Every record batch has `BATCH` rows but the last, so a passage's batch follows from its ordinal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from colbert_core.errors import IndexCorrupt
from colbert_core.types import I64, AnyArray

BATCH = 4096
ONE_BY_ONE = 128  # so many ids are read faster one by one than by Arrow
_IDS = pa.schema([pa.field("id", pa.string(), nullable=False)])
_TEXTS = pa.schema([pa.field("text", pa.string()), pa.field("metadata", pa.string())])


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A passage as it lies on disk; None where nothing was stored.

    Of a document in windows it is all of the document, and `window` the characters that were found.
    """

    id: str
    text: str | None
    metadata_json: str | None
    window: tuple[int, int] | None = None

    @property
    def window_text(self) -> str:
        """What of the text was encoded: that of the window."""
        text = self.text or ""
        return text if self.window is None else text[slice(*self.window)]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, parsed; empty where there is none."""
        parsed: dict[str, Any] = orjson.loads(self.metadata_json) if self.metadata_json else {}
        return parsed


class PassageWriter:
    """Writes the two files in batches of `BATCH` rows."""

    def __init__(self, folder: Path) -> None:
        self._ids = pa.ipc.new_file(str(folder / "ids.arrow"), _IDS)
        self._texts = pa.ipc.new_file(str(folder / "texts.arrow"), _TEXTS)
        self._rows: list[tuple[str, str | None, str | None]] = []

    def append(
        self, ids: Sequence[str], texts: Sequence[str | None], metadata: Sequence[str | None]
    ) -> None:
        """Append passages; `metadata` are JSON objects as text, or None."""
        self._rows.extend(zip(ids, texts, metadata, strict=True))
        while len(self._rows) >= BATCH:
            self._write(self._rows[:BATCH])
            del self._rows[:BATCH]

    def append_first(
        self,
        firsts: I64,
        count: int,
        ids: Sequence[str],
        texts: Sequence[str | None],
        metadata: Sequence[str | None],
    ) -> None:
        """Append `count` passages that are windows of documents: a document's row stands at its
        first window, of which `firsts` has the places; the others are empty."""
        nothing: tuple[str, None, None] = ("", None, None)
        rows: list[tuple[str, str | None, str | None]] = [nothing] * count
        for place, row in zip(firsts.tolist(), zip(ids, texts, metadata, strict=True), strict=True):
            rows[place] = row
        self.append(*zip(*rows, strict=True))

    def close(self) -> None:
        """Write what remains and the footers."""
        if self._rows:
            self._write(self._rows)
        self._ids.close()
        self._texts.close()

    def _write(self, rows: list[tuple[str, str | None, str | None]]) -> None:
        ids, texts, metadata = (list(column) for column in zip(*rows, strict=True))
        self._ids.write_batch(pa.record_batch([pa.array(ids, pa.string())], schema=_IDS))
        columns = [pa.array(texts, pa.string()), pa.array(metadata, pa.string())]
        self._texts.write_batch(pa.record_batch(columns, schema=_TEXTS))

    def __enter__(self) -> PassageWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()


class _Strings:
    """One string column of a record batch, read straight from its mapped buffers.

    Arrow's own way to one value makes a batch, a column and a scalar of it: 15 µs a passage.
    """

    def __init__(self, column: pa.StringArray) -> None:
        valid, offsets, data = column.buffers()
        self._offsets = memoryview(offsets).cast("i")
        self._data = memoryview(data) if data is not None else memoryview(b"")
        self._valid = column.is_valid().to_pylist() if valid is not None else None

    def __getitem__(self, row: int) -> str | None:
        if self._valid is not None and not self._valid[row]:
            return None
        return str(self._data[self._offsets[row] : self._offsets[row + 1]], "utf-8")


class _Columns:
    """The string columns of a file, batch by batch as they are asked for; safe between threads."""

    def __init__(self, file: pa.RecordBatchFileReader) -> None:
        self._file = file
        self._batches: dict[int, list[_Strings]] = {}

    def row(self, pid: int) -> list[str | None]:
        """The values of all columns for one passage."""
        number, row = divmod(pid, BATCH)
        columns = self._batches.get(number)
        if columns is None:
            batch = self._file.get_batch(number)
            columns = self._batches[number] = [_Strings(column) for column in batch.columns]
        return [column[row] for column in columns]


class PassageReader:
    """Reads passages by ordinal from the mapped files; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._ids = _open(folder / "ids.arrow", _IDS)
        self._id_of = _Columns(self._ids)
        self._texts_of = _Columns(_open(folder / "texts.arrow", _TEXTS))

    def __len__(self) -> int:
        batches = self._ids.num_record_batches
        if not batches:
            return 0
        last: pa.RecordBatch = self._ids.get_batch(batches - 1)
        return int((batches - 1) * BATCH + last.num_rows)

    def id(self, pid: int) -> str:
        """The user's id of passage `pid`."""
        return self._id_of.row(pid)[0] or ""

    def ids_of(self, pids: I64) -> AnyArray:
        """The ids of passages, strings as objects; Arrow turns many of a batch into Python's."""
        ids = np.empty(len(pids), object)
        if len(pids) <= ONE_BY_ONE:
            ids[:] = [self.id(pid) for pid in pids.tolist()]
            return ids
        batches, rows = np.divmod(pids, BATCH)
        for number in np.unique(batches).tolist():
            here = np.flatnonzero(batches == number)
            column = self._ids.get_batch(number).column(0)
            ids[here] = column.take(pa.array(rows[here])).to_numpy(zero_copy_only=False)
        return ids

    def ids(self) -> list[str]:
        """All ids, in order."""
        column: list[str] = []
        for batch in range(self._ids.num_record_batches):
            column.extend(self._ids.get_batch(batch).column(0).to_pylist())
        return column

    def id_column(self) -> pa.ChunkedArray:
        """All ids, in order, as they are mapped."""
        batches = range(self._ids.num_record_batches)
        return pa.chunked_array([self._ids.get_batch(i).column(0) for i in batches], pa.string())

    def find(self, ids: pa.StringArray) -> tuple[I64, I64]:
        """Which of `ids` stand here: places in `ids` and ordinals, both int64 [F].

        One pass over the mapped column with a hash table of `ids`: 1,000 among a million take some
        30 ms, and no object is made of the million.
        """
        from pyarrow.compute import index_in

        column = self._ids.read_all().column("id")
        places_N = index_in(column, value_set=ids).fill_null(-1).to_numpy()
        pids_F = np.flatnonzero(places_N >= 0)
        return places_N[pids_F].astype(np.int64), pids_F

    def stored(self, pid: int) -> StoredRow:
        """What was stored of passage `pid`, as it was stored."""
        text, metadata = self._texts_of.row(pid)
        return StoredRow(self.id(pid), text, metadata)


def _open(path: Path, schema: pa.Schema) -> pa.RecordBatchFileReader:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
    except (OSError, pa.ArrowInvalid) as error:
        raise IndexCorrupt(f"{path}: the Arrow file cannot be read: {error}") from error
    if reader.schema != schema:
        raise IndexCorrupt(f"{path}: its columns are {reader.schema.names}, not {schema.names}")
    return reader
