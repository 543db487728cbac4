"""One record of a corpus (a JSON object, a TSV line, a Parquet row) becomes one `Passage`.

    id        `_id`, else `id`: a string, or an integer (written out in decimal)
    text      `title` + " " + `text`, stripped; it may be empty
    metadata  everything else, `title` included; an object named `metadata` (BEIR) is laid open

Nothing is guessed: what cannot be taken as it stands is a `CorpusError` that names the place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from colbert_core.errors import CorpusError
from colbert_core.types import Passage

MAX_ID_BYTES = 1024
MAX_TEXT_BYTES = 16 * 2**20
_SHOWN_ID_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record came from: a file and a line (text files) or row (Parquet), both from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Document:
    """A passage and the place where it was read."""

    passage: Passage
    place: Place


def document_from_record(record: object, place: Place) -> Document:
    """Make a passage of one record.

    Raises:
        CorpusError: an id, text, title or metadata value cannot be indexed; names the place.
    """
    if not isinstance(record, Mapping):
        raise CorpusError(
            f'{place}: this is {_kind(record)}, not an object; write one {{"_id": …, "text": …}} '
            "per line"
        )
    id_key = "_id" if "_id" in record else "id"
    passage_id = _passage_id(record, id_key, place)
    at = f"{place} (id {shown_id(passage_id)})"
    if "text" not in record:
        raise CorpusError(f"{at}: it has no `text`; every passage needs one (it may be empty)")
    body = _string(record["text"], "text", at)
    title = "" if record.get("title") is None else _string(record["title"], "title", at)
    text = f"{title} {body}".strip()
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise CorpusError(
            f"{at}: its text has {len(text.encode()):,} bytes, more than the limit of "
            f"{MAX_TEXT_BYTES:,}; split it into passages"
        )
    metadata = _metadata(record, id_key, title, at)
    return Document(Passage(passage_id, text, metadata), place)


def encode_metadata(metadata: Mapping[str, Any], at: str) -> bytes:
    """Write metadata as JSON.

    Raises:
        CorpusError: a value has no JSON form, or a number is out of range; names `at`.
    """
    try:
        return orjson.dumps(dict(metadata), default=_json_default)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise CorpusError(
            f"{at}: its metadata cannot be kept as JSON ({error}); use strings, numbers, booleans, "
            "lists and objects with string keys"
        ) from error


def shown_id(passage_id: str) -> str:
    """An id as messages show it: quoted, and cut if it is long."""
    cut = passage_id[:_SHOWN_ID_CHARACTERS]
    return repr(cut if cut == passage_id else cut + "…")


def _passage_id(record: Mapping[str, Any], key: str, place: Place) -> str:
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise CorpusError(
            f"{place}: the id is missing or empty; every passage needs its own `_id` (or `id`)"
        )
    if not isinstance(value, str):
        raise CorpusError(
            f"{place}: the id {value!r} is {_kind(value)}; ids are strings, write it in quotes"
        )
    if len(value.encode()) > MAX_ID_BYTES:
        raise CorpusError(
            f"{place}: the id {shown_id(value)} has {len(value.encode()):,} bytes, more than the "
            f"limit of {MAX_ID_BYTES:,}; use shorter ids"
        )
    return value


def _string(value: object, name: str, at: str) -> str:
    if isinstance(value, str):
        return value
    raise CorpusError(f"{at}: its {name} is {_kind(value)}, not a string; write it as one string")


def _metadata(record: Mapping[str, Any], id_key: str, title: str, at: str) -> dict[str, Any]:
    metadata = {key: value for key, value in record.items() if key not in (id_key, "text", "title")}
    nested = metadata.get("metadata")
    if isinstance(nested, Mapping):
        del metadata["metadata"]
        for key, value in nested.items():
            if key in metadata and metadata[key] != value:
                raise CorpusError(
                    f"{at}: `{key}` stands both at the top and inside `metadata`, with different "
                    "values; keep one of them"
                )
            metadata[key] = value
    if title:
        metadata["title"] = title
    return metadata


def _kind(value: object) -> str:
    """A value's type in JSON's words, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "a number", float: "a number", str: "a string", list: "a list", bytes: "binary"}
    if isinstance(value, Mapping):
        return "an object"
    return names.get(type(value), f"a {type(value).__name__}")


def _json_default(value: object) -> object:
    """What Parquet columns hold beyond JSON; orjson itself writes dates and times as ISO 8601."""
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"it holds {_kind(value)}")
