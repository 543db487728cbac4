"""Presets: what a request makes of them, where they are kept, and how they are measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from test_search import clustered

from colbert_core import Index
from colbert_core.errors import IndexCorrupt
from colbert_core.index import Manifest, Preset, describe, verify
from colbert_core.index.manifest import manifest_path
from colbert_core.index.presets import COMMON_SPREAD, kept_for, missed_for
from colbert_core.search import (
    COMMON_PRESETS,
    calibrate_gaps,
    calibrate_margins,
    derive_params,
    pseudo_queries,
)
from colbert_core.search import calibrate as calibration
from colbert_core.search.calibrate import calibrate
from colbert_core.search.calibrate_margins import RECALLS, options_of
from colbert_core.types import SearchParams

PRESETS = (
    Preset(0.8, 10, 8, 100, 40, 0.04, 0.1, 0.05, 0.92, 30),
    Preset(0.9, 10, 16, 200, 80, 0.08, 0.05, 0.05, 0.96, 60),
    Preset(0.99, 10, 32, 400, 160, 0.16, 0.005, 0.05, 0.996, 200),
    Preset(0.8, 100, 16, 1000, 400, 0.04, 0.1, 0.04, 0.92, 300),
    Preset(0.9, 100, 32, 2000, 800, 0.08, 0.05, 0.04, 0.96, 600),
    Preset(0.99, 100, 64, 4000, 1600, 0.16, 0.005, 0.04, 0.996, 2000),
)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recall_that_was_measured_takes_what_was_measured(preset: Preset) -> None:
    params = derive_params(preset.k, presets=PRESETS, recall=preset.recall)
    assert params.nprobe == preset.nprobe
    assert params.candidates == preset.candidates
    assert params.scored == preset.scored
    assert params.margin == preset.margin
    assert (params.missed, params.spread) == (preset.missed, preset.spread)
    assert not params.exact


def test_what_lies_between_is_interpolated() -> None:
    # a tenth of a tenth is missed at .99: half of the way there are 3.16 of a hundred
    between = derive_params(10, presets=PRESETS, recall=1 - 10**-1.5)
    assert between.margin == pytest.approx(0.12)
    assert between.missed == pytest.approx(0.05 * 0.1**0.5, abs=1e-4)
    assert between.spread == 0.05
    assert (between.nprobe, between.candidates, between.scored) == (23, 283, 114)
    between = derive_params(32, presets=PRESETS, recall=0.9)
    assert between.margin == pytest.approx(0.08)
    assert between.spread == pytest.approx(0.045, abs=1e-3)
    assert 22 <= between.nprobe <= 24
    assert 600 <= between.candidates <= 700


def test_more_recall_or_hits_never_mean_less_work() -> None:
    for table in (PRESETS, COMMON_PRESETS, ()):
        for k in (1, 10, 77, 1000):
            asked = [derive_params(k, presets=table, recall=r) for r in np.linspace(0.5, 0.99, 50)]
            work = [dataclasses.astuple(dataclasses.replace(p, missed=-p.missed)) for p in asked]
            for column in zip(*work, strict=True):
                assert list(column) == sorted(column)
        kept = [derive_params(k, presets=table, recall=0.95).candidates for k in range(1, 3000, 7)]
        assert kept == sorted(kept)
        assert all(kept[i] >= k for i, k in enumerate(range(1, 3000, 7)))


def test_a_few_odd_queries_do_not_decide_the_highest_recall() -> None:
    """All gaps of two pseudo-queries of 256 are far from all others': more than may be missed."""
    gaps_Qk = np.random.default_rng(0).exponential(0.04, (256, 9)).astype(np.float32)
    ranks_Qk = np.ones_like(gaps_Qk)
    plain = options_of((16, 10), gaps_Qk, ranks_Qk)[-1]
    gaps_Qk[:2] = 5.0
    odd = options_of((16, 10), gaps_Qk, ranks_Qk)[-1]
    assert plain.recall == odd.recall == 0.99
    assert plain.enough
    assert odd.enough
    assert odd.margin < 2 * plain.margin
    assert 0.98 < odd.kept < 0.995 < plain.kept


def test_probes_that_lead_to_too_few_are_not_enough() -> None:
    gaps_Qk = np.full((64, 9), np.inf, np.float32)
    gaps_Qk[:40] = 0.1
    assert not any(option.enough for option in options_of((4, 10), gaps_Qk, gaps_Qk))


