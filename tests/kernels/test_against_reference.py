"""Native kernels equal the numpy reference, bit for bit, on every SIMD path of this machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import World, make_query, make_world

from colbert_core import _native
from colbert_core.types import AnyArray


def assert_same(native: Any, reference: Any) -> None:
    """Equal tuples or arrays: dtype, shape and every bit."""
    if isinstance(reference, tuple):
        assert len(native) == len(reference)
        for ours, theirs in zip(native, reference, strict=True):
            assert_same(ours, theirs)
    elif isinstance(reference, np.ndarray):
        assert native.dtype == reference.dtype
        assert native.shape == reference.shape
        np.testing.assert_array_equal(native, reference)
    else:
        assert native == reference


def assert_equal_on_everything(
    world: World,
    Q_LD: AnyArray,
    *,
    nprobe: int = 4,
    k: int = 3,
    candidates: int = 8,
    allowed_N: AnyArray | None = None,
    margin: float = np.inf,
    scored: int = 5,
    missed: float = 0.0,
    spread: float = 0.1,
) -> None:
    """All calls of both implementations over one shard and one query."""
    (table, shard), (ref_table, ref_shard) = world.native(), world.reference()
    ids_LP, scores_LP = ref_table.probe(Q_LD, nprobe)
    assert_same(table.probe(Q_LD, nprobe), (ids_LP, scores_LP))
    budget = margin, scored, missed, spread
    asked = (Q_LD, ids_LP, scores_LP, k, candidates, allowed_N, 0.0, *budget)
    found = ref_shard.search(*asked)
    assert_same(shard.search(*asked), found)
    assert_same(table.probe(Q_LD, nprobe, 1, True), (ids_LP, scores_LP))  # keeps its rows
    assert_same(shard.search(*asked), found)
    for most in (k, 10_000):  # hits as postings, then as centroids rank them
        coarse = (Q_LD, ids_LP, scores_LP, k, most, allowed_N, 0.0, margin, 0)
        assert_same(shard.search(*coarse), ref_shard.search(*coarse))
    touched = ref_shard.approximate(Q_LD, ids_LP, scores_LP, allowed_N)
    assert_same(shard.approximate(Q_LD, ids_LP, scores_LP, allowed_N), touched)
    cut = world.passages // 3
    for first, last in ((0, cut), (cut, world.passages), (cut, cut)):  # windows of the shard
        window = Q_LD, ids_LP, scores_LP, None if allowed_N is None else allowed_N[first:last]
        assert_same(
            shard.approximate(*window, first, last), ref_shard.approximate(*window, first, last)
        )
    exact = ref_shard.exhaustive(Q_LD, k, allowed_N)
    assert_same(shard.exhaustive(Q_LD, k, allowed_N), exact)
    pids = np.arange(world.passages - 1, -1, -1)[:5]
    assert_same(shard.score(Q_LD, pids), ref_shard.score(Q_LD, pids))
    assert_same(shard.interaction(Q_LD, pids), ref_shard.interaction(Q_LD, pids))
    for pid in (0, world.passages - 1):
        if world.passages:
            assert_same(shard.match(Q_LD, pid), ref_shard.match(Q_LD, pid))
    some = min(9, shard.tokens)
    first = shard.tokens - some
    assert_same(shard.decode(first, some), ref_shard.decode(first, some))


def test_kept_rows_are_found_again_only_by_their_query(isa: str) -> None:
    """More queries than a table keeps rows of, from several threads, in an order of their own."""
    world = make_world(passages=200)
    (table, shard), (_, reference) = world.native(), world.reference()
    queries = [make_query(tokens, 128, seed=tokens) for tokens in range(1, 40)]
    probes = [table.probe(Q_LD, 4) for Q_LD in queries]
    expected = [reference.search(Q, *probe, 3, 8) for Q, probe in zip(queries, probes, strict=True)]

    def search(number: int) -> object:
        i = number * 7 % len(queries)
        table.probe(queries[i], 4, 1, True)
        found = shard.search(queries[i], *probes[i], 3, 8)
        assert_same(found, expected[i])
        return None

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(search, range(160)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [8, 24, 72, 96, 128, 1024])
@pytest.mark.parametrize("planes", [False, True])
def test_every_width_and_dimension(isa: str, dim: int, bits: int, planes: bool) -> None:
    world = make_world(dim=dim, bits=bits, planes=planes, seed=dim + bits)
    assert_equal_on_everything(world, make_query(9, dim))


def test_shards_of_before_there_were_contexts(isa: str) -> None:
    world = make_world(contexts=False)
    assert_equal_on_everything(world, make_query(9, 128))
    none = np.zeros((world.passages, 36), np.uint8)  # as they are written where shards are merged
    Q_LD, pids = make_query(40, 128), np.arange(world.passages)
    for call in ("score", "interaction"):
        shards = world.native()[1], world.but(contexts_NX=none).native()[1]
        assert_same(*(getattr(shard, call)(Q_LD, pids) for shard in shards))


@pytest.mark.parametrize("centroids", [1, 2, 3, 16, 17, 255, 1000, 20_000, 70_000])
def test_codes_of_every_width(isa: str, centroids: int) -> None:
    world = make_world(dim=8, centroids=centroids, passages=60, seed=centroids)
    assert_equal_on_everything(world, make_query(5, 8), candidates=40)


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 40, 41, 64])
def test_every_shape_of_a_query(isa: str, tokens: int) -> None:
    assert_equal_on_everything(make_world(seed=tokens), make_query(tokens, 128))


@pytest.mark.parametrize("longest", [127, 128, 129, 400])
@pytest.mark.parametrize("tokens", [3, 8, 16, 23, 32, 40])
def test_long_passages(isa: str, longest: int, tokens: int) -> None:
    """What a path looks at in parts of 128 tokens, of which the last one may be short."""
    world = make_world(passages=8, longest=longest, seed=longest + tokens)
    assert_equal_on_everything(world, make_query(tokens, 128, seed=tokens))


@pytest.mark.parametrize("residuals", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("dim", [8, 24, 128, 520, 1024])
def test_tokens_that_nearly_tie(isa: str, dim: int, residuals: float) -> None:
    """Two centroids that nearly are one: a coarse query cannot tell which token is the best."""
    world = make_world(dim=dim, centroids=2, passages=9, longest=300, seed=dim)
    world = world.but(
        centroids_CD=np.repeat(world.centroids_CD[:1], 2, axis=0),
        centroid_scales_C=np.float32([1e-3, np.nextafter(np.float32(1e-3), np.float32(1))]),
        alpha=np.ones(256, np.float32),
        beta=(np.float32(residuals) * world.beta).astype(np.float32),
    )
    assert_equal_on_everything(world, make_query(17, dim, seed=dim))


def test_longest_query(isa: str) -> None:
    world = make_world(dim=24, passages=20, longest=6)
    assert_equal_on_everything(world, make_query(1024, 24))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("exact_centroids", [False, True])
@pytest.mark.parametrize("dim", [8, 40, 128])
@pytest.mark.parametrize(("planes", "on_grid"), [(True, False), (False, False), (False, True)])
def test_decoding_variants(
    isa: str, normalize: bool, exact_centroids: bool, dim: int, planes: bool, on_grid: bool
) -> None:
    world = make_world(
        dim=dim,
        normalize=normalize,
        exact_centroids=exact_centroids,
        planes=planes,
        on_grid=on_grid,
    )
    assert_equal_on_everything(world, make_query(7, dim))


@pytest.mark.parametrize("passages", [1, 2, 3])
@pytest.mark.parametrize("longest", [1, 2])
def test_tiny_shards(isa: str, passages: int, longest: int) -> None:
    world = make_world(dim=32, passages=passages, longest=longest, centroids=3)
    for tokens in (1, 5):
        assert_equal_on_everything(world, make_query(tokens, 32), nprobe=2, candidates=1, k=1)
        assert_equal_on_everything(world, make_query(tokens, 32), k=50, candidates=1)


def test_empty_shard(isa: str) -> None:
    world = make_world(dim=16, passages=0)
    assert_equal_on_everything(world, make_query(3, 16))
    assert len(world.native()[1].search(make_query(3, 16), *probes(world, 3), 5, 5)[0]) == 0


def probes(world: World, tokens: int, nprobe: int = 4) -> tuple[AnyArray, AnyArray]:
    return world.native()[0].probe(make_query(tokens, world.dim), nprobe)


@pytest.mark.parametrize("nprobe", [1, 2, 63, 64, 65, 1000])
def test_few_and_many_probes(isa: str, nprobe: int) -> None:
    assert_equal_on_everything(make_world(), make_query(5, 128), nprobe=nprobe, candidates=20)


@pytest.mark.parametrize(("k", "candidates"), [(1, 1), (5, 30), (39, 39), (40, 1), (10_000, 1)])
def test_k_and_candidates(isa: str, k: int, candidates: int) -> None:
    assert_equal_on_everything(make_world(), make_query(20, 128), k=k, candidates=candidates)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("candidates", [1, 25])
def test_allowed_passages(isa: str, share: float, candidates: int) -> None:
    world = make_world(passages=200)
    allowed_N = (np.random.default_rng(3).random(200) < share).astype(np.uint8)
    assert_equal_on_everything(
        world, make_query(6, 128), k=4, candidates=candidates, allowed_N=allowed_N
    )


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05, 0.2, np.inf])
def test_margin(isa: str, margin: float) -> None:
    world = make_world(passages=300, longest=6, clustered=2.0)
    assert_equal_on_everything(
        world, make_query(9, 128), nprobe=8, k=4, candidates=200, margin=margin
    )


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.05, np.inf])
def test_margins_follow_how_long_query_tokens_are(isa: str, margin: float) -> None:
    """A query of which every token is twice as long has the same hits, of twice the score; one of
    nothing but zeros is no reason to fail."""
    world, Q_LD = make_world(passages=300, longest=6, clustered=2.0), make_query(9, 128)
    budget = {"margin": margin, "scored": 40, "missed": 0.1, "spread": 0.1}
    table, shard = world.native()
    once, twice = (
        shard.search(query_LD, *table.probe(query_LD, 8), 4, 200, **budget)
        for query_LD in (Q_LD, 2 * Q_LD)
    )
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_array_equal(2 * once[1], twice[1])
    assert once[2:] == twice[2:]
    weights_L1 = np.linspace(0.1, 2.0, 9, dtype=np.float32)[:, None]
    for query_LD in (weights_L1 * Q_LD, 0 * Q_LD):
        assert_equal_on_everything(world, query_LD, nprobe=8, k=4, candidates=200, **budget)


def test_a_margin_leaves_out_what_is_far_behind_the_kth(isa: str) -> None:
    """With the margin, exactly the passages that approximate scores say are scored."""
    world, Q_LD, k = make_world(passages=300, longest=6, clustered=2.0), make_query(9, 128), 4
    shard, ids_LP, scores_LP = world.native()[1], *world.native()[0].probe(make_query(9, 128), 8)
    pids, scores = shard.approximate(Q_LD, ids_LP, scores_LP)
    kth = np.sort(scores)[-k]
    counts = []
    for margin in (0.0, 0.02, 0.05):
        kept = pids[scores >= kth - margin * np.sqrt(9) - 1e-6]
        wanted = world.native()[1].score(Q_LD, kept)
        order = np.lexsort((kept, -wanted))[:k]
        found = shard.search(Q_LD, ids_LP, scores_LP, k, 299, margin=margin)
        np.testing.assert_array_equal(found[0], kept[order])
        counts.append(len(kept))
    assert k <= counts[0] < counts[1] < counts[2] < len(pids)


@pytest.mark.parametrize("scored", [1, 20, 200])
def test_what_is_scored(isa: str, scored: int) -> None:
    """Precisely the candidates that centroid interaction says, and no more."""
    world, Q_LD, k = make_world(passages=300, longest=6, clustered=2.0), make_query(9, 128), 4
    table, shard = world.native()
    probes = table.probe(Q_LD, 8)
    pids = np.sort(shard.search(Q_LD, *probes, 120, 120)[0])
    scores = shard.interaction(Q_LD, pids)
    kept = pids[np.lexsort((pids, -scores))][: max(scored, k)]
    order = np.lexsort((kept, -shard.score(Q_LD, kept)))[:k]
    found = shard.search(Q_LD, *probes, k, 120, None, 0.0, np.inf, scored)
    np.testing.assert_array_equal(found[0], kept[order])
    assert found[3] == len(kept)
    assert_equal_on_everything(world, Q_LD, k=k, scored=scored, candidates=120)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.1, 1e6])
@pytest.mark.parametrize("k", [1, 4, 50])
def test_scoring_ends_once_little_is_missed(isa: str, k: int, spread: float) -> None:
    """The less may be missed the more is scored; the best k by centroid interaction always are."""
    world, Q_LD = make_world(passages=300, longest=6, clustered=2.0), make_query(9, 128)
    table, shard = world.native()
    probes = table.probe(Q_LD, 8)
    counts = []
    for missed in (1.0, 0.3, 0.1, 0.01, 0.0):
        asked = {"scored": 120, "missed": missed, "spread": spread}
        pids, scores, _, scored = shard.search(Q_LD, *probes, k, 200, **asked)
        counts.append(scored)
        assert_same(scores, shard.score(Q_LD, pids))
        assert_equal_on_everything(world, Q_LD, nprobe=8, k=k, candidates=200, **asked)
    assert k <= counts[0] <= counts[1] <= counts[2] <= counts[3] <= counts[4] == 120
    assert counts[0] < 120


def test_hits_without_precise_scores(isa: str) -> None:
    """Of k candidates as postings rank them, of more as centroid interaction does."""
    world, Q_LD = make_world(passages=300, longest=6, clustered=2.0), make_query(9, 128)
    table, shard = world.native()
    probes = table.probe(Q_LD, 8)
    pids, estimates = shard.approximate(Q_LD, *probes)
    order = np.lexsort((pids, -estimates))[:10]
    found = shard.search(Q_LD, *probes, 10, 10, None, 0.0, np.inf, 0)
    assert_same(found[:2], (pids[order], estimates[order]))
    assert found[3] == 0
    candidates = np.sort(pids[np.lexsort((pids, -estimates))[:40]])
    scores = shard.interaction(Q_LD, candidates)
    order = np.lexsort((candidates, -scores))[:10]
    found = shard.search(Q_LD, *probes, 10, 40, None, 0.0, np.inf, 0)
    assert_same(found[:2], (candidates[order], scores[order]))


@pytest.mark.parametrize("centroids", [2, 40, 3000])
def test_windows_of_a_shard_join_to_the_whole(isa: str, centroids: int) -> None:
    """Lists of any density, from most of the passages to none of a window's."""
    world, Q_LD = make_world(centroids=centroids, passages=2000, longest=4), make_query(5, 128)
    table, shard = world.native()
    for nprobe in (1, 2):
        probes = table.probe(Q_LD, nprobe)
        whole = shard.approximate(Q_LD, *probes)
        for size in (1, 63, 64, 700, 1999):
            cuts = [*range(0, 2000, size), 2000]
            parts = [shard.approximate(Q_LD, *probes, None, *cut) for cut in pairwise(cuts)]
            joined = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
            assert_same(joined, whole)


