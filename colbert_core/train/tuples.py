"""Tuple files, read and written one line at a time, however large.

    for record, place in read_records("tuples.jsonl.gz"): …
    with TupleWriter(Path("scored.jsonl")) as writer:
        writer.write(record)

JSON lines (also compressed) in the formats of `records.py`, or Parquet with PyLate's columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import orjson

from colbert_core.errors import CorpusError, TrainingDataError
from colbert_core.storage import Location
from colbert_core.text.corpus_formats import read_lines, reader_for
from colbert_core.text.corpus_records import Place
from colbert_core.train.records import Record, as_json, record_from_json


def read_records(path: Location) -> Iterator[tuple[Record, Place]]:
    """Every tuple of a file, in order; scores are read, and not yet judged (`check_scores`).

    Raises:
        TrainingDataError: the file cannot be read, or a line is no tuple; names file and line.
    """
    try:
        for value, place in _values(path):
            yield record_from_json(value, place), place
    except CorpusError as error:
        raise TrainingDataError(str(error)) from error


def _values(path: Location) -> Iterator[tuple[object, Place]]:
    if path.suffix.lower() == ".parquet":
        reader = reader_for(path)
        assert reader is not None
        yield from reader(path)
        return
    for line, place in read_lines(path):
        if line.strip():
            yield _parse(line, place), place


def _parse(line: bytes, place: Place) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # Python's json also takes NaN, which scores are refused for by name.
        try:
            return json.loads(line)
        except ValueError as error:
            raise TrainingDataError(
                f"{place}: broken JSON: {error}; every line is one complete tuple"
            ) from error


class TupleWriter:
    """Writes a tuple file: under a temporary name, synced, then renamed; whole or not at all."""

    def __init__(self, path: Path) -> None:
        """Begin.

        Raises:
            TrainingDataError: nothing can be written there.
        """
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise TrainingDataError(
                f"{path}: it cannot be written ({error.strerror}); choose another place"
            ) from error
        self.count = 0

    def write(self, record: Record) -> None:
        """Append one tuple."""
        self._file.write(orjson.dumps(as_json(record)) + b"\n")
        self.count += 1

    def __enter__(self) -> TupleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink()
