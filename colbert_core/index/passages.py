"""Ids, texts and metadata of a shard: two Arrow IPC files, mapped into memory.

`ids.arrow` holds `id`; `texts.arrow` holds `text` and `metadata` (a JSON object, or null for none).
Every record batch has `BATCH` rows but the last, so a passage's batch follows from its ordinal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from colbert_core import kernels
from colbert_core.errors import IndexCorrupt
from colbert_core.types import I32, I64, U8

BATCH = 4096
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
        """The metadata, parsed; empty where there is none.

        Raises:
            IndexCorrupt: what was stored is not a JSON object.
        """
        try:
            parsed = orjson.loads(self.metadata_json) if self.metadata_json else {}
        except orjson.JSONDecodeError as error:
            raise IndexCorrupt(
                f"the stored metadata of passage {self.id!r} are not JSON: {error}; run "
                "`tartan index verify --deep`"
            ) from error
        if not isinstance(parsed, dict):
            raise IndexCorrupt(
                f"the stored metadata of passage {self.id!r} are not a JSON object; run "
                "`tartan index verify --deep`"
            )
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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


class _File:
    """A mapped Arrow file, of which nothing is taken on trust: Arrow itself would read wherever
    the lengths and offsets of a damaged one lead."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._read_whole: set[int] = set()
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batches: int = self._reader.num_record_batches
            columns, same = self._reader.schema.names, self._reader.schema == schema
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self.corrupt(f"the Arrow file cannot be read: {error}") from error
        if not same:
            raise self.corrupt(f"its columns are {columns}, not {schema.names}")

    def __len__(self) -> int:
        if not self.batches:
            return 0
        return (self.batches - 1) * BATCH + int(self.batch(self.batches - 1).num_rows)

    def batch(self, number: int, full: bool = False) -> pa.RecordBatch:
        """A record batch whose buffers are as long as its columns need.

        Args:
            full: every offset and every string is looked at too, as Arrow's own reading needs.
        """
        try:
            batch = self._reader.get_batch(number)
            rows, last = batch.num_rows, number == self.batches - 1
            if rows != BATCH and not (last and 0 < rows < BATCH):
                raise ValueError(f"it has {rows} rows")
            if full and number not in self._read_whole:
                batch.validate(full=True)
                self._read_whole.add(number)
            else:
                batch.validate()
            return batch
        except (OSError, ValueError, IndexError, pa.ArrowException) as error:
            raise self.corrupt(f"record batch {number} cannot be read: {error}") from error

    def corrupt(self, what: str) -> IndexCorrupt:
        """The error that names the file."""
        return IndexCorrupt(f"{self._path}: {what}")


class _Columns:
    """The string columns of a file, batch by batch as they are asked for; safe between threads."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._batches: dict[int, list[_Strings]] = {}

    def row(self, pid: int) -> list[str | None]:
        """The values of all columns for one passage."""
        number, row = divmod(pid, BATCH)
        columns = self._batches.get(number)
        if columns is None:
            batch = self._file.batch(number)
            columns = self._batches[number] = [_Strings(column) for column in batch.columns]
        try:
            return [column[row] for column in columns]
        except (IndexError, ValueError) as error:  # offsets or UTF-8
            raise self._file.corrupt(f"passage {pid} cannot be read: {error}") from error


class PassageReader:
    """Reads passages by ordinal from the mapped files; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._ids = _File(folder / "ids.arrow", _IDS)
        self._id_of = _Columns(self._ids)
        self._id_strings = kernels.StringColumn(BATCH)
        texts = _File(folder / "texts.arrow", _TEXTS)
        self._texts_of = _Columns(texts)
        if len(texts) != len(self._ids):
            raise texts.corrupt(f"it has {len(texts)} rows and ids.arrow {len(self._ids)}")

    def __len__(self) -> int:
        return len(self._ids)

    def id(self, pid: int) -> str:
        """The user's id of passage `pid`."""
        return self._id_of.row(pid)[0] or ""

    def ids_of(self, pids: I64) -> list[str]:
        """The ids of passages, made together: several times as fast as one by one."""
        while True:
            try:
                return self._id_strings.take(pids)
            except KeyError as missing:
                (number,) = missing.args
                self._id_strings.add(number, *self._buffers(number))
            except (RuntimeError, UnicodeDecodeError) as error:
                raise self._ids.corrupt(f"an id cannot be read: {error}") from error

    def _buffers(self, number: int) -> tuple[I32, U8]:
        """Offsets and bytes of a batch's ids, as they are mapped."""
        column = self._ids.batch(number).column(0)
        _, offsets, data = column.buffers()
        first, rows = column.offset, len(column)
        bytes_S = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
        return np.frombuffer(offsets, "<i4")[first : first + rows + 1], bytes_S

    def ids(self) -> list[str]:
        """All ids, in order."""
        column: list[str] = []
        for number in range(self._ids.batches):
            column.extend(self._ids.batch(number, full=True).column(0).to_pylist())
        return column

    def id_column(self) -> pa.ChunkedArray:
        """All ids, in order, as they are mapped."""
        batches = (self._ids.batch(number, full=True) for number in range(self._ids.batches))
        return pa.chunked_array([batch.column(0) for batch in batches], pa.string())

    def find(self, ids: pa.StringArray) -> tuple[I64, I64]:
        """Which of `ids` stand here: places in `ids` and ordinals, both int64 [F].

        One pass over the mapped column with a hash table of `ids`: 1,000 among a million take some
        30 ms, and no object is made of the million.
        """
        from pyarrow.compute import index_in

        places_N = index_in(self.id_column(), value_set=ids).fill_null(-1).to_numpy()
        pids_F = np.flatnonzero(places_N >= 0)
        return places_N[pids_F].astype(np.int64), pids_F

    def stored(self, pid: int) -> StoredRow:
        """What was stored of passage `pid`, as it was stored."""
        text, metadata = self._texts_of.row(pid)
        return StoredRow(self.id(pid), text, metadata)