def test_one_probe_a_token_says_nothing_of_scores(isa: str) -> None:
    """With nothing to be behind of, a margin leaves out nothing."""
    world, Q_LD = make_world(passages=100), make_query(5, 128)
    ids_LP, scores_LP = world.native()[0].probe(Q_LD, 1)
    shard = world.native()[1]
    assert len(np.unique(shard.approximate(Q_LD, ids_LP, scores_LP)[1])) == 1
    found = shard.search(Q_LD, ids_LP, scores_LP, 3, 60, margin=0.0)
    assert_same(found, shard.search(Q_LD, ids_LP, scores_LP, 3, 60))


def test_probes_widen_until_enough_passages_are_touched(isa: str) -> None:
    world = make_world(centroids=300, passages=60, longest=2, seed=5)
    Q_LD = make_query(2, 128)
    ids_LP, scores_LP = world.reference()[0].probe(Q_LD, 1)
    found = world.native()[1].search(Q_LD, ids_LP, scores_LP, 30, 40)
    assert_same(found, world.reference()[1].search(Q_LD, ids_LP, scores_LP, 30, 40))
    assert len(found[0]) == 30
    assert found[2] >= 30


def test_large_shard_selects_by_histogram(isa: str) -> None:
    """More touched passages than the plain selection takes."""
    world = make_world(dim=16, bits=1, centroids=128, passages=9000, longest=4, clustered=3.0)
    Q_LD = make_query(12, 16)
    for candidates in (5, 400):
        ids_LP, scores_LP = world.reference()[0].probe(Q_LD, 20)
        found = world.native()[1].search(Q_LD, ids_LP, scores_LP, 5, candidates)
        assert found[2] > 4 * candidates + 1024
        assert_same(found, world.reference()[1].search(Q_LD, ids_LP, scores_LP, 5, candidates))


