"""The lines that say "holds": on figures made up so that each goes either way."""

from __future__ import annotations

from typing import Any

import pytest
from report.claims import claims
from report.select import frontier

Row = dict[str, Any]


def search(engine: str, p50: float, overlap: float, **more: Any) -> Row:
    row = {
        "engine": engine,
        "codec": "tartan",
        "bits": 2,
        "index": "2-bit",
        "setting": "default",
        "knobs": {},
        "default": True,
        "k": 10,
        "hits": 10.0,
        "threads": 1,
        "p50_ms": p50,
        "p95_ms": 1.5 * p50,
        "overlap": overlap,
        "kept": None,
    }
    return row | more


def index(engine: str, size: float, speed: float, **more: Any) -> Row:
    row = {
        "engine": engine,
        "codec": "tartan",
        "bits": 2,
        "index": "2-bit",
        "bytes_per_token": size,
        "bytes_once_per_token": size,
        "smaller_than_fp16": 256 / size,
        "build_tokens_per_s": speed,
        "build_tokens_per_cpu_s": speed,
        "build_peak_bytes": 2**30,
        "build_peak_private_bytes": None,
    }
    return row | more


def document(searches: list[Row], indexes: list[Row]) -> dict[str, Any]:
    return {"about": {"ks": [10], "threads": [1]}, "searches": searches, "indexes": indexes}


def holding(lines: list[Row], part: str) -> list[bool]:
    found = [line["holds"] for line in lines if part in line["line"]]
    assert found, f"no claim says {part!r}: {[line['line'] for line in lines]}"
    return found


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        (search("tartan", 1.0, 0.81), True),
        (search("tartan", 1.01, 0.81), False),  # 9.9 times is not 10
        (search("tartan", 0.1, 0.80), False),  # not a higher overlap
    ],
)
def test_fastest_default(ours: Row, holds: bool) -> None:
    lines = claims(document([search("a", 10.0, 0.80), search("b", 20.0, 0.99), ours], []))
    assert holding(lines, "the fastest peer's default") == [holds]


def test_every_overlap_that_a_peer_reaches() -> None:
    peers = [
        search("a", 10.0, 0.80),
        search("a", 100.0, 0.90, default=False),
        search("b", 200.0, 0.85),  # beaten by the one above
    ]
    lines = claims(document([*peers, search("tartan", 1.0, 0.90)], []))
    assert holding(lines, "the fastest peer from overlap") == [True, True]
    slower = claims(document([*peers, search("tartan", 1.5, 0.90)], []))
    assert holding(slower, "the fastest peer from overlap") == [False, True]
    unable = claims(document([*peers, search("tartan", 0.1, 0.89)], []))
    assert holding(unable, "the fastest peer from overlap") == [True, False]


def test_fewer_hits_than_asked_for_are_no_answer_unless_they_are_the_default() -> None:
    short = [search("a", 1.0, 0.2, hits=5), search("a", 1.0, 0.2, hits=5, default=False)]
    ours = search("tartan", 0.5, 0.9)
    assert holding(claims(document([short[0], ours], [])), "from overlap 0.200") == [False]
    full = search("a", 10.0, 0.5, default=False)
    lines = claims(document([short[1], full, ours], []))
    assert holding(lines, "from overlap") == [True]


def test_fast_plaid_is_named() -> None:
    plaid = search("fast-plaid", 99.0, 0.5)
    lines = claims(document([plaid, search("tartan", 1.0, 0.6)], []))
    assert holding(lines, "fast-plaid's default") == [False]


def test_other_thread_counts_and_ks_do_not_count() -> None:
    others = [search("a", 0.1, 0.9, threads=2), search("a", 0.1, 0.9, k=100)]
    lines = claims(document([search("a", 10.0, 0.8), *others, search("tartan", 1.0, 0.9)], []))
    assert holding(lines, "the fastest peer's default") == [True]


def test_tail() -> None:
    lines = claims(document([search("tartan", 1.0, 0.9), search("tartan", 1, 0.9, p95_ms=2.1)], []))
    assert holding(lines, "p95") == [True, False]


def test_bytes_at_equal_overlap() -> None:
    searches = [search("a", 1, 0.8), search("tartan", 1, 0.9), search("tartan", 1, 0.7, index="1")]
    indexes = [index("a", 40, 1), index("tartan", 24, 1), index("tartan", 10, 1, index="1")]
    lines = claims(document(searches, indexes))
    assert holding(lines, "bytes a token") == [True]
    larger = [index("a", 40, 1), index("tartan", 24.1, 1), index("tartan", 10, 1, index="1")]
    assert holding(claims(document(searches, larger)), "bytes a token") == [False]


def test_building() -> None:
    peers = [index("a", 40, 100.0), index("b", 40, 200.0)]
    lines = claims(document([search("tartan", 1, 0.9)], [*peers, index("tartan", 24, 1000.0)]))
    assert holding(lines, "tokens a second") == [True]
    assert holding(lines, "peak memory") == [False]  # the same, not half
    for row in peers:
        row["build_peak_private_bytes"] = 2**30
    own = index("tartan", 24, 1000.0, build_peak_private_bytes=2**29)
    lines = claims(document([search("tartan", 1, 0.9)], [*peers, own]))
    assert holding(lines, "peak private memory") == [True]


def test_a_peer_that_was_not_built_is_not_compared_in_building() -> None:
    peer = index("a", 40, 9000.0)
    written = {key: value for key, value in peer.items() if not key.startswith("build_")}
    own = index("tartan", 24, 1000.0)
    assert not [x for x in claims(document([], [written, own])) if x["group"] == "building"]
    lines = claims(document([], [written, index("b", 40, 100.0), own]))
    assert holding(lines, "tokens a second") == [True]


def test_recall_is_held_at_its_farthest() -> None:
    kept = [
        search("tartan", 1, 0.9, kept=0.81, knobs={"recall": 0.8}),
        search("tartan", 1, 0.9, kept=0.77, knobs={"recall": 0.8}),
        search("tartan", 1, 0.9, kept=1.0, knobs={"recall": 0.98}),
    ]
    lines = claims(document(kept, []))
    assert holding(lines, "recall 0.8") == [False]
    assert holding(lines, "recall 0.98") == [True]  # 0.02 off, whatever floats make of it


def test_frontier_drops_what_is_beaten() -> None:
    rows = [{"ms": 1, "o": 0.5}, {"ms": 2, "o": 0.5}, {"ms": 3, "o": 0.9}, {"ms": 9, "o": 0.8}]
    assert frontier(rows, lambda row: row["ms"], "o") == [rows[2], rows[0]]
