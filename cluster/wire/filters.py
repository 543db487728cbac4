"""Filters as messages, in both directions. Both APIs have the same message."""

from __future__ import annotations

from typing import Any

from cluster.wire.tartan.v1 import search_pb2 as pb
from colbert_core.errors import QueryError
from colbert_core.filters import (
    And,
    Eq,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    Value,
    parse_filter,
)

MAX_CONDITIONS = 1024
MAX_VALUES = 10_000
MAX_EXPRESSION_CHARS = 1 << 16


def filter_to_proto(wanted: Filter) -> pb.Filter:
    """A filter as a message."""
    if isinstance(wanted, And | Or):
        joined = pb.FilterList(filters=[filter_to_proto(one) for one in wanted.of])
        return _made(wanted.word, joined)
    if isinstance(wanted, Not):
        return _made("not", filter_to_proto(wanted.of))
    if isinstance(wanted, Eq):
        return pb.Filter(eq=pb.EqFilter(field=wanted.field, value=_value_to_proto(wanted.value)))
    if isinstance(wanted, In):
        values = [_value_to_proto(value) for value in wanted.values]
        return _made("in", pb.InFilter(field=wanted.field, values=values))
    if isinstance(wanted, Exists):
        return pb.Filter(exists=wanted.field)
    if isinstance(wanted, Prefix):
        return pb.Filter(prefix=pb.PrefixFilter(field=wanted.field, prefix=wanted.prefix))
    assert isinstance(wanted, Range)
    ends: dict[str, Any] = {}
    if wanted.low is not None:
        ends["above" if wanted.above else "at_least"] = _value_to_proto(wanted.low)
    if wanted.high is not None:
        ends["below" if wanted.below else "at_most"] = _value_to_proto(wanted.high)
    return pb.Filter(range=pb.RangeFilter(field=wanted.field, **ends))


def filter_from_proto(message: pb.Filter) -> Filter:
    """A message as a filter.

    Raises:
        QueryError: a part is missing or impossible, or there is more of it than the limits allow.
    """
    return _Reader().read(message)


def _made(kind: str, part: Any) -> pb.Filter:
    """A filter whose kind is a word of Python, which stubs know no argument for."""
    named: dict[str, Any] = {kind: part}
    return pb.Filter(**named)


def _value_to_proto(value: Value) -> pb.FilterValue:
    if isinstance(value, bool):
        return pb.FilterValue(truth=value)
    if isinstance(value, int):
        return pb.FilterValue(integer=value)
    if isinstance(value, float):
        return pb.FilterValue(number=value)
    return pb.FilterValue(text=value)


class _Reader:
    """Reads one filter, and counts what is in it before it is made."""

    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def read(self, message: pb.Filter) -> Filter:
        kind = message.WhichOneof("kind")
        if kind is None:
            raise QueryError(
                "the filter has a part that says nothing: set and, or, not, eq, in, range, "
                "exists, prefix or expression; or leave the filter out"
            )
        self._count(1, 0)
        part = getattr(message, kind)
        if kind in ("and", "or"):
            return self._joined(kind, part)
        if kind == "not":
            return Not(self.read(part))
        if kind == "eq":
            return Eq(part.field, _value(part.value, part.field))
        if kind == "in":
            self._count(0, len(part.values))
            return In(part.field, tuple(_value(one, part.field) for one in part.values))
        if kind == "range":
            return self._range(part)
        if kind == "exists":
            return Exists(part)
        if kind == "prefix":
            return Prefix(part.field, part.prefix)
        return self._expression(part)

    def _joined(self, kind: str, part: pb.FilterList) -> Filter:
        if not part.filters:
            raise QueryError(f"the filter's `{kind}` joins nothing: give it filters")
        found = tuple(self.read(one) for one in part.filters)
        if len(found) == 1:
            return found[0]
        return And(found) if kind == "and" else Or(found)

    def _range(self, part: pb.RangeFilter) -> Filter:
        low, high = part.WhichOneof("low"), part.WhichOneof("high")
        return Range(
            part.field,
            _value(getattr(part, low), part.field) if low else None,
            _value(getattr(part, high), part.field) if high else None,
            low == "above",
            high == "below",
        )

    def _expression(self, text: str) -> Filter:
        if len(text) > MAX_EXPRESSION_CHARS:
            raise QueryError(
                f"the filter's expression has {len(text):,} characters and the limit is "
                f"{MAX_EXPRESSION_CHARS:,}: send the structured filter, or ask for less"
            )
        found = parse_filter(text)
        for one in found.walk():
            self._count(1, len(one.values) if isinstance(one, In) else 0)
        return found

    def _count(self, conditions: int, values: int) -> None:
        self._conditions += conditions
        self._values += values
        for found, most, what in (
            (self._conditions, MAX_CONDITIONS, "conditions"),
            (self._values, MAX_VALUES, "values"),
        ):
            if found > most:
                raise QueryError(
                    f"the filter has more than {most:,} {what}: ask for fewer, or keep in the "
                    "metadata what they have in common"
                )


def _value(message: pb.FilterValue, field: str) -> Value:
    kind = message.WhichOneof("value")
    if kind is None:
        raise QueryError(
            f"the filter compares {field!r} with nothing: set text, integer, number or truth"
        )
    value: Value = getattr(message, kind)
    return value
