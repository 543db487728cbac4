"""The fields of a shard's metadata as typed Arrow columns, for filters: `metadata.arrow`.

It follows from `texts.arrow` alone, byte for byte, in two passes over its JSON: the first finds the
fields, the second writes them, one column each, by name, in record batches like those of the texts.
Strings that repeat are numbered (Arrow's dictionaries): a filter looks at each of them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from colbert_core.errors import IndexCorrupt
from colbert_core.filters.check import JSON, REST, element_of
from colbert_core.index.metadata_fields import FieldCounter, as_type, flatten

NAME = "metadata.arrow"
_PLAIN = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    JSON: pa.bool_(),
}


def write_metadata(folder: Path) -> dict[str, str]:
    """Write `metadata.arrow` beside a shard's finished `texts.arrow`.

    Returns:
        The fields and their types, by name; where there are none, no file is written.
    """
    texts = folder / "texts.arrow"
    counter = FieldCounter()
    for rows in _metadata_of(texts):
        for row in rows:
            if row:
                counter.add(row)
    fields = counter.fields()
    dictionaries = {name: counter.distinct(name) for name in fields if name != REST}
    columns = {name: _Column(fields[name], strings) for name, strings in dictionaries.items()}
    if not columns:
        return fields
    schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()])
    with (folder / NAME).open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for rows in _metadata_of(texts):
            values: dict[str, list[Any]] = {name: [None] * len(rows) for name in columns}
            for at, row in enumerate(rows):
                for name, value in flatten(row or {}):
                    if name in values:
                        values[name][at] = as_type(value, fields[name])
            arrays = [column.array(values[name]) for name, column in columns.items()]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    return fields


def _metadata_of(texts: Path) -> Iterator[list[dict[str, Any] | None]]:
    """The parsed metadata of a batch's passages, batch by batch."""
    with pa.memory_map(str(texts)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            column = reader.get_batch(number).column("metadata")
            yield [orjson.loads(row) if row else None for row in column.to_pylist()]


class _Column:
    """How the values of one field become an Arrow array."""

    def __init__(self, kind: str, strings: list[str] | None) -> None:
        self._strings = None if strings is None else pa.array(strings, pa.string())
        self._numbers = {one: number for number, one in enumerate(strings or ())}
        plain = _PLAIN[element_of(kind)]
        self.type = plain if kind == element_of(kind) else pa.list_(plain)
        if strings is not None:
            self.type = pa.dictionary(pa.int32(), pa.string())

    def array(self, values: list[Any]) -> pa.Array:
        """A batch's values; None where there is none."""
        if self._strings is None:
            return pa.array(values, self.type)
        numbers = [None if value is None else self._numbers[value] for value in values]
        return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), self._strings)


class MetadataReader:
    """The columns of `metadata.arrow`, mapped; safe to share between threads.

    Args:
        folder: of the shard.
        passages: how many it has.
        fields: the types of its fields, as the manifest says.
    """

    def __init__(self, folder: Path, passages: int, fields: Mapping[str, str]) -> None:
        self._path = folder / NAME
        self._passages = passages
        self.fields = dict(fields)

    def column(self, name: str) -> pa.ChunkedArray | None:
        """The values of a field, every one of them checked; None where no passage has it.

        Raises:
            IndexCorrupt: the file is not what the manifest says.
        """
        if name not in self.fields or name == REST:
            return None
        try:
            number = pa.ipc.open_file(self._mapped()).schema.get_field_index(name)
            options = pa.ipc.IpcReadOptions(included_fields=[number])
            column = pa.ipc.open_file(self._mapped(), options=options).read_all().column(0)
            column.validate(full=True)
        except (OSError, ValueError, pa.ArrowException, IndexError) as error:
            raise IndexCorrupt(f"{self._path}: field {name!r} cannot be read: {error}") from error
        if len(column) != self._passages:
            raise IndexCorrupt(
                f"{self._path}: it has {len(column)} rows and the shard {self._passages} passages"
            )
        kind = self.fields[name]
        expected = [_Column(kind, None).type]
        if kind == "string":
            expected.append(_Column(kind, []).type)
        if column.type not in expected:
            raise IndexCorrupt(
                f"{self._path}: field {name!r} is {column.type} and the manifest says {kind}"
            )
        return column

    def _mapped(self) -> pa.MemoryMappedFile:
        return pa.memory_map(str(self._path))
