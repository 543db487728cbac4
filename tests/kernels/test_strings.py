"""Strings that lie as Arrow lays them out: the same from both twins, whatever their bytes are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from colbert_core import _native, reference

TWINS = {"native": _native.StringColumn, "reference": reference.StringColumn}


@pytest.fixture(params=TWINS)
def column(request: pytest.FixtureRequest) -> Any:
    return TWINS[request.param](4)


def add(column: Any, number: int, strings: list[str]) -> None:
    _, offsets, data = pa.array(strings, pa.string()).buffers()
    ends = np.frombuffer(offsets, np.int32)[: len(strings) + 1]
    column.add(number, ends, np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8))


def test_strings_of_batches_that_are_added_as_they_are_asked_for(column: Any) -> None:
    add(column, 0, ["a", "", "ü" * 40, "\0"])
    assert column.take(np.array([], np.int64)) == []
    assert column.take(np.array([2, 0, 1, 3, 2])) == ["ü" * 40, "a", "", "\0", "ü" * 40]
    with pytest.raises(KeyError) as missing:
        column.take(np.array([1, 9, 5]))
    assert missing.value.args == (2,)
    add(column, 2, ["x", "日本"])
    with pytest.raises(KeyError) as missing:
        column.take(np.array([9, 5]))
    assert missing.value.args == (1,)
    add(column, 1, [""])
    assert column.take(np.array([9, 4, 8])) == ["日本", "", "x"]
    add(column, 2, ["again"])
    assert column.take(np.array([8])) == ["again"]


def test_many(column: Any) -> None:
    rng = np.random.default_rng(0)
    strings = [f"id-{n}" * (n % 7) for n in range(4000)]
    for number in range(1000):
        add(column, number, strings[4 * number : 4 * number + 4])
    rows = rng.integers(0, 4000, 5000)
    assert column.take(rows) == [strings[row] for row in rows]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (np.array([-1]), "row -1"),
        (np.array([2]), "row 2 lies beyond its batch"),
        (np.array([0], np.int32), "rows_M"),
        (np.zeros((1, 1), np.int64), "rows_M"),
    ],
)
def test_rows_that_are_none(column: Any, rows: np.ndarray, names: str) -> None:
    add(column, 0, ["a", "b"])
    with pytest.raises(ValueError, match=names):
        column.take(rows)


@pytest.mark.parametrize("ends", [[0, 9], [5, 3], [-1, 2], [0, -1], [2**31 - 1, 2**31 - 1]])
def test_damaged_offsets_are_named(column: Any, ends: list[int]) -> None:
    column.add(0, np.array(ends, np.int32), np.full(8, 97, np.uint8))
    with pytest.raises(RuntimeError, match=r"row 0 spans bytes .* of 8; run `tartan index verify`"):
        column.take(np.zeros(1, np.int64))


def test_what_is_not_utf_8(column: Any) -> None:
    column.add(0, np.array([0, 2], np.int32), np.array([0xC3, 0x28], np.uint8))
    with pytest.raises(UnicodeDecodeError):
        column.take(np.zeros(1, np.int64))


def test_what_is_no_batch(column: Any) -> None:
    with pytest.raises(ValueError, match="an entry more"):
        column.add(0, np.zeros(0, np.int32), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="offsets"):
        column.add(0, np.zeros(2, np.int64), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="data"):
        column.add(0, np.zeros(2, np.int32), np.zeros(0, np.int8))
    with pytest.raises(ValueError, match="batch_rows 0"):
        type(column)(0)
