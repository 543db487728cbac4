"""A filter as a small immutable tree. `str` writes it so that `parse_filter` reads it back.

What it means is two-valued: a comparison of a field that a passage does not have is false, and
`Not` of it is true. Of a list, one element that fits is enough.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from colbert_core.errors import QueryError

Value = str | int | float | bool

ID = "_id"
"""The field that every passage has: its id."""

MAX_DEPTH = 32
"""Levels of a tree; a message of one has two a level, and protobuf reads a hundred."""

KEYWORDS = frozenset(("and", "or", "not", "in", "exists", "prefix", "true", "false"))
_BARE = re.compile(r"[^\W\d][\w.\-]*")


class Filter:
    """Base of all filters."""

    __slots__ = ()
    depth: ClassVar[int] = 1
    """Levels below and including this one."""

    def children(self) -> tuple[Filter, ...]:
        """The filters that this one is made of."""
        return ()

    def walk(self) -> Iterator[Filter]:
        """This filter and all that it is made of."""
        yield self
        for child in self.children():
            yield from child.walk()


@dataclass(frozen=True)
class _Joined(Filter):
    """Two filters or more, joined by one word."""

    of: tuple[Filter, ...]
    word: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.of) < 2:
            raise QueryError(f"`{self.word}` joins {len(self.of)} filters; give two or more")
        _set_depth(self)

    def children(self) -> tuple[Filter, ...]:
        return self.of

    def __str__(self) -> str:
        return f" {self.word} ".join(_inner(child) for child in self.of)


class And(_Joined):
    """All of them match."""

    word = "and"


class Or(_Joined):
    """At least one of them matches."""

    word = "or"


@dataclass(frozen=True)
class Not(Filter):
    """It does not match; so passages without the field are among these."""

    of: Filter

    def __post_init__(self) -> None:
        _set_depth(self)

    def children(self) -> tuple[Filter, ...]:
        return (self.of,)

    def __str__(self) -> str:
        if isinstance(self.of, Eq):
            return f"{shown_field(self.of.field)} != {shown_value(self.of.value)}"
        if isinstance(self.of, In):
            return f"{shown_field(self.of.field)} not {self.of.behind_field}"
        return f"not {_inner(self.of)}"


@dataclass(frozen=True)
class Eq(Filter):
    """The field is this value, or a list that holds it."""

    field: str
    value: Value

    def __post_init__(self) -> None:
        _check(self.field, self.value)

    def __str__(self) -> str:
        return f"{shown_field(self.field)} = {shown_value(self.value)}"


@dataclass(frozen=True)
class In(Filter):
    """The field is one of these values; none of none."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check(self.field, *self.values)

    @property
    def behind_field(self) -> str:
        """What is written behind the field."""
        return f"in ({', '.join(map(shown_value, self.values))})"

    def __str__(self) -> str:
        return f"{shown_field(self.field)} {self.behind_field}"


@dataclass(frozen=True)
class Range(Filter):
    """The field lies between two values; strings by their Unicode code points.

    Attributes:
        low, high: None where there is no such end; not both.
        above: low itself does not match.
        below: high itself does not match.
    """

    field: str
    low: Value | None = None
    high: Value | None = None
    above: bool = False
    below: bool = False

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends:
            raise QueryError(f"the range of {self.field!r} has no end; give low, high or both")
        _check(self.field, *ends)
        for name, end, is_open in (("low", self.low, self.above), ("high", self.high, self.below)):
            if end is None and is_open:
                raise QueryError(f"the range of {self.field!r} leaves out {name}, which it has not")

    def __str__(self) -> str:
        field = shown_field(self.field)
        up, down = ("<" if self.above else "<="), ("<" if self.below else "<=")
        if self.low is None:
            assert self.high is not None
            return f"{field} {down} {shown_value(self.high)}"
        if self.high is None:
            return f"{field} {'>' if self.above else '>='} {shown_value(self.low)}"
        return f"{shown_value(self.low)} {up} {field} {down} {shown_value(self.high)}"


@dataclass(frozen=True)
class Exists(Filter):
    """The passage has the field, and it is neither null nor an empty list."""

    field: str

    def __post_init__(self) -> None:
        _check(self.field)

    def __str__(self) -> str:
        return f"exists({shown_field(self.field)})"


@dataclass(frozen=True)
class Prefix(Filter):
    """The field is a string that begins so."""

    field: str
    prefix: str

    def __post_init__(self) -> None:
        _check(self.field, self.prefix)
        if not isinstance(self.prefix, str):
            raise QueryError(f"the prefix of {self.field!r} is {self.prefix!r}; give a string")

    def __str__(self) -> str:
        return f"{shown_field(self.field)} prefix {shown_value(self.prefix)}"


def shown_field(name: str) -> str:
    """A field's name as a filter writes it: in backticks where it is no plain word."""
    if _BARE.fullmatch(name) and name.lower() not in KEYWORDS:
        return name
    escaped = json.dumps(name, ensure_ascii=False)[1:-1].replace('\\"', '"')
    return "`" + escaped.replace("`", "\\`") + "`"


def shown_value(value: Value) -> str:
    """A value as a filter writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _inner(child: Filter) -> str:
    """A filter inside another: in parentheses where it joins."""
    return f"({child})" if isinstance(child, _Joined) else str(child)


def _set_depth(node: Filter) -> None:
    depth = 1 + max(child.depth for child in node.children())
    if depth > MAX_DEPTH:
        raise QueryError(
            f"the filter has more than {MAX_DEPTH} levels; use `in` for many values, and join "
            "many filters by one `and` or `or`"
        )
    object.__setattr__(node, "depth", depth)


def _check(field: str, *values: object) -> None:
    """Refuse what has no written form."""
    if not isinstance(field, str) or not field or not _encodes(field):
        raise QueryError(f"a filter's field is {field!r}; give a name")
    for value in values:
        if isinstance(value, bool) or (isinstance(value, str) and _encodes(value)):
            continue
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            continue
        if isinstance(value, float) and math.isfinite(value):
            continue
        raise QueryError(
            f"the filter compares {field!r} with {value!r}; give a string, a finite number of at "
            "most 64 bits, true or false"
        )


def _encodes(text: str) -> bool:
    """Whether a string has a form in UTF-8: half a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
