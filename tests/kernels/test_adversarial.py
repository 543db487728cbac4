"""Values that break kernels: ties, zeros, extremes, stamps that run out, threads that meet."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from synthetic import World, lists_of, make_query, make_world
from test_against_reference import assert_equal_on_everything, assert_same

from colbert_core.packed_ints import packed_array


def all_equal(world: World) -> World:
    """Every stored token is the same vector: all scores tie."""
    return world.but(
        centroids_CD=np.repeat(world.centroids_CD[:1], len(world.centroids_CD), axis=0),
        centroid_scales_C=np.full_like(world.centroid_scales_C, 0.01),
        residuals_TB=np.zeros_like(world.residuals_TB),
        scales_T=np.zeros_like(world.scales_T),
        contexts_NX=np.repeat(world.contexts_NX[:1], world.passages, axis=0),
    )


def test_ties_go_to_the_smaller_id(isa: str) -> None:
    world = all_equal(make_world(passages=50))
    Q_LD = make_query(5, 128)
    ids_LP, _ = world.native()[0].probe(Q_LD, 7)
    np.testing.assert_array_equal(ids_LP, np.tile(np.arange(7), (5, 1)))
    assert_equal_on_everything(world, Q_LD)
    pids, scores, _, _ = world.native()[1].exhaustive(Q_LD, 50)
    np.testing.assert_array_equal(pids, np.arange(50))
    assert len(set(scores.tolist())) == 1
    best_L, _ = world.native()[1].match(Q_LD, 3)
    assert not best_L.any()


def test_ties_across_threads(isa: str) -> None:
    world = all_equal(make_world(dim=8, centroids=50_000, passages=3))
    ids_LP, _ = world.native()[0].probe(make_query(3, 8), 30, 4)
    np.testing.assert_array_equal(ids_LP, np.tile(np.arange(30), (3, 1)))


@pytest.mark.parametrize("zeros", [slice(None), slice(0, 2), slice(1, None)])
def test_zero_query_vectors(isa: str, zeros: slice) -> None:
    Q_LD = make_query(5, 128)
    Q_LD[zeros] = 0
    assert_equal_on_everything(make_world(), Q_LD)


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e6])
def test_tiny_and_huge_queries(isa: str, scale: float) -> None:
    Q_LD = make_query(5, 128)
    Q_LD = (Q_LD / np.abs(Q_LD).max() * np.float64(scale)).astype(np.float32)
    assert_equal_on_everything(make_world(), Q_LD)


@pytest.mark.parametrize("dim", [8, 128, 512, 520, 1024])
@pytest.mark.parametrize("centroid", [-128, 127])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_bytes_do_not_saturate(isa: str, dim: int, centroid: int, sign: int) -> None:
    """All products have the largest magnitude and one sign: the sum an int16 cannot hold."""
    world = make_world(dim=dim, bits=4)
    world = world.but(
        centroids_CD=np.full_like(world.centroids_CD, centroid),
        levels=np.where(np.arange(64) < 32, -1, 1).astype(np.float32),
        residuals_TB=np.where(world.scales_T[:, None] % 2 == 0, 0, 255).astype(np.uint8)
        * np.ones((1, dim // 2), np.uint8),
    )
    Q_LD = np.full((17, dim), sign, np.float32)
    assert_equal_on_everything(world, Q_LD)
    _, scores_LP = world.native()[0].probe(Q_LD, 1)
    exact = sign * centroid * 127 * dim * float(world.centroid_scales_C.max()) / 127
    if exact > 0:
        np.testing.assert_allclose(scores_LP[:, 0], exact, rtol=1e-5)


def ramp(*, planes: bool, **shape: int) -> World:
    """A shard whose tokens decode to odd numbers: 2 · index + 1, within an int8 grid of step 1."""
    world = make_world(planes=planes, contexts=False, **shape)
    count = 1 << world.bits if planes else 64
    return world.but(
        levels=2 * np.arange(count, dtype=np.float32) + 1,
        alpha=np.zeros(256, np.float32),
        beta=np.ones(256, np.float32),
    )


@pytest.mark.parametrize("planes", [False, True])
def test_levels_are_looked_up_exactly(isa: str, planes: bool) -> None:
    for bits in (1, 2, 3, 4):
        world = ramp(planes=planes, dim=40, bits=bits, passages=1, longest=1)
        decoded = world.native()[1].decode(0, 1)
        assert_same(decoded, world.reference()[1].decode(0, 1))
        assert decoded.max() < 2 << (bits if planes else 6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [8, 56, 64, 72, 136])
def test_every_bit_of_a_string_is_in_its_windows_alone(isa: str, dim: int, bits: int) -> None:
    """One bit of a token is set at a time; and none, and all. Worked out bit by bit."""
    count = dim * bits + 2
    world = ramp(planes=False, dim=dim, bits=bits, passages=1, longest=1)
    strings = np.zeros((count, dim * bits), np.uint8)
    strings[np.arange(dim * bits), np.arange(dim * bits)] = 1
    strings[-1] = 1
    packed = np.packbits(strings, axis=1, bitorder="little")
    world = world.but(
        codes=packed_array(np.zeros(count, np.int64), len(world.centroids_CD) - 1),
        residuals_TB=packed,
        scales_T=np.zeros(count, np.uint8),
        offsets=packed_array(np.array([0, count]), count),
    )
    wanted = np.ones((count, dim), np.float32)
    for d in range(dim):
        for k in range(6):
            at = bits * d + bits - 6 + k
            if at >= 0:
                wanted[:, d] += strings[:, at] * (2 << k)
    assert_same(world.native()[1].decode(0, count), wanted)
    assert_same(world.reference()[1].decode(0, count), wanted)
    # The scan sees the same: in one dimension, the token with the largest level counts.
    assert world.reference()[1].on_grid
    for Q_LD in np.eye(dim, dtype=np.float32)[:, None]:
        scores = world.native()[1].score(Q_LD, np.zeros(1, np.int64))
        np.testing.assert_allclose(scores, (wanted @ Q_LD[0]).max(), rtol=1e-6)


def test_all_levels_zero(isa: str) -> None:
    for planes in (False, True):
        world = make_world(planes=planes)
        assert_equal_on_everything(
            world.but(levels=np.zeros_like(world.levels)), make_query(5, 128)
        )


def test_duplicate_postings_count_once(isa: str) -> None:
    world = make_world(passages=200)
    offsets, postings = lists_of([np.repeat(one, 2) for one in world.lists()], 200)
    twice = world.but(posting_offsets=offsets, postings=postings)
    Q_LD = make_query(8, 128)
    assert_equal_on_everything(twice, Q_LD)
    ids_LP, scores_LP = world.native()[0].probe(Q_LD, 4)
    assert_same(
        twice.native()[1].search(Q_LD, ids_LP, scores_LP, 5, 20),
        world.native()[1].search(Q_LD, ids_LP, scores_LP, 5, 20),
    )


def test_stamps_run_out_without_a_trace(isa: str) -> None:
    world = make_world(passages=200)
    _, shard = world.native()
    Q_LD = make_query(40, 128)
    ids_LP, scores_LP = world.native()[0].probe(Q_LD, 4)
    before = shard.search(Q_LD, ids_LP, scores_LP, 5, 20)
    for _ in range(3):
        shard._age_scratch()
        assert_same(shard.search(Q_LD, ids_LP, scores_LP, 5, 20), before)


def test_queries_do_not_leave_anything_for_the_next(isa: str) -> None:
    """Scratch is reused: queries of many shapes in turn, each as if alone."""
    world = make_world(passages=200, dim=40)
    for tokens in (1024, 1, 33, 16, 2):
        assert_equal_on_everything(
            world, make_query(tokens, 40, seed=tokens), nprobe=tokens % 7 + 1, candidates=30
        )


def test_threads_do_not_meet(isa: str) -> None:
    world = make_world(passages=300)
    table, shard = world.native()
    queries = [make_query(3 + i, 128, seed=i) for i in range(12)]

    def search(Q_LD: np.ndarray) -> tuple:
        return shard.search(Q_LD, *table.probe(Q_LD, 4), 5, 50)

    alone = [search(Q_LD) for Q_LD in queries]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            for found, expected in zip(threads.map(search, queries), alone, strict=True):
                assert_same(found, expected)


def test_a_passed_deadline_names_its_stage(isa: str) -> None:
    world = make_world(passages=100)
    table, shard = world.native()
    Q_LD = make_query(4, 128)
    ids_LP, scores_LP = table.probe(Q_LD, 2)
    past = time.monotonic() - 1
    with pytest.raises(TimeoutError, match="candidates"):
        shard.search(Q_LD, ids_LP, scores_LP, 3, 5, None, past)
    with pytest.raises(TimeoutError, match="centroid"):
        shard.search(Q_LD, ids_LP, scores_LP, 3, 100, None, past, scored=10)
    with pytest.raises(TimeoutError, match="precise"):
        shard.exhaustive(Q_LD, 3, None, past)
    ahead = time.monotonic() + 60
    assert len(shard.search(Q_LD, ids_LP, scores_LP, 3, 10, None, ahead)[0]) == 3


def test_reads_stay_inside_the_array_at_the_end(isa: str) -> None:
    """The last token's bytes are followed by nothing: for the sanitizer, and for mapped files."""
    for bits in (1, 2, 3, 4):
        for dim in (8, 24, 128):
            for planes in (False, True):
                world = make_world(
                    dim=dim, bits=bits, passages=1, longest=1, centroids=1, planes=planes
                )
                exact = np.frombuffer(bytearray(world.residuals_TB.tobytes()), np.uint8)
                world = world.but(residuals_TB=exact.reshape(world.residuals_TB.shape))
                assert_equal_on_everything(world, make_query(3, dim), nprobe=1, candidates=1)
