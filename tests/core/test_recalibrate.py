"""Presets by real queries: others of their kind find what is asked; nothing else moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_search import clustered, unit

from colbert_core import Index, recalibrate
from colbert_core.errors import InvalidInput, QueryError
from colbert_core.index import Preset, describe, read_current
from colbert_core.index.presets import CALIBRATED_ON
from colbert_core.search import adjust
from colbert_core.types import F32

DIM, K = 32, 10


def asked(count: int, passages: list[F32], seed: int) -> list[F32]:
    """Queries that are looser about their passages than those that a build makes of them, and
    weighed."""
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(count):
        passage = passages[int(rng.integers(len(passages)))]
        tokens = passage[rng.integers(len(passage), size=int(rng.integers(3, 9)))]
        loose = tokens + 1.5 * unit(rng, len(tokens), DIM)
        weights = rng.uniform(0.6, 1.4, (len(tokens), 1)).astype(np.float32)
        queries.append(weights * loose / np.linalg.norm(loose, axis=1, keepdims=True))
    return queries


PASSAGES = clustered(1500, DIM)
ASKED, OTHERS = asked(200, PASSAGES, 1), asked(200, PASSAGES, 2)


def found(index: Index, recall: float) -> float:
    """What queries of the kind find that were not measured with."""
    exact = [set(index.search(query, K, exact=True).ids) for query in OTHERS]
    given = [set(index.search(query, K, recall).ids) for query in OTHERS]
    return float(np.mean([len(a & b) / K for a, b in zip(exact, given, strict=True)]))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(tmp_path_factory.mktemp("recalibrate") / "ix", PASSAGES)


@pytest.fixture(scope="module")
def calibrated(built: Index) -> Index:
    return built.calibrate(ASKED)


def test_queries_of_the_kind_find_what_is_asked(built: Index, calibrated: Index) -> None:
    recalls = (0.80, 0.90, 0.95, 0.98, 0.99)
    off_before, off = (
        np.array([found(index, recall) - recall for recall in recalls])
        for index in (built, calibrated)
    )
    assert off_before.min() < -0.04  # they are not like those that are made of passages
    assert np.abs(off).max() < 0.03  # two standard errors, of what is asked and of what is found


def test_nothing_but_presets_changes(built: Index, calibrated: Index) -> None:
    before, after = built.manifest, calibrated.manifest
    assert after.parent == before.generation
    assert (after.shards, after.files, after.codec) == (before.shards, before.files, before.codec)
    assert after.presets != before.presets
    assert [(one.k, one.recall) for one in after.presets] == [
        (one.k, one.recall) for one in before.presets
    ]
    assert after.extras == {**before.extras, CALIBRATED_ON: 200}
    assert (describe(after)[CALIBRATED_ON], describe(before).get(CALIBRATED_ON)) == (200, None)
    exact = [calibrated.search(query, K, exact=True).ids for query in OTHERS[:5]]
    assert exact == [built.search(query, K, exact=True).ids for query in OTHERS[:5]]


def test_the_same_queries_give_the_same_presets(calibrated: Index) -> None:
    once = calibrated.calibrate(ASKED[:60])
    assert once.calibrate(ASKED[:60]).manifest.presets == once.manifest.presets


def test_changes_keep_them_and_compacting_does_not(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "ix", PASSAGES[:700]).calibrate(ASKED[:80])
    presets = index.manifest.presets
    smaller = index.delete([str(number) for number in range(0, 100, 2)])
    assert (smaller.manifest.presets, smaller.manifest.extras[CALIBRATED_ON]) == (presets, 80)
    added = smaller.add(PASSAGES[700:710], [f"new{number}" for number in range(10)])
    assert (added.manifest.presets, added.manifest.extras[CALIBRATED_ON]) == (presets, 80)
    again = added.calibrate(ASKED[:80])  # beside what was deleted, and a delta
    assert again.manifest.presets != presets
    assert found(again, 0.95) == pytest.approx(0.95, abs=0.03)
    compacted = again.compact()
    assert CALIBRATED_ON not in compacted.manifest.extras
    assert compacted.manifest.presets != again.manifest.presets


def test_of_many_queries_a_sample_is_measured_with(
    built: Index, calibrated: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalibrate, "MOST_QUERIES", 60)
    monkeypatch.setattr(recalibrate, "SEARCHED_TOKENS", 1)  # too few to search exactly for
    monkeypatch.setattr(recalibrate, "adjusted", None)
    assert built.calibrate(ASKED).manifest.extras[CALIBRATED_ON] == 60


@pytest.mark.parametrize(
    ("queries", "error", "named"),
    [
        (ASKED[:49], InvalidInput, "49 queries say too little.*give 50 at least"),
        (
            [*ASKED[:60], np.ones((3, 8), np.float32)],
            QueryError,
            "query 61 of those to measure with: .* 8 dimensions and the index",
        ),
        ([*ASKED[:60], "words"], QueryError, "query 61 .*knows no model"),
        ([*ASKED[:60], np.zeros((3, DIM), np.float32)], QueryError, "query 61 .*is all zeros"),
    ],
)
def test_what_cannot_be_measured_with_is_refused_and_nothing_published(
    built: Index, queries: list, error: type[Exception], named: str
) -> None:
    path = built.generation.path
    live = read_current(path).generation
    with pytest.raises(error, match=named):
        built.calibrate(queries)
    assert read_current(path).generation == live


def test_a_small_index_has_nothing_to_measure(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "ix", PASSAGES[:511])
    with pytest.raises(InvalidInput, match=r"511 passages; of fewer than 512 nothing is measured"):
        index.calibrate(ASKED)


def presets(k: int = 10) -> list[Preset]:
    return [
        Preset(recall, k, 8, 100 * at, 10 * at, 0.1 * at, 0.2 / at, 0.1, 0.9, 10 * at)
        for at, recall in ((1, 0.8), (2, 0.9), (3, 0.95), (4, 0.98), (5, 0.99))
    ]


def test_who_finds_more_than_asked_asks_for_less() -> None:
    shares_QR = np.tile([0.9, 0.95, 0.98, 0.99, 1.0], (50, 1))
    moved = adjust._moved(presets(), shares_QR)
    margins = [one.margin for one in moved]
    assert margins[:3] == pytest.approx([0.1, 0.1, 0.2])  # .95 is what .9 found
    assert margins[3] == pytest.approx(0.3, abs=1e-3)
    assert [one.recall for one in moved] == [0.8, 0.9, 0.95, 0.98, 0.99]


def test_who_finds_less_asks_for_more_and_no_more_than_there_is() -> None:
    shares_QR = np.tile([0.7, 0.8, 0.9, 0.95, 0.98], (50, 1))
    margins = [one.margin for one in adjust._moved(presets(), shares_QR)]
    assert margins == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.5], abs=1e-3)


def test_what_few_queries_find_counts_for_less() -> None:
    shares_QR = np.array([[0.8, 0.9, 0.94, 1.0, 1.0], [0.8, 0.9, 0.96, 1.0, 1.0]])
    sure = adjust._moved(presets(), np.tile(shares_QR.mean(0), (2, 1)))[2]
    unsure = adjust._moved(presets(), shares_QR)[2]
    assert unsure.margin > sure.margin