def test_no_more_are_compared_than_twice_what_one_number_for_all_would_be() -> None:
    """Of 1,000 hits of rank 1 … 1,000, the first 921 are .92 and a little more."""
    ranks_Qk = np.random.default_rng(1).permutation(1000).reshape(100, 10).astype(np.float32) + 1
    options = options_of((16, 10), np.zeros_like(ranks_Qk), ranks_Qk)
    assert [option.most for option in options] == [1840, 1920, 1960, 1984, 1992]
    ranks_Qk[ranks_Qk > 950] = np.inf  # no probe leads there
    assert options_of((16, 10), np.zeros_like(ranks_Qk), ranks_Qk)[-1].most == np.inf


def test_ranks_count_what_postings_put_no_lower(index: Index) -> None:
    shards, codec = index.generation.shards, index.generation.codec
    rng = np.random.default_rng(2)
    sample = pseudo_queries.draw_sample(shards, 1 << 30, rng)
    (query,) = pseudo_queries.pseudo_queries(sample, 1, rng)
    assert query.made_from is not None
    shard_made_from, pid_made_from = query.made_from
    gaps = calibrate_gaps.gaps_of(sample, codec, query, [10])
    probes = codec.centroid_table.probe(query.Q_LD, 16)
    best, at_best = [], []
    for at, shard in enumerate(shards):
        pids, estimates = shard.kernel.approximate(query.Q_LD, *probes, None, 0, shard.passages)
        mine = (pids == pid_made_from) & (at == shard_made_from)
        estimates = estimates[~mine]
        exact, scores, _, _ = shard.kernel.exhaustive(query.Q_LD, 11)
        found = dict(zip(pids[~mine].tolist(), estimates, strict=True))
        for pid, score in zip(exact.tolist(), scores.tolist(), strict=True):
            if (at, pid) == query.made_from:
                continue
            best.append(score)
            estimate = found.get(pid, -np.inf)
            at_best.append(
                np.inf if np.isinf(estimate) else float(np.count_nonzero(estimates >= estimate))
            )
    ten = np.argsort(-np.array(best), kind="stable")[:10]
    share = sample.share_for(query)  # all passages but the one that the query was made of
    np.testing.assert_allclose(gaps.ranks[16, 10], np.array(at_best)[ten] / share, rtol=1e-6)


def test_beyond_the_presets() -> None:
    lowest = derive_params(10, presets=PRESETS, recall=0.1)
    assert lowest == derive_params(10, presets=PRESETS, recall=0.8)
    assert derive_params(1, presets=PRESETS, recall=0.9).nprobe == 16
    assert derive_params(1000, presets=PRESETS, recall=0.9).candidates == 20_000
    for above in (0.991, 1.0):
        assert derive_params(10, presets=PRESETS, recall=above).exact
    # with a raw number there is something to do but to score everything
    assert not derive_params(10, presets=PRESETS, recall=1.0, nprobe=3).exact


def test_raw_numbers_are_taken_as_they_are() -> None:
    params = derive_params(10, presets=PRESETS, recall=0.9, nprobe=5)
    assert params == SearchParams(10, 5, 200, 80, margin=0.08, missed=0.05, spread=0.05)
    params = derive_params(10, presets=PRESETS, recall=0.9, candidates=500)
    assert params == SearchParams(10, 16, 500, 78)
    params = derive_params(10, presets=PRESETS, recall=0.9, candidates=500, scored=300)
    assert params == SearchParams(10, 16, 500, 300)
    assert derive_params(10, presets=PRESETS, recall=0.9, scored=0) == SearchParams(
        10, 16, 200, 0, margin=0.08
    )
    assert derive_params(5, nprobe=3, candidates=2).candidates == 5  # never below k
    assert derive_params(5, nprobe=3, candidates=9, scored=2).scored == 5


# ---------------------------------------------------------------- in the manifest


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(tmp_path_factory.mktemp("presets") / "ix", clustered(900, 32), shards=2)


