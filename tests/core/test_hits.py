"""Hits: a sequence that reads from disk what is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_search import clustered

from colbert_core import Hit, Hits, Index
from colbert_core.index import passages


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    vectors = clustered(90, 16)
    return Index.build(
        tmp_path_factory.mktemp("hits") / "ix",
        vectors,
        ids=[f"p{i}·é" for i in range(90)],
        texts=[f"text {i}" for i in range(90)],
        metadata=[{"number": i} for i in range(90)],
        shards=3,
    )


def test_hits_are_a_sequence(index: Index) -> None:
    hits = index.search(clustered(90, 16)[4], k=20)
    assert isinstance(hits, Hits)
    assert len(hits) == 20
    assert hits[0] == next(iter(hits))
    assert hits[-1] == hits[19] == list(hits)[19]
    assert hits[3:9:2] == [hits[3], hits[5], hits[7]]
    assert hits == list(hits) == hits[:]
    assert hits != hits[:19]
    assert hits != "hits"
    with pytest.raises(IndexError):
        hits[20]


def test_a_hit_has_all_that_was_stored(index: Index) -> None:
    hit = index.search(clustered(90, 16)[4], k=1)[0]
    number = hit.metadata["number"]
    assert hit == Hit(f"p{number}·é", hit.score, f"text {number}", {"number": number})


@pytest.mark.parametrize("k", [1, 7, 90])
def test_ids_and_scores_together_are_those_of_the_hits(
    index: Index, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = index.search(clustered(90, 16)[7], k=k)
    assert hits.ids == [hit.id for hit in hits]
    np.testing.assert_array_equal(hits.scores, [hit.score for hit in hits])
    assert index.search(clustered(90, 16)[7], k=5, filter=[]).ids == []


def test_ids_from_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "BATCH", 8)
    index = Index.build(tmp_path / "ix", clustered(90, 16), shards=2)
    hits = index.search(clustered(90, 16)[7], k=60)
    assert hits.ids == [hit.id for hit in hits]
    assert len(set(hits.ids)) == 60
