"""Whether a filter can be asked of an index: its fields, and what they can be compared with.

The types of fields, as manifests name them:

    string, int64, float64, bool      and a list of each: list<string>, …
    json                              kept as JSON alone: only `exists` can ask for it

`REST` of type json stands for the fields that a shard has no room for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from colbert_core.errors import QueryError
from colbert_core.filters.expression import (
    ID,
    Eq,
    Exists,
    Filter,
    In,
    Prefix,
    Range,
    Value,
    shown_field,
    shown_value,
)

Fields = Mapping[str, str]
"""Name → type."""

JSON = "json"
REST = "*"
_SHOWN = 20
_NUMBERS = ("int64", "float64")


def list_of(kind: str) -> str:
    """The type of lists of a type."""
    return f"list<{kind}>"


def element_of(kind: str) -> str:
    """What a list holds; of another type, itself."""
    return kind[5:-1] if kind.startswith("list<") else kind


def merge_types(one: str, other: str) -> str:
    """The type that holds values of both: numbers together are float64, a value beside lists is a
    list of it, and anything else is kept as JSON."""
    if one == other:
        return one
    inner = {element_of(one), element_of(other)}
    kind = inner.pop() if len(inner) == 1 else "float64" if inner == set(_NUMBERS) else JSON
    is_list = kind != JSON and "list<" in one + other
    return list_of(kind) if is_list else kind


def merge_fields(shards: Iterable[Fields]) -> dict[str, str]:
    """The fields of an index from those of its shards, by name.

    A shard with `REST` cannot say who has a field that it has no column for: such a field is none
    of the index's.
    """
    every = list(shards)
    merged: dict[str, str] = {}
    for fields in every:
        for name, kind in fields.items():
            merged[name] = merge_types(merged[name], kind) if name in merged else kind
    crowded = [fields for fields in every if REST in fields]
    return {name: merged[name] for name in sorted(merged) if all(name in f for f in crowded)}


def check_filter(wanted: Filter, fields: Fields) -> None:
    """Refuse a filter that asks for a field that is not there, or compares what cannot be.

    Args:
        fields: of the whole index: what only another shard has is no error.

    Raises:
        QueryError: naming the field, and what there is.
    """
    for leaf in wanted.walk():
        if leaf.children():
            continue
        field: str = getattr(leaf, "field")  # noqa: B009  # every leaf has one
        kind = "string" if field == ID else fields.get(field)
        if kind is None or field == REST:
            raise QueryError(_unknown(field, fields))
        if isinstance(leaf, Exists):
            continue
        if kind == JSON:
            raise QueryError(
                f"the filter compares {shown_field(field)}, which is kept as JSON alone (it has "
                "values of several types, lists of objects, or very long strings): only `exists` "
                "can ask for it; give it one type and build the index again"
            )
        for value in _values(leaf):
            _check_value(leaf, field, kind, value)


def _values(leaf: Any) -> tuple[Value, ...]:
    if isinstance(leaf, Eq):
        return (leaf.value,)
    if isinstance(leaf, In):
        return leaf.values
    if isinstance(leaf, Range):
        return tuple(end for end in (leaf.low, leaf.high) if end is not None)
    assert isinstance(leaf, Prefix)
    return (leaf.prefix,)


def _check_value(leaf: Filter, field: str, kind: str, value: Value) -> None:
    element = element_of(kind)
    fits = {
        "string": isinstance(value, str),
        "bool": isinstance(value, bool) and not isinstance(leaf, Range),
    }.get(element, isinstance(value, int | float) and not isinstance(value, bool))
    if not fits:
        remedy = "" if element != "bool" else "; write = true or = false"
        remedy = "; write the value in quotes" if element == "string" else remedy
        raise QueryError(
            f"the filter compares {shown_field(field)} with {shown_value(value)}, and it is "
            f"{kind} in this index{remedy}"
        )


def _unknown(field: str, fields: Fields) -> str:
    known = [name for name in fields if name != REST]
    shown = ", ".join(f"{shown_field(name)} ({fields[name]})" for name in known[:_SHOWN])
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    if not known:
        shown = (
            "none: its passages have no metadata, or it was built before metadata could be "
            "filtered by, and must be built again for that"
        )
    beyond = "" if REST not in fields else "; fields beyond the most that a shard takes are not"
    return (
        f"the filter asks for {shown_field(field)}, and no passage of this index has such a field. "
        f"There are {ID} (string) and {shown}{more}{beyond}"
    )