def test_many_centroids_and_threads(isa: str) -> None:
    world = make_world(dim=16, centroids=40_000, passages=50)
    Q_LD = make_query(33, 16)
    expected = world.reference()[0].probe(Q_LD, 50)
    for threads in (1, 2, 4):
        assert_same(world.native()[0].probe(Q_LD, 50, threads), expected)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dim=st.integers(1, 18).map(lambda eighth: 8 * eighth),
    bits=st.integers(1, 4),
    centroids=st.integers(1, 40),
    passages=st.integers(1, 30),
    longest=st.integers(1, 40),
    tokens=st.integers(1, 40),
    nprobe=st.integers(1, 50),
    k=st.integers(1, 40),
    candidates=st.integers(1, 40),
    normalize=st.booleans(),
    exact_centroids=st.booleans(),
    share=st.sampled_from([None, 0.1, 0.6]),
    margin=st.sampled_from([0.0, 0.02, 0.1, 1.0, 1e39, np.inf]),
    scored=st.sampled_from([1, 4, 30, 2**63 - 1]),
    missed=st.sampled_from([0.0, 1e-9, 0.01, 0.2, 1.0]),
    spread=st.sampled_from([0.0, 0.001, 0.1, 1e6]),
    seed=st.integers(0, 2**16),
)
def test_anything(
    isa: str,
    dim: int,
    bits: int,
    centroids: int,
    passages: int,
    longest: int,
    tokens: int,
    nprobe: int,
    k: int,
    candidates: int,
    normalize: bool,
    exact_centroids: bool,
    share: float | None,
    margin: float,
    scored: int,
    missed: float,
    spread: float,
    seed: int,
) -> None:
    world = make_world(
        dim=dim,
        bits=bits,
        centroids=centroids,
        passages=passages,
        longest=longest,
        seed=seed,
        normalize=normalize,
        exact_centroids=exact_centroids,
    )
    allowed_N = None
    if share is not None:
        allowed_N = (np.random.default_rng(seed).random(passages) < share).astype(np.uint8)
    assert_equal_on_everything(
        world,
        make_query(tokens, dim, seed),
        nprobe=nprobe,
        k=k,
        candidates=candidates,
        allowed_N=allowed_N,
        margin=margin,
        scored=scored,
        missed=missed,
        spread=spread,
    )


def test_paths_are_chosen_by_name() -> None:
    before = _native.isa()
    assert _native.isas()[-1] == "portable"
    for name in _native.isas():
        _native.use_isa(name)
        assert _native.isa() == name
    with pytest.raises(ValueError, match=r"possible: .*portable"):
        _native.use_isa("mmx")
    _native.use_isa(before)
