"""Wrong arguments and corrupt data: a clean exception that names it, the same from both twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from synthetic import World, make_query, make_world

WORLD = make_world(dim=32, passages=60, centroids=20)
Q_LD = make_query(4, 32)


@pytest.fixture(params=["native", "reference"])
def twin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(world: World, twin: str) -> tuple[Any, Any]:
    return world.native() if twin == "native" else world.reference()


def altered(array: np.ndarray, index: int, value: int) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


CONSTRUCTION: list[tuple[dict[str, Any], str]] = [
    ({"centroids_CD": WORLD.centroids_CD.astype(np.int16)}, "codes_CD"),
    ({"centroids_CD": WORLD.centroids_CD[:, ::-1]}, "codes_CD"),
    ({"centroids_CD": np.zeros((20, 36), np.int8)}, "multiple of 8"),
    ({"centroids_CD": np.zeros((20, 1032), np.int8)}, "multiple of 8"),
    ({"centroids_CD": np.zeros((0, 32), np.int8)}, "no centroids"),
    ({"centroid_scales_C": np.ones(19, np.float32)}, "scales_C"),
    ({"centroid_scales_C": np.full(20, -1, np.float32)}, "scales_C"),
    ({"centroid_scales_C": np.full(20, np.nan, np.float32)}, "scales_C"),
    ({"codes": WORLD.codes.astype(np.uint16)}, "codes"),
    ({"codes": WORLD.codes[:-1]}, "codes has"),
    ({"codes": np.append(WORLD.codes, np.uint8(0))}, "codes has"),
    ({"residuals_TB": WORLD.residuals_TB[:, :-1].copy()}, "residuals_TB"),
    ({"residuals_TB": WORLD.residuals_TB.reshape(-1)}, "residuals_TB"),
    ({"residuals_TB": WORLD.residuals_TB.reshape(-1, 4)}, "residuals_TB"),
    ({"scales_T": WORLD.scales_T[:-9]}, "codes has|residuals_TB has"),
    ({"offsets_N1": WORLD.offsets_N1[:0]}, "offsets_N1"),
    ({"offsets_N1": WORLD.offsets_N1[:-1]}, "offsets_N1 ends"),
    ({"offsets_N1": WORLD.offsets_N1[1:]}, "offsets_N1 starts"),
    ({"offsets_N1": WORLD.offsets_N1.astype(np.int64)}, "offsets_N1"),
    ({"posting_offsets_C1": WORLD.posting_offsets_C1[:-1]}, "posting_offsets_C1"),
    ({"postings": WORLD.postings[:-1]}, "posting_offsets_C1 ends"),
    ({"postings": WORLD.postings.astype(np.float32)}, "postings"),
    ({"bits": 0}, "bits"),
    ({"bits": 5}, "bits"),
    ({"levels": np.zeros(3, np.float32)}, "levels"),
    ({"levels": np.full(4, np.inf, np.float32)}, "levels"),
    ({"alpha": np.zeros(255, np.float32)}, "alpha"),
    ({"beta": np.full(256, np.nan, np.float32)}, "beta"),
    ({"centroids_f32": np.zeros((20, 24), np.float32)}, "centroids_f32"),
    ({"centroids_f32": np.zeros((24, 20), np.float32)}, "centroids_f32"),
]


@pytest.mark.parametrize(("changes", "names"), CONSTRUCTION)
def test_construction(twin: str, changes: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        make(WORLD.but(**changes), twin)


def test_unaligned_array(twin: str) -> None:
    unaligned = np.frombuffer(bytearray(8 * 62), np.uint8)[1 : 1 + 8 * 61].view(np.uint64)
    with pytest.raises(ValueError, match="offsets_N1"):
        make(WORLD.but(offsets_N1=unaligned), twin)


def no_number() -> np.ndarray:
    Q = Q_LD.copy()
    Q[2, 7] = np.nan
    return Q


QUERIES: list[tuple[np.ndarray, str]] = [
    (np.zeros((0, 32), np.float32), "0 tokens"),
    (np.zeros((1025, 32), np.float32), "1025 tokens"),
    (np.zeros((4, 24), np.float32), "dimension 24"),
    (Q_LD.astype(np.float64), "Q_LD"),
    (Q_LD[0], "Q_LD"),
    (np.asfortranarray(Q_LD), "Q_LD"),
    (no_number(), "no NaN"),
    (np.full((4, 32), np.inf, np.float32), "no infinity"),
    (np.full((4, 32), 2e6, np.float32), "1e6"),
]


@pytest.mark.parametrize(("query", "names"), QUERIES)
def test_queries(twin: str, query: np.ndarray, names: str) -> None:
    table, shard = make(WORLD, twin)
    good = make(WORLD, twin)[0].probe(Q_LD, 2)
    calls: list[Callable[[], Any]] = [
        lambda: table.probe(query, 2),
        lambda: shard.search(query, *good, 3, 10),
        lambda: shard.exhaustive(query, 3),
        lambda: shard.score(query, np.arange(2)),
        lambda: shard.match(query, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=names):
            call()


def test_other_arguments(twin: str) -> None:
    table, shard = make(WORLD, twin)
    ids_LP, scores_LP = table.probe(Q_LD, 2)
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: table.probe(Q_LD, 0), "nprobe 0"),
        (lambda: table.probe(Q_LD, 2, 0), "threads 0"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 0, 10), "k 0"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, -1, 10), "k -1"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 0), "candidates 0"),
        (lambda: shard.search(Q_LD, ids_LP[:3], scores_LP[:3], 3, 10), "probe"),
        (lambda: shard.search(Q_LD, ids_LP[:, :0], scores_LP[:, :0], 3, 10), "probe"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP[:, :1].copy(), 3, 10), "probe"),
        (lambda: shard.search(Q_LD, ids_LP + np.int32(20), scores_LP, 3, 10), "probe_ids_LP"),
        (lambda: shard.search(Q_LD, ids_LP - np.int32(99), scores_LP, 3, 10), "probe_ids_LP"),
        (lambda: shard.search(Q_LD, ids_LP, -scores_LP, 3, 10), "probe_scores_LP"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP * np.float32(np.nan), 3, 10), "probe_scores"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, np.ones(59, np.uint8)), "allowed_N"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, np.ones(60, bool)), "allowed_N"),
        (lambda: shard.exhaustive(Q_LD, 0), "k 0"),
        (lambda: shard.exhaustive(Q_LD, 3, np.ones(61, np.uint8)), "allowed_N"),
        (lambda: shard.score(Q_LD, np.array([60])), "passage 60"),
        (lambda: shard.score(Q_LD, np.array([-1])), "passage -1"),
        (lambda: shard.score(Q_LD, np.array([1], np.int32)), "pids"),
        (lambda: shard.match(Q_LD, 60), "passage 60"),
        (lambda: shard.match(Q_LD, -1), "passage -1"),
        (lambda: shard.decode(-1, 2), "tokens -1"),
        (lambda: shard.decode(0, shard.tokens + 1), "lie outside"),
        (lambda: shard.decode(shard.tokens, 1), "lie outside"),
        (lambda: shard.decode(3, -1), "lie outside"),
    ]
    for call, names in wrong:
        with pytest.raises(ValueError, match=names):
            call()


CORRUPT: list[tuple[dict[str, Any], str]] = [
    ({"codes": altered(WORLD.codes, 0, 20)}, "token 0 has centroid 20 of 20"),
    ({"codes": np.full_like(WORLD.codes, 255)}, "token 0 has centroid 31"),
    ({"postings": np.full_like(WORLD.postings, 60)}, "lists passage 60 of 60"),
    ({"offsets_N1": altered(WORLD.offsets_N1, 1, 0)}, "passage 0 spans"),
    ({"offsets_N1": altered(WORLD.offsets_N1, 1, 2**63)}, "passage 0 spans"),
    ({"offsets_N1": altered(WORLD.offsets_N1, -2, 2**64 - 1)}, "passage 58 spans"),
    ({"posting_offsets_C1": altered(WORLD.posting_offsets_C1, 7, 2**64 - 1)}, "spans postings"),
    ({"posting_offsets_C1": altered(WORLD.posting_offsets_C1, 7, 0)}, "spans postings"),
]


@pytest.mark.parametrize(("changes", "names"), CORRUPT)
def test_corrupt_data_is_named_and_harmless(
    isa: str, twin: str, changes: dict[str, Any], names: str
) -> None:
    table, shard = make(WORLD.but(**changes), twin)
    ids_LP, scores_LP = table.probe(Q_LD, 20)
    # Where postings are wrong the candidates find it, elsewhere the scan of all passages does.
    candidates = 10 if "posting" in next(iter(changes)) else 60
    with pytest.raises(RuntimeError, match=rf"{names}.*tartan index verify"):
        shard.search(Q_LD, ids_LP, scores_LP, 3, candidates)
    if candidates == 60:
        with pytest.raises(RuntimeError, match=names):
            shard.exhaustive(Q_LD, 3)


def test_a_shard_works_on_after_an_error(isa: str) -> None:
    """What a call that failed has written into its scratch does not reach the next."""
    ids_LP, scores_LP = WORLD.native()[0].probe(Q_LD, 20)
    unused = next(c for c in range(20) if c not in ids_LP[:, :4])
    last_posting = int(WORLD.posting_offsets_C1[unused + 1]) - 1
    broken = WORLD.but(postings=altered(WORLD.postings, last_posting, 99))
    _, shard = broken.native()
    with pytest.raises(RuntimeError, match="lists passage 99"):
        shard.search(Q_LD, ids_LP, scores_LP, 3, 10)
    first = (ids_LP[:, :4].copy(), scores_LP[:, :4].copy())
    expected = WORLD.native()[1].search(Q_LD, *first, 3, 10)
    for ours, theirs in zip(shard.search(Q_LD, *first, 3, 10), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
