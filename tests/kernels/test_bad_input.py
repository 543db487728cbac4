"""Wrong arguments and corrupt data: a clean exception that names it, the same from both twins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from synthetic import World, make_query, make_world

from colbert_core.packed_ints import SLACK, PackedInts, packed_array, width_of

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


def with_value(name: str, index: int, value: int) -> np.ndarray:
    """Offsets, packed as they are, with another value at `index`."""
    count, largest = {
        "offsets": (61, len(WORLD.scales_T)),
        "posting_offsets": (21, len(WORLD.postings) - SLACK),
    }[name]
    values = PackedInts(name, getattr(WORLD, name), count, largest).read(0, count)
    values[index] = value % (1 << width_of(largest))
    return packed_array(values, largest)


def with_list(centroid: int, data: list[int]) -> dict[str, np.ndarray]:
    """Postings in which the bytes of one list are replaced."""
    end = len(WORLD.postings) - SLACK
    starts = PackedInts("posting_offsets", WORLD.posting_offsets, 21, end).read(0, 21)
    parts = [WORLD.postings[a:b] for a, b in pairwise(starts)]
    parts[centroid] = np.array(data, np.uint8)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    postings = np.concatenate([*parts, np.zeros(SLACK, np.uint8)])
    return {"postings": postings, "posting_offsets": packed_array(starts, int(starts[-1]))}


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
    ({"contexts_NX": WORLD.contexts_NX[:-1]}, "contexts_NX"),
    ({"contexts_NX": WORLD.contexts_NX[:, :-1].copy()}, "contexts_NX"),
    ({"contexts_NX": WORLD.contexts_NX.view(np.int8)}, "contexts_NX"),
    ({"contexts_NX": WORLD.contexts_NX[0]}, "contexts_NX"),
    ({"normalize": True}, "contexts need"),
    ({"levels": np.zeros(4, np.float32)}, "contexts need"),
    ({"passages": 59}, "offsets has"),
    ({"passages": -1}, "passages -1"),
    ({"passages": 1 << 32}, "passages 4294967296"),
    ({"offsets": WORLD.offsets[:0]}, "offsets has 0 bytes"),
    ({"offsets": WORLD.offsets[:-1]}, "offsets has"),
    ({"offsets": with_value("offsets", 0, 1)}, "offsets runs from 1"),
    ({"offsets": with_value("offsets", 60, 3)}, "offsets runs from 0 to 3"),
    ({"offsets": WORLD.offsets.astype(np.uint64)}, "offsets"),
    ({"posting_offsets": WORLD.posting_offsets[:-1]}, "posting_offsets has"),
    ({"posting_offsets": with_value("posting_offsets", 0, 1)}, "posting_offsets runs from 1"),
    ({"postings": WORLD.postings[:-1]}, "posting_offsets runs from 0"),
    ({"postings": WORLD.postings[:6]}, "postings has 6 bytes"),
    ({"postings": WORLD.postings.astype(np.float32)}, "postings"),
    ({"bits": 0}, "bits"),
    ({"bits": 5}, "bits"),
    ({"levels": np.zeros(3, np.float32)}, "levels"),
    ({"levels": np.zeros(63, np.float32)}, "levels has 63 entries"),
    ({"levels": np.full(4, np.inf, np.float32)}, "levels"),
    ({"levels": np.full(64, np.nan, np.float32)}, "levels"),
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
    unaligned = np.frombuffer(bytearray(4 * 257), np.uint8)[1 : 1 + 4 * 256].view(np.float32)
    with pytest.raises(ValueError, match="alpha"):
        make(WORLD.but(alpha=unaligned), twin)


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
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, margin=-0.1), "margin"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, margin=np.nan), "margin"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, missed=-0.1), "missed"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, missed=1.1), "missed"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, missed=np.nan), "missed"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, spread=-0.1), "spread"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, spread=1e7), "spread"),
        (lambda: shard.search(Q_LD, ids_LP, scores_LP, 3, 10, scored=-1), "scored -1"),
        (lambda: shard.approximate(Q_LD, ids_LP[:3], scores_LP[:3]), "probe"),
        (lambda: shard.approximate(Q_LD, ids_LP + np.int32(20), scores_LP), "probe_ids_LP"),
        (lambda: shard.approximate(Q_LD, ids_LP, scores_LP, np.ones(59, np.uint8)), "allowed_N"),
        (lambda: shard.approximate(Q_LD, ids_LP, scores_LP, None, 3, 99), "window"),
        (lambda: shard.approximate(Q_LD, ids_LP, scores_LP, None, 9, 3), "window"),
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


def with_context_scale(pid: int, scale: float) -> dict[str, Any]:
    contexts_NX = WORLD.contexts_NX.copy()
    contexts_NX[pid, -4:] = np.array([scale], "<f4").view(np.uint8)
    return {"contexts_NX": contexts_NX}


CORRUPT: list[tuple[dict[str, Any], str]] = [
    ({"codes": altered(WORLD.codes, 0, 20)}, "token 0 has centroid 20 of 20"),
    ({"codes": np.full_like(WORLD.codes, 255)}, "token 0 has centroid 31"),
    ({"offsets": with_value("offsets", 1, 0)}, "passage 0 spans"),
    ({"offsets": with_value("offsets", 1, -1)}, "passage 0 spans"),
    ({"offsets": with_value("offsets", -2, -1)}, "passage 58 spans"),
    (with_context_scale(59, np.nan), "context of passage 59 has a scale"),
    (with_context_scale(0, np.inf), "context of passage 0 has a scale"),
    (with_context_scale(7, -2e6), "context of passage 7 has a scale"),
    ({"posting_offsets": with_value("posting_offsets", 7, -1)}, "span bytes"),
    ({"posting_offsets": with_value("posting_offsets", 7, 0)}, "span bytes|centroid 7 are"),
    ({"postings": np.full_like(WORLD.postings, 255)}, "do not end counting"),
    (with_list(7, [128, 128, 128, 128, 128, 1]), "centroid 7 do not end counting"),
    (with_list(7, [129]), "centroid 7 do not end counting"),
    (with_list(7, [0]), "centroid 7 count 0 of 60 passages"),
    (with_list(7, [61, *[255] * 20]), "centroid 7 count 61 of 60 passages"),
    (with_list(7, [255, 255, 255, 255, 15]), "count 4294967295 of 60 passages"),
    (with_list(7, [20, 0, 0]), "centroid 7 are cut short"),
    (with_list(7, [1, 0, 1, 0]), "centroid 7 are too long"),
    (with_list(7, [1, 0]), "centroid 7 are 0 and not the 1 counted"),
    (with_list(7, [1, 0, 3]), "centroid 7 are 2 and not the 1 counted"),
    (with_list(7, [60, *[255] * 9]), "centroid 7 are (64|72) and not the 60 counted"),
    (with_list(7, [1, 29, 2]), "centroid 7 name passage 61 of 60"),
]


@pytest.mark.parametrize(("changes", "names"), CORRUPT)
def test_corrupt_data_is_named_and_harmless(
    isa: str, twin: str, changes: dict[str, Any], names: str
) -> None:
    table, shard = make(WORLD.but(**changes), twin)
    ids_LP, scores_LP = table.probe(Q_LD, 20)
    # Where postings are wrong the candidates find it, elsewhere the scoring of all passages does.
    candidates = 5 if "posting" in min(changes) else 60
    with pytest.raises(RuntimeError, match=rf"{names}.*tartan index verify"):
        shard.search(Q_LD, ids_LP, scores_LP, 3, candidates)
    if candidates == 60:
        with pytest.raises(RuntimeError, match=names):
            shard.exhaustive(Q_LD, 3)


def test_a_shard_works_on_after_an_error(isa: str) -> None:
    """What a call that failed has written into its scratch does not reach the next."""
    ids_LP, scores_LP = WORLD.native()[0].probe(Q_LD, 20)
    unused = next(c for c in range(20) if c not in ids_LP[:, :4])
    broken = WORLD.but(**with_list(unused, [1, 29, 2]))
    _, shard = broken.native()
    with pytest.raises(RuntimeError, match="name passage 61"):
        shard.search(Q_LD, ids_LP, scores_LP, 3, 5)
    first = (ids_LP[:, :4].copy(), scores_LP[:, :4].copy())
    expected = WORLD.native()[1].search(Q_LD, *first, 3, 5)
    for ours, theirs in zip(shard.search(Q_LD, *first, 3, 5), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_flipped_bits_are_refused_or_searched_by_both_alike() -> None:
    """Whatever stands in the posting lists: no byte outside them is read, and the twins agree."""
    rng = np.random.default_rng(0)
    world = make_world(dim=16, passages=300, centroids=40, clustered=3.0)
    table = world.native()[0]
    Q = make_query(8, 16)
    probes = table.probe(Q, 40)
    refused = 0
    for _ in range(300):
        postings = bytearray(world.postings.tobytes())
        for at in rng.integers(0, len(postings) - SLACK, rng.integers(1, 4)):
            postings[at] ^= 1 << int(rng.integers(8))
        broken = world.but(postings=np.frombuffer(postings, np.uint8))
        for first in range(0, 300, 50):  # a window does not see all of a list, nor all damage to it
            with suppress(RuntimeError):
                pids, _ = broken.native()[1].approximate(Q, *probes, None, first, first + 50)
                assert (
                    (pids >= first) & (pids < first + 50) & (np.diff(pids, prepend=-1) > 0)
                ).all()
        try:
            found = broken.reference()[1].search(Q, *probes, 3, 10)
        except RuntimeError as error:
            centroid = str(error).split(" centroid ")[1].split()[0]
            with pytest.raises(RuntimeError, match=f"centroid {centroid} .*tartan index verify"):
                broken.native()[1].search(Q, *probes, 3, 10)
            refused += 1
            continue
        for ours, theirs in zip(broken.native()[1].search(Q, *probes, 3, 10), found, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert 30 < refused < 270
