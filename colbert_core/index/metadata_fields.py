"""What of metadata can be filtered by: its fields and their types, found in one pass over it.

Nested objects are laid open under dotted names. Null, an empty list and an empty object are as if
they were not there. A list is a field of several values; a list of anything but plain values, a
field of several types, and one with a string longer than `MAX_STRING_BYTES` are kept as JSON alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from colbert_core.filters import ID
from colbert_core.filters.check import JSON, REST, element_of, list_of, merge_types

MAX_FIELDS = 256
"""Columns of a shard: of more fields, those that most passages have, and then by name."""
MAX_STRING_BYTES = 4096
MAX_NAMES = 4096
"""Names that are counted; what comes first after so many others is not."""
MAX_DISTINCT = 1 << 16
"""Different strings up to which a field is stored by number."""
DISTINCT_BYTES = 1 << 26
"""What the different strings of all fields may take while they are collected."""
_STRING_BYTES = 64  # of a Python string beside its characters


def flatten(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(field, value) of one passage, a value being plain or a list; of a name that comes twice, the
    last counts."""
    for key, value in metadata.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
            continue
        if isinstance(value, list):
            value = [one for one in value if one is not None]
        if value is None or value == [] or not name or name in (ID, REST):
            continue
        yield name, value


def type_of(value: Any) -> str:
    """The type of one value of a field."""
    if isinstance(value, list):
        kind = _element_type(value[0])
        for one in value[1:]:
            if kind == JSON:
                return JSON
            kind = merge_types(kind, _element_type(one))
        return JSON if kind == JSON else list_of(kind)
    return _element_type(value)


def _element_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "float64"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str) and (
        len(value) <= MAX_STRING_BYTES // 4 or len(value.encode()) <= MAX_STRING_BYTES
    ):
        return "string"
    return JSON


@dataclass
class _Seen:
    """What is known of one field."""

    kind: str
    count: int = 0
    distinct: set[str] | None = field(default_factory=set)


class FieldCounter:
    """Finds the fields of a shard's passages, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._crowded = False
        self._room = DISTINCT_BYTES

    def add(self, metadata: Mapping[str, Any]) -> None:
        """Count one passage's."""
        for name, value in flatten(metadata):
            seen = self._seen.get(name)
            if seen is None:
                if len(self._seen) == MAX_NAMES:
                    self._crowded = True
                    continue
                seen = self._seen[name] = _Seen(type_of(value))
            seen.count += 1
            if seen.kind != JSON:
                seen.kind = merge_types(seen.kind, type_of(value))
            if seen.kind != "string":
                self._forget(seen)
            elif seen.distinct is not None and value not in seen.distinct:
                seen.distinct.add(value)
                self._room -= _bytes_of(value)
                if len(seen.distinct) > MAX_DISTINCT or self._room < 0:
                    self._forget(seen)

    def fields(self) -> dict[str, str]:
        """The fields and their types, by name; `REST` among them where there is no room for all."""
        kept = sorted(self._seen, key=lambda name: (-self._seen[name].count, name))[:MAX_FIELDS]
        fields = {name: self._seen[name].kind for name in sorted(kept)}
        if self._crowded or len(kept) < len(self._seen):
            fields[REST] = JSON
        return fields

    def _forget(self, seen: _Seen) -> None:
        """Stop collecting a field's strings."""
        self._room += sum(map(_bytes_of, seen.distinct or ()))
        seen.distinct = None

    def distinct(self, name: str) -> list[str] | None:
        """The different strings of a field in order, if they are worth numbering: few, and each of
        them twice in the mean."""
        seen = self._seen[name]
        if seen.distinct is None or 2 * len(seen.distinct) > seen.count:
            return None
        return sorted(seen.distinct)


def _bytes_of(text: str) -> int:
    return _STRING_BYTES + len(text)


def as_type(value: Any, kind: str) -> Any:
    """A passage's value as its column holds it: of `json`, that there is one."""
    if kind == JSON:
        return True
    convert = float if element_of(kind) == "float64" else (lambda one: one)
    if kind == element_of(kind):
        return convert(value)
    return [convert(one) for one in (value if isinstance(value, list) else [value])]
