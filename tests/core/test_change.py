"""Add, replace and delete: what is found is what an index built at once would find."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from changes import answers, passage, query, written_at_once

from colbert_core import Index
from colbert_core.change import foldable
from colbert_core.errors import CorpusError, IndexCorrupt, IndexExists, IndexMissing, InvalidInput
from colbert_core.index import ShardEntry, Tombstones, describe, predicted_bytes, verify
from colbert_core.index.manifest import VERSION, Manifest

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXACT = {"k": 1000, "exact": True}
SEARCHES = [EXACT, {"k": 10}, {"k": 1000}, {"k": 7, "candidates": 20}, {"k": 5, "scored": 0}]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("change") / "ix"
    ids = [f"p{n}" for n in range(60)]
    Index.build(path, [passage(n) for n in range(60)], ids=ids, shards=3, centroids=64)
    return path


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Index:
    return Index.open(shutil.copytree(built, tmp_path / "ix"))


def corpus(*numbers: int) -> dict[str, np.ndarray]:
    return {f"p{n}": passage(n) for n in numbers}


def test_added_passages_are_found_behind_the_others(index: Index, tmp_path: Path) -> None:
    added = index.add([passage(n) for n in range(60, 75)], [f"p{n}" for n in range(60, 75)])
    assert len(added) == 75
    assert len(index) == 60
    cuts = [sum(s.passages for s in index.generation.shards[:n]) for n in (1, 2, 3)]
    same_cut = written_at_once(tmp_path / "o", index.generation.codec, corpus(*range(75)), cuts)
    for how in SEARCHES:
        assert answers(added, **how) == answers(same_cut, **how), how
    one = written_at_once(tmp_path / "one", index.generation.codec, corpus(*range(75)))
    assert answers(added, **EXACT) == answers(one, **EXACT)
    verify(added.generation.path)


def test_deleted_passages_are_found_nowhere(index: Index, tmp_path: Path) -> None:
    gone = {"p0", "p7", "p8", "p59"}
    less = index.delete(gone)
    assert len(less) == 56
    assert less.manifest.deleted == 4
    left = [n for n in range(60) if f"p{n}" not in gone]
    ends = np.cumsum([shard.entry.live_passages for shard in less.generation.shards])[:-1]
    fresh = written_at_once(
        tmp_path / "o", index.generation.codec, corpus(*left), [int(end) for end in ends]
    )
    for how in SEARCHES:
        assert answers(less, **how) == answers(fresh, **how), how
    assert less.manifest.tokens == fresh.manifest.tokens
    assert len(less.search(query(1), k=1000)) == 56
    assert not set(less.search(query(1), k=1000).ids) & gone
    # the old generation goes on
    assert len(index.search(query(1), k=1000)) == 60
    verify(less.generation.path)


def test_a_filter_and_what_was_deleted_hold_together(index: Index) -> None:
    less = index.delete(["p3"])
    for exact in (False, True):
        hits = less.search(query(1), k=100, filter=["p3", "p4", "p5"], exact=exact)
        assert set(hits.ids) == {"p4", "p5"}
    assert not less.search(query(1), filter=["p3"])


def test_replaced_passages_are_found_once_and_as_they_are_now(index: Index, tmp_path: Path) -> None:
    now = index.add([passage(900), passage(901)], ["p5", "new"], ["five", "n"], replace=True)
    hits = now.search(passage(900), k=1000)
    assert hits.ids.count("p5") == 1
    assert len(hits) == 61
    assert hits[0].id == "p5"
    assert hits[0].text == "five"
    again = now.add([passage(902)], ["p5"], replace=True)
    assert again.search(passage(902), k=1)[0].id == "p5"
    assert len(again) == 61
    left = corpus(*(n for n in range(60) if n != 5)) | {"new": passage(901), "p5": passage(902)}
    fresh = written_at_once(tmp_path / "o", index.generation.codec, left)
    assert answers(again, **EXACT) == answers(fresh, **EXACT)
    verify(again.generation.path)


def test_explain_and_metadata_of_added_passages(index: Index) -> None:
    now = index.add([passage(77)], ["p77"], ["words"], [{"year": 1999}])
    hit = now.search(passage(77), k=1, explain=True)[0]
    assert (hit.id, hit.text, hit.metadata) == ("p77", "words", {"year": 1999})
    assert [match.passage_token_index for match in hit.matches] == list(range(len(passage(77))))


def test_everything_can_be_deleted_and_added_to(index: Index) -> None:
    none = index.delete([f"p{n}" for n in range(60)])
    assert len(none) == 0
    assert not none.search(query(1))
    assert not none.search(query(1), exact=True)
    with pytest.raises(InvalidInput, match="nothing is left"):
        none.compact()
    one = none.add([passage(1)], ["p1"])
    assert one.search(query(1), k=9).ids == ["p1"]
    assert one.compact().search(query(1), k=9).ids == ["p1"]


def test_what_cannot_be_changed_is_named_and_changes_nothing(index: Index) -> None:
    before = index.manifest.generation
    with pytest.raises(CorpusError, match=r"'p3' is in the index already.*--replace"):
        index.add([passage(1)], ["p3"])
    with pytest.raises(CorpusError, match="given twice"):
        index.add([passage(1), passage(2)], ["a", "a"])
    with pytest.raises(InvalidInput, match="16 dimensions and those of the index 32"):
        index.add([passage(1, dim=16)], ["a"])
    with pytest.raises(InvalidInput, match="ids 'x', 'y' are not in the index"):
        index.delete(["p1", "x", "y"])
    with pytest.raises(InvalidInput, match="do not fit"):
        index.add([passage(1)], ["a", "b"])
    path = index.generation.path
    assert Index.open(path).manifest.generation == before
    assert sorted(p.name for p in (path / "shards").iterdir()) == [
        shard.id for shard in index.manifest.shards
    ]
    assert len(index.delete(["p1", "x"], missing_ok=True)) == 59
    assert len(Index.open(path).delete(["x"], missing_ok=True)) == 59
    with pytest.raises(IndexMissing):
        Index.open(shutil.copytree(path / "global", path.parent / "none"))


def test_a_change_starts_from_the_live_generation(index: Index) -> None:
    index.delete(["p0"])
    assert len(index.delete(["p1"])) == 58  # by the object that was opened before
    with pytest.raises(InvalidInput, match="'p0' is not"):
        index.delete(["p0"])


@pytest.fixture
def held(index: Index) -> Iterator[Path]:
    """An index that another writer holds."""
    path = index.generation.path
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield path
    os.close(descriptor)


def test_one_writer_at_a_time(held: Path) -> None:
    index = Index.open(held)  # readers are not held up
    for change in (
        lambda: index.add([passage(1)], ["a"]),
        lambda: index.delete(["p1"]),
        index.compact,
        lambda: Index.build(held, [passage(1)], overwrite=True),
    ):
        with pytest.raises(IndexExists, match="another build or change is writing"):
            change()


def test_a_generation_shares_what_did_not_change(index: Index) -> None:
    now = index.delete(["p0"])
    old, new = index.manifest, now.manifest
    assert set(old.files) < set(new.files)
    (stones,) = set(new.files) - set(old.files)
    assert stones == new.shards[0].tombstones.file
    assert new.parent == old.generation
    assert [shard.tombstones for shard in new.shards[1:]] == [None, None]
    assert describe(new)["bytes"]["tombstones"] == predicted_bytes(new)["tombstones"] == 132


@pytest.mark.parametrize("version", [3, 4])
def test_an_older_index_is_changed_into_one_of_this_version(version: int, tmp_path: Path) -> None:
    """What it held is found with the scores of before, whatever is added, deleted or merged."""
    path = tmp_path / "ix"
    shutil.copytree(FIXTURES / f"index_v{version}" / "tartan-2" / "index", path)
    old = Index.open(path)
    assert (old.manifest.version, VERSION) == (version, 5)
    Q_LD = query(1, dim=16)
    before = {hit.id: hit.score for hit in old.search(Q_LD, **EXACT)}
    new = old.delete(["id-3"]).add([passage(70, 16), passage(71, 16)], ["new-0", "new-1"])
    assert [shard.contexts for shard in new.manifest.shards] == [False, False, True]
    merged = new.compact(shards=1)
    assert [shard.contexts for shard in merged.manifest.shards] == [True]
    for index in (new, merged):
        assert (index.manifest.version, len(index)) == (5, 25)
        assert index.drift is not None or index is merged
        found = {hit.id: hit.score for hit in index.search(Q_LD, **EXACT)}
        assert {one: score for one, score in found.items() if one in before} == {
            one: score for one, score in before.items() if one != "id-3"
        }
        verify(path, deep=True)
    assert answers(new, dim=16, **EXACT) == answers(merged, dim=16, **EXACT)


@pytest.mark.parametrize("version", [2, 6, None, "5"])
def test_other_versions_are_refused(index: Index, version: object) -> None:
    raw = json.loads(index.manifest.to_json()) | {"version": version}
    with pytest.raises(IndexCorrupt, match="this program reads 3 to 5"):
        Manifest.from_json(json.dumps(raw).encode(), "m")


@pytest.mark.parametrize(
    "pids", [[3, 3], [4, 2], [60], [1, 2, 3]], ids=["twice", "falling", "outside", "too many"]
)
def test_damaged_tombstones_are_named(index: Index, pids: list[int]) -> None:
    now = index.delete(["p1"]) if pids == [60] else index.delete(["p1", "p2"])
    stones = now.manifest.shards[0].tombstones
    assert stones is not None
    path = now.generation.path / stones.file
    np.save(path, np.array(pids, np.uint32))
    with pytest.raises(IndexCorrupt, match="tombstones"):
        Index.open(path.parents[1]).search(query(1))


def test_n_adds_leave_few_shards(index: Index, tmp_path: Path) -> None:
    now = index
    for n in range(60, 93):
        now = now.add([passage(n)], [f"p{n}"])
    deltas = [shard for shard in now.manifest.shards if shard.delta]
    assert len(deltas) <= 7
    one = written_at_once(tmp_path / "o", index.generation.codec, corpus(*range(93)))
    assert answers(now, **EXACT) == answers(one, **EXACT)
    verify(now.generation.path)


def test_only_deltas_that_are_no_larger_than_what_follows_are_folded() -> None:
    def shards(*tokens: int) -> list[ShardEntry]:
        return [ShardEntry(str(n), 1, count, 1, delta=n > 0) for n, count in enumerate(tokens)]

    assert foldable(shards(9)) == 0
    assert foldable(shards(9, 5)) == 1
    assert foldable(shards(9, 5, 3)) == 2
    assert foldable(shards(9, 7, 3, 3)) == 2
    assert foldable(shards(9, 6, 3, 3)) == 1
    assert foldable(shards(1, 6, 9)) == 1
    last = dataclasses.replace(shards(9, 8, 4)[1], tombstones=Tombstones("f", 1, 5))
    assert foldable([shards(9)[0], last, shards(9, 8, 4)[2]]) == 1
