"""Which passages of a shard a filter lets through: evaluated column by column, once.

Shapes: N passages of the shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from colbert_core.filters import (
    ID,
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
    check_filter,
)
from colbert_core.index import ShardReader
from colbert_core.types import U8, Bool

CACHE_BYTES = 1 << 26
"""Of evaluated filters that are kept, for each open shard."""
MOST_KEPT = 64

Test = Callable[[pa.Array], pa.Array]
"""Values [n] → booleans [n], null where a value is."""


class Matcher:
    """Evaluates filters over one shard, and keeps those that were used last."""

    def __init__(self, shard: ShardReader) -> None:
        self._shard = shard
        kept = max(1, min(MOST_KEPT, CACHE_BYTES // max(1, shard.passages)))
        self._known = lru_cache(kept)(self._evaluate)

    def allowed(self, wanted: Filter) -> U8:
        """uint8 [N], 1 where a passage matches; not to be written to.

        A field that the shard's passages do not have matches nothing; whether the index has it at
        all is for `check_filter` to say.

        Raises:
            QueryError: the filter compares what cannot be compared.
            IndexCorrupt: a column cannot be read.
        """
        return self._known(_Key(wanted))

    def _evaluate(self, key: _Key) -> U8:
        found_N = _match(self._shard, key.wanted).view(np.uint8)
        if self._shard.windows is not None:  # metadata lie with a document's first window
            found_N = found_N[self._shard.windows.documents_N]
        found_N.flags.writeable = False
        return found_N


class _Key:
    """A filter as the key of a cache: `1`, `1.0` and `true` are equal in Python, and not here."""

    __slots__ = ("_text", "wanted")

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self._text = str(wanted)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


def _match(shard: ShardReader, wanted: Filter) -> Bool:
    if isinstance(wanted, Not):
        return ~_match(shard, wanted.of)
    if isinstance(wanted, And | Or):
        join = np.logical_and if isinstance(wanted, And) else np.logical_or
        found_N = _match(shard, wanted.of[0])
        for child in wanted.of[1:]:
            found_N = join(found_N, _match(shard, child))
        return found_N
    field: str = getattr(wanted, "field")  # noqa: B009  # every other filter is of one field
    known = {field: shard.metadata.fields[field]} if field in shard.metadata.fields else {}
    column = shard.id_column() if field == ID else shard.metadata.column(field)
    if column is None:
        return np.zeros(shard.passages, bool)
    check_filter(wanted, known)
    return _match_column(column, _test_of(wanted))


def _match_column(column: pa.ChunkedArray, test: Test) -> Bool:
    """Booleans [N]: of a list, whether any element passes the test."""
    found_N = np.zeros(len(column), bool)
    of_dictionary: Bool | None = None
    at = 0
    for chunk in column.chunks:
        out = found_N[at : at + len(chunk)]
        at += len(chunk)
        if pa.types.is_list(chunk.type):
            parents = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
            out[parents[_true(test(chunk.flatten()))]] = True
        elif pa.types.is_dictionary(chunk.type):
            if of_dictionary is None:  # a file has one dictionary for a column
                of_dictionary = np.append(_true(test(chunk.dictionary)), False)
            numbers = pc.fill_null(chunk.indices, len(of_dictionary) - 1)
            out[:] = of_dictionary[numbers.to_numpy(zero_copy_only=False)]
        else:
            out[:] = _true(test(chunk))
    return found_N


def _true(found: pa.Array) -> Bool:
    """Where it is true: neither false nor null."""
    known: Bool = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return known


# ---------------------------------------------------------------- one comparison


def _test_of(wanted: Filter) -> Test:
    if isinstance(wanted, Exists):
        return lambda values: pc.is_valid(values)
    if isinstance(wanted, Prefix):
        prefix = wanted.prefix
        return lambda values: pc.starts_with(values, prefix)
    if isinstance(wanted, Eq):
        return lambda values: _is_in(values, (wanted.value,))
    if isinstance(wanted, In):
        return lambda values: _is_in(values, wanted.values)
    assert isinstance(wanted, Range)
    return lambda values: _between(values, wanted)


def _is_in(values: pa.Array, wanted: tuple[Value, ...]) -> pa.Array:
    held = [one for one in (_held(value, values.type) for value in wanted) if one is not None]
    if len(held) == 1:
        return pc.equal(values, pa.scalar(held[0], values.type))
    if pa.types.is_float64(values.type) and 0.0 in held:
        held += [0.0, -0.0]  # `is_in` compares bits
    return pc.is_in(values, value_set=pa.array(held, values.type), skip_nulls=True)


def _held(value: Value, kind: pa.DataType) -> Any:
    """A value as a column of this type holds it, or None where it can hold no such number."""
    if pa.types.is_int64(kind) and isinstance(value, float):
        fits = value.is_integer() and -(2.0**63) <= value < 2.0**63
        return int(value) if fits else None
    if pa.types.is_float64(kind):
        return float(value) if float(value) == value else None
    return value


def _between(values: pa.Array, wanted: Range) -> pa.Array:
    found = pc.is_valid(values)
    if wanted.low is not None:
        least, above = _bound(wanted.low, wanted.above, values.type, up=True)
        if least is None:
            return pa.array(np.zeros(len(values), bool))
        compare = pc.greater if above else pc.greater_equal
        found = pc.and_(found, compare(values, pa.scalar(least, values.type)))
    if wanted.high is not None:
        most, below = _bound(wanted.high, wanted.below, values.type, up=False)
        if most is None:
            return pa.array(np.zeros(len(values), bool))
        compare = pc.less if below else pc.less_equal
        found = pc.and_(found, compare(values, pa.scalar(most, values.type)))
    return found


def _bound(end: Value, is_open: bool, kind: pa.DataType, up: bool) -> tuple[Any, bool]:
    """An end of a range as a column of this type can be compared with it, and whether it is left
    out; None where no number lies beyond it. Comparing as Arrow would rounds whole numbers."""
    if pa.types.is_int64(kind) and isinstance(end, float):
        nearest = math.ceil(end) if up else math.floor(end)
        is_open = is_open and nearest == end
        smallest, largest = -(2**63), 2**63 - 1
        if (up and nearest > largest) or (not up and nearest < smallest):
            return None, False
        if (up and nearest < smallest) or (not up and nearest > largest):
            return (smallest if up else largest), False
        return nearest, is_open
    if pa.types.is_float64(kind):
        assert not isinstance(end, str)
        rounded = float(end)
        if rounded != end:  # a whole number that float64 has not: what lies beyond it is the same
            is_open = (rounded < end) if up else (rounded > end)
        return rounded, is_open
    return end, is_open
