"""Compaction: from stored bytes, to the bytes of an index written at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from changes import answers, passage, query, written_at_once

from colbert_core import Index
from colbert_core.compact import LiveDocuments, Run, plan_compaction
from colbert_core.errors import InvalidInput
from colbert_core.generations import collect
from colbert_core.index import ShardEntry, Tombstones, verify


def corpus(*numbers: int) -> dict[str, np.ndarray]:
    return {f"p{n}": passage(n) for n in numbers}


def built(path: Path, count: int, **settings: object) -> Index:
    ids = [f"p{n}" for n in range(count)]
    vectors = [passage(n) for n in range(count)]
    return Index.build(path, vectors, ids=ids, centroids=64, **settings)  # type: ignore[arg-type]


def shard_bytes(index: Index) -> list[dict[str, bytes]]:
    folders = [index.generation.path / "shards" / shard.id for shard in index.manifest.shards]
    return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]


@pytest.mark.parametrize("codec", ["tartan", "colbertv2"])
@pytest.mark.parametrize("shards", [1, 4])
def test_bytes_are_those_of_writing_the_passages_at_once(
    codec: str, shards: int, tmp_path: Path
) -> None:
    index = built(tmp_path / "ix", 50, shards=shards, codec=codec)
    index = index.add([passage(n) for n in range(50, 80)], [f"p{n}" for n in range(50, 80)])
    index = index.delete(["p0", "p20", "p21", "p79"]).add([passage(9)], ["p30"], replace=True)
    compact = index.compact(shards)
    left = corpus(*(n for n in range(79) if n not in (0, 20, 21, 30))) | {"p30": passage(9)}
    cuts = [int(c) for c in np.cumsum([s.passages for s in compact.manifest.shards])[:-1]]
    fresh = written_at_once(tmp_path / "o", index.generation.codec, left, cuts)
    assert shard_bytes(compact) == shard_bytes(fresh)
    for how in ({"k": 1000}, {"k": 10}, {"k": 1000, "exact": True}):
        assert answers(compact, **how) == answers(fresh, **how)
    assert answers(compact, k=99, exact=True) == answers(index, k=99, exact=True)
    assert not any(s.delta or s.tombstones for s in compact.manifest.shards)
    verify(compact.generation.path)


def test_texts_and_metadata_come_along(tmp_path: Path) -> None:
    texts = ["ä", "", "c\n", "d"]
    metadata = [{"n": 2**60, "x": [1.5, None]}, {}, {"ü": "ß"}, {"y": {"z": True}}]
    index = Index.build(
        tmp_path / "ix", [passage(n) for n in range(4)], texts=texts, metadata=metadata, centroids=8
    )
    index = index.add([passage(5)], ["five"], ["t"], [{"five": 5}]).delete(["3"]).compact()
    hits = {hit.id: (hit.text, hit.metadata) for hit in index.search(query(1), k=9)}
    assert hits == {
        "0": ("ä", metadata[0]),
        "1": ("", {}),
        "2": ("c\n", {"ü": "ß"}),
        "five": ("t", {"five": 5}),
    }


def test_nothing_to_do_publishes_nothing(tmp_path: Path) -> None:
    index = built(tmp_path / "ix", 20, shards=2)
    assert index.compact().manifest == index.manifest
    with pytest.raises(InvalidInput, match="shards is 21; give 1 to 20"):
        index.compact(21)
    assert len(index.compact(5).manifest.shards) == 5


def test_shards_that_need_no_change_are_shared(tmp_path: Path) -> None:
    index = built(tmp_path / "ix", 90, shards=3)
    now = index.delete(["p1"]).add([passage(200)], ["p200"]).compact()
    before, after = index.manifest.shards, now.manifest.shards
    assert [a.id == b.id for a, b in zip(before, after, strict=True)] == [False, True, False]
    collect(index.generation.path, keep=0)
    assert answers(index, k=90, exact=True)  # is open still, and was not collected
    verify(index.generation.path)


def test_presets_are_measured_anew(tmp_path: Path) -> None:
    index = built(tmp_path / "ix", 500)
    assert not index.manifest.presets
    more = index.add([passage(n) for n in range(500, 600)], [f"p{n}" for n in range(500, 600)])
    assert not more.manifest.presets  # those of its parent
    compact = more.compact()
    fresh = written_at_once(tmp_path / "o", index.generation.codec, corpus(*range(600)))
    assert compact.manifest.presets
    assert not fresh.manifest.presets
    again = compact.delete(["p3"])
    assert again.manifest.presets == compact.manifest.presets


def entries(*tokens: int, deltas: int = 0, dead: dict[int, int] | None = None) -> list[ShardEntry]:
    made = []
    for number, count in enumerate(tokens):
        lost = (dead or {}).get(number, 0)
        stones = Tombstones("f", lost, lost) if lost else None
        delta = number >= len(tokens) - deltas
        made.append(ShardEntry(str(number), count, count, 1, delta=delta, tombstones=stones))
    return made


def test_the_plan() -> None:
    def doclens(number: int) -> LiveDocuments:
        return LiveDocuments(np.arange(1, 5), np.arange(2, 6), np.ones(4, np.int32))

    # small deltas go to the last shard
    plan = plan_compaction(entries(100, 100, 5, deltas=1), 10, doclens)
    assert plan == [[Run(0, 0, 100)], [Run(1, 0, 100), Run(2, 0, 5)]]
    # a shard without a live passage goes
    plan = plan_compaction(entries(9, 90, 90, dead={0: 9}), 10, doclens)
    assert plan == [[Run(1, 0, 90)], [Run(2, 0, 90)]]
    # what would be lopsided is cut anew, over the live passages alone
    plan = plan_compaction(entries(5, 5, 50, deltas=1), 10, doclens)
    assert plan == [[Run(0, 1, 5), Run(1, 1, 3)], [Run(1, 3, 5), Run(2, 1, 5)]]
    plan = plan_compaction(entries(5, 5), 10, doclens, 1)
    assert plan == [[Run(0, 1, 5), Run(1, 1, 5)]]
    # too large for one
    plan = plan_compaction(entries(5), 2 * 2**30, doclens)
    assert len(plan) == 2
