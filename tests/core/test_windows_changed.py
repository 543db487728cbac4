"""Documents in windows in an index that changes: one goes, and stays, with all its windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_windows import PASSAGES, Split

from colbert_core import Index
from colbert_core.export import export_index
from colbert_core.index import check_index

GONE = range(0, 1000, 4)


@pytest.fixture(scope="module", params=[3, 90])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Split:
    made = Split(tmp_path_factory.mktemp("changed"), request.param)
    gone = [f"d{number}" for number in range(len(made.counts)) if number in GONE]
    made.index = made.index.delete(gone)
    return made


def agrees(split: Split, index: Index) -> None:
    """Every live document is found by its best window, and none other."""
    for number in range(0, PASSAGES, 41):
        query = split.vectors[number]
        best = [(one, score) for one, score, _ in split.best(query) if int(one[1:]) not in GONE]
        hits = index.search(query, k=PASSAGES, exact=True)
        assert [(hit.id, hit.score) for hit in hits] == best
        assert len(set(index.search(query, k=7).ids)) == min(7, len(best))
        assert not index.search(query, k=3, filter=["d0", "d4"])
    assert len(index) == len(best)
    assert not check_index(index.generation.path, deep=True).problems


def test_a_deleted_document_goes_with_all_its_windows(split: Split) -> None:
    agrees(split, split.index)


@pytest.mark.parametrize("shards", [None, 1, 3])
def test_compaction_keeps_the_windows_of_what_stays(split: Split, shards: int | None) -> None:
    before = {hit.id: (hit.window, hit.text) for hit in everything(split.index, split)}
    compacted = split.index.compact(shards)
    agrees(split, compacted)
    assert {hit.id: (hit.window, hit.text) for hit in everything(compacted, split)} == before
    assert compacted.manifest.deleted == 0


def everything(index: Index, split: Split) -> list:
    return list(index.search(split.vectors[5], k=PASSAGES, exact=True))


def test_documents_can_be_added_and_replaced_beside_windows(split: Split) -> None:
    vectors = [split.vectors[7], split.vectors[8]]
    changed = split.index.add(vectors, ["d1", "new"], replace=True)
    hit = changed.search(split.vectors[8], k=1, exact=True)[0]
    assert (hit.id, hit.window) in {("new", None), (f"d{split.owner[8]}", hit.window)}
    assert len(changed) == len(split.index) + 1
    ids = changed.search(split.vectors[7], k=PASSAGES, exact=True).ids
    assert len(ids) == len(set(ids)) == len(changed)


def test_an_export_has_each_live_window_once(split: Split, tmp_path: Path) -> None:
    index = Index.open(split.index.generation.path)
    about = export_index(index.generation.path, tmp_path / "plain")
    rows = [json.loads(line) for line in (tmp_path / "plain" / "passages.jsonl").open()]
    doclens = np.load(tmp_path / "plain" / "doclens.npy")
    vectors = np.load(tmp_path / "plain" / "embeddings.npy")
    assert len(rows) == len(doclens) == about.passages == index.manifest.passages
    assert len(vectors) == doclens.sum() == about.tokens
    assert len({row["_id"] for row in rows}) == len(rows)
    documents = {row.get("document", row["_id"]) for row in rows}
    assert len(documents) == len(index)