def test_an_index_is_built_with_its_presets(index: Index) -> None:
    presets = index.manifest.presets
    assert [(p.k, p.recall) for p in presets] == [(k, r) for k in (10, 100) for r in RECALLS]
    assert index.params(10, 0.9) == derive_params(10, presets=presets, recall=0.9)
    assert index.params() == derive_params(10, presets=presets)
    for preset in presets:
        # the last margin may rise no more than 1.25 times as steeply as the one before
        assert preset.kept >= kept_for(preset.recall) - 2e-3 or preset.k > 10
        assert preset.missed == round(missed_for(preset.recall), 4)
        assert 0 < preset.spread < 1
        assert preset.k <= preset.scored <= preset.candidates
        assert preset.mean_scored <= 900
    assert describe(index.manifest)["presets"] == [dataclasses.asdict(p) for p in presets]
    verify(index.generation.path)


def test_presets_survive_the_manifest(index: Index) -> None:
    data = index.manifest.to_json()
    assert Manifest.from_json(data, "m").presets == index.manifest.presets
    raw = json.loads(data)
    raw["presets"][0]["surprise"] = 1
    with pytest.raises(IndexCorrupt, match="surprise"):
        Manifest.from_json(json.dumps(raw).encode(), "m")
    path = manifest_path(index.generation.path, index.manifest.generation)
    assert path.read_bytes() == data


def test_presets_of_before_scoring_ended_by_itself_are_read(index: Index) -> None:
    raw = json.loads(index.manifest.to_json())
    old = dict(raw["presets"][0], interaction_margin=0.1, overlap=0.77)
    for name in ("missed", "spread", "kept"):
        del old[name]
    raw["presets"] = [old]
    (read,) = Manifest.from_json(json.dumps(raw).encode(), "m").presets
    assert read == dataclasses.replace(
        index.manifest.presets[0], missed=round(missed_for(0.8), 4), spread=COMMON_SPREAD, kept=0.77
    )


def test_a_small_index_has_none_and_takes_the_common_ones(tmp_path: Path) -> None:
    small = Index.build(tmp_path / "ix", clustered(60, 16))
    assert small.manifest.presets == ()
    assert small.params(10, 0.9).margin == COMMON_PRESETS[1].margin
    assert len(small.search(clustered(60, 16)[3], k=100)) == 60


# ---------------------------------------------------------------- measuring


def test_the_same_shards_and_seed_give_the_same_presets(index: Index) -> None:
    shards, codec = index.generation.shards, index.generation.codec
    assert calibrate(shards, codec) == index.manifest.presets
    assert calibrate(shards, codec, seed=1) != index.manifest.presets


def test_processors_do_not_matter(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbert_core.search.calibrate.processors", lambda: 1)
    assert calibrate(index.generation.shards, index.generation.codec) == index.manifest.presets


def test_windows_do_not_matter(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shard that is looked at in parts, the same comes out."""
    monkeypatch.setattr(calibrate_margins, "WINDOW", 37)
    monkeypatch.setattr(pseudo_queries, "WINDOW", 37)
    assert calibrate(index.generation.shards, index.generation.codec) == index.manifest.presets


def test_a_sample_of_the_passages_says_nearly_the_same(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SAMPLE_TOKENS", index.manifest.tokens // 3)
    sampled = calibrate(index.generation.shards, index.generation.codec)
    whole = index.manifest.presets
    assert [preset.k for preset in sampled] == [preset.k for preset in whole]
    generation = index.generation
    other = Index(
        dataclasses.replace(
            generation, manifest=dataclasses.replace(index.manifest, presets=sampled)
        )
    )
    queries = [vectors[:6] for vectors in clustered(900, 32)[::30]]
    exact = [{hit.id for hit in index.search(query, exact=True)} for query in queries]
    for recall in RECALLS:
        found = [{hit.id for hit in other.search(query, recall=recall)} for query in queries]
        overlap = np.mean([len(a & b) / 10 for a, b in zip(found, exact, strict=True)])
        assert overlap == pytest.approx(recall, abs=0.12)


@pytest.mark.parametrize("codec", ["tartan", "colbertv2"])
def test_odd_collections_are_ordinary(codec: str, tmp_path: Path) -> None:
    """Equal passages, passages of one token, and more probes than centroids."""
    one = clustered(1, 16)[0][:1]
    for name, vectors in (("same", [one] * 600), ("short", [v[:1] for v in clustered(600, 16)])):
        index = Index.build(tmp_path / name, vectors, codec=codec, centroids=3, shards=2)
        assert len(index.manifest.presets) == 5
        assert all(np.isfinite(preset.margin) for preset in index.manifest.presets)
        assert len(index.search(one, k=10, recall=0.8)) == 10
