"""Choosing among the rows of a document: whose they are, which is fastest, which are a frontier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
OURS = "tartan"
NO_ENGINE = "exhaustive"
ENOUGH_HITS = 0.99


def searches(document: dict[str, Any]) -> list[Row]:
    """Searches at the first thread count: the one at which every setting was run."""
    return [r for r in document["searches"] if r["threads"] == document["about"]["threads"][0]]


def ours(rows: Iterable[Row], codec: str = "tartan") -> list[Row]:
    """Our engine's rows, with one codec."""
    return [row for row in rows if row["engine"] == OURS and row["codec"] == codec]


def peers(rows: Iterable[Row]) -> list[Row]:
    """The other engines' rows."""
    return [row for row in rows if row["engine"] not in (OURS, NO_ENGINE)]


def at(rows: Iterable[Row], k: int) -> list[Row]:
    """Searches for k hits."""
    return [row for row in rows if row["k"] == k]


def answers(row: Row) -> bool:
    """Whether a search gives the k hits that were asked for, or is its engine's default."""
    return bool(row["default"] or row["hits"] >= ENOUGH_HITS * row["k"])


def fastest(rows: Iterable[Row]) -> Row | None:
    """The search with the shortest median latency, if there is any."""
    return min(rows, key=lambda row: float(row["p50_ms"]), default=None)


def frontier(rows: Iterable[Row], cost: Callable[[Row], float], gain: str) -> list[Row]:
    """The rows that no other beats: none has as much of `gain` for less; by falling gain."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (-row[gain], cost(row))):
        if not kept or cost(row) < cost(kept[-1]):
            kept.append(row)
    return kept


def name(row: Row) -> str:
    """Engine, index and setting in words."""
    setting = f", {row['setting']}" if "setting" in row else ""
    index = str(row["index"]).removeprefix("tartan ")
    return f"{row['engine']} {index}{setting}"


def best_overlap(document: dict[str, Any], index: Row, k: int) -> float | None:
    """The most of the exact top k that any setting finds in an index."""
    of = (index["engine"], index["index"])
    found = [
        float(row["overlap"])
        for row in at(searches(document), k)
        if (row["engine"], row["index"]) == of
    ]
    return max(found, default=None)
