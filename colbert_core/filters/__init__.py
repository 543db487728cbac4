"""The language of filters: which passages a search may find, by their metadata.

    expression.py   the tree: And, Or, Not, Eq, In, Range, Exists, Prefix
    parse.py        the same as a readable string, both ways
    check.py        whether an index has the fields, of types that can be compared

Knows nothing of files or arrays, so that the thin client can have it. `index/metadata.py` stores
the fields, `search/matching.py` evaluates. docs/filters.md says what a filter means.
"""

from __future__ import annotations

from collections.abc import Collection

from colbert_core.errors import QueryError
from colbert_core.filters.check import check_filter, merge_fields
from colbert_core.filters.expression import (
    ID,
    MAX_DEPTH,
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
)
from colbert_core.filters.parse import parse_filter

__all__ = [
    "ID",
    "MAX_DEPTH",
    "And",
    "Eq",
    "Exists",
    "Filter",
    "FilterLike",
    "In",
    "Not",
    "Or",
    "Prefix",
    "Range",
    "Value",
    "as_filter",
    "check_filter",
    "merge_fields",
    "parse_filter",
]

FilterLike = str | Filter | Collection[str]
"""A filter as callers give it: an expression, one written out, or the ids to search among."""


def as_filter(given: FilterLike) -> Filter:
    """What a caller gave, as an expression.

    Raises:
        QueryError: a string that is no filter; the message says where.
    """
    if isinstance(given, Filter):
        return given
    if isinstance(given, str):
        return parse_filter(given)
    ids = tuple(given)
    for one in ids:
        if not isinstance(one, str):
            raise QueryError(f"the filter names an id {one!r}; ids are strings")
    return In(ID, ids)
