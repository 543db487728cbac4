"""The torch kernels equal the native ones: bit for bit, but for `colbertv2`, whose float products
are summed in another order. On a GPU where there is one, else on torch's CPU device."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import World, level_grid, make_query, make_world
from test_against_reference import assert_same

from colbert_core.errors import InvalidInput
from colbert_core.reference.choosing import MOST
from colbert_core.runs import runs
from colbert_core.torch_kernels import TorchShard, TorchTable, open_device
from colbert_core.torch_kernels import device as devices
from colbert_core.torch_kernels.arrays import load_arrays
from colbert_core.torch_kernels.combine import Combiner
from colbert_core.torch_kernels.device import BUDGET
from colbert_core.torch_kernels.queries import make_batch
from colbert_core.torch_kernels.scoring import interact
from colbert_core.torch_kernels.select import best_pairs
from colbert_core.types import AnyArray

DEVICE = "cuda" if torch.cuda.is_available() else "torch:cpu"

TINY_BUDGET = 1 << 12
"""Every chunk is then one passage, one query token or one posting list."""


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Arrays of these sizes are not worth torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_torch(world: World, budget: int = BUDGET) -> tuple[TorchTable, TorchShard]:
    key = f"torch {budget}"
    if key not in world.made:
        table = TorchTable(world.centroids_CD, world.centroid_scales_C, open_device(DEVICE))
        shard = TorchShard(
            table,
            world.native()[1],
            world.codes,
            world.residuals_TB,
            world.scales_T,
            world.contexts_NX,
            world.offsets,
            world.bits,
            world.levels,
            world.alpha,
            world.beta,
            world.centroids_f32,
            world.normalize,
            budget,
        )
        world.made[key] = table, shard
    return world.made[key]


def assert_equal_to_native(
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
    budget: int = BUDGET,
) -> None:
    (table, shard), (native_table, native) = on_torch(world, budget), world.native()
    probes = native_table.probe(Q_LD, nprobe)
    assert_same(table.probe(Q_LD, nprobe), probes)
    for most, precise in ((candidates, scored), (k, 0), (10_000, 0), (10_000, MOST)):
        limits = margin, precise, missed, spread
        asked = (Q_LD, *probes, k, most, allowed_N, 0.0, *limits)
        assert_same(shard.search(*asked), native.search(*asked))
    assert_same(shard.exhaustive(Q_LD, k, allowed_N), native.exhaustive(Q_LD, k, allowed_N))
    pids = np.arange(world.passages - 1, -1, -1)[:5]
    assert_same(shard.score(Q_LD, pids), native.score(Q_LD, pids))
    assert_same(shard.interaction(Q_LD, pids), native.interaction(Q_LD, pids))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [8, 40, 128, 384, 1024])
def test_every_width_and_dimension(dim: int, bits: int) -> None:
    world = make_world(dim=dim, bits=bits, passages=70, longest=6, seed=dim + bits)
    assert_equal_to_native(world, make_query(9, dim))


@pytest.mark.parametrize("tokens", [1, 2, 31, 33, 200])
def test_every_length_of_a_query(tokens: int) -> None:
    world = make_world(dim=24, passages=120, longest=30, seed=tokens)
    assert_equal_to_native(world, make_query(tokens, 24), candidates=60)


@pytest.mark.parametrize("passages", [1, 2, 3])
@pytest.mark.parametrize("longest", [1, 2])
def test_tiny_shards(passages: int, longest: int) -> None:
    world = make_world(dim=32, passages=passages, longest=longest, centroids=3)
    for tokens in (1, 5):
        assert_equal_to_native(world, make_query(tokens, 32), nprobe=2, candidates=1, k=1)
        assert_equal_to_native(world, make_query(tokens, 32), k=50, candidates=1)


def test_empty_shard() -> None:
    world, Q_LD = make_world(dim=16, passages=0), make_query(3, 16)
    assert_equal_to_native(world, Q_LD)
    assert len(on_torch(world)[1].search(Q_LD, *world.native()[0].probe(Q_LD, 4), 5, 5)[0]) == 0


@pytest.mark.parametrize("nprobe", [1, 2, 64, 1000])
@pytest.mark.parametrize("clustered", [1.0, 3.0])
def test_few_and_many_probes(nprobe: int, clustered: float) -> None:
    world = make_world(clustered=clustered, passages=90)
    assert_equal_to_native(world, make_query(5, 128), nprobe=nprobe, candidates=20)


@pytest.mark.parametrize(("k", "candidates"), [(1, 1), (5, 30), (39, 39), (40, 1), (10_000, 1)])
def test_k_and_candidates(k: int, candidates: int) -> None:
    assert_equal_to_native(make_world(), make_query(20, 128), k=k, candidates=candidates)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_allowed_passages(share: float) -> None:
    world = make_world(dim=24, passages=200, longest=5)
    allowed_N = (np.random.default_rng(3).random(200) < share).astype(np.uint8) * 7
    for candidates in (1, 25, 100):
        assert_equal_to_native(
            world, make_query(6, 24), k=4, candidates=candidates, allowed_N=allowed_N
        )


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05, 0.2, 1e30])
def test_margin(margin: float) -> None:
    world = make_world(passages=300, longest=6, clustered=2.0)
    for k, candidates in ((4, 200), (1, 300)):
        assert_equal_to_native(
            world, make_query(9, 128), nprobe=8, k=k, candidates=candidates, margin=margin
        )


@pytest.mark.parametrize("missed", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("scored", [1, 20, 200])
def test_what_is_scored(scored: int, missed: float) -> None:
    world = make_world(passages=300, longest=6, clustered=2.0)
    assert_equal_to_native(
        world,
        make_query(9, 128),
        nprobe=8,
        k=4,
        candidates=120,
        scored=scored,
        missed=missed,
    )


def test_probes_widen_until_enough_passages_are_touched() -> None:
    world = make_world(centroids=300, passages=60, longest=2, seed=5)
    Q_LD = make_query(2, 128)
    probes = world.native()[0].probe(Q_LD, 1)
    for budget in (BUDGET, TINY_BUDGET):
        found = on_torch(world, budget)[1].search(Q_LD, *probes, 30, 40)
        assert_same(found, world.native()[1].search(Q_LD, *probes, 30, 40))
        assert found[2] >= 30


def test_work_is_cut_to_any_budget() -> None:
    world = make_world(dim=40, passages=150, longest=9, seed=2)
    assert_equal_to_native(world, make_query(7, 40), candidates=100, budget=TINY_BUDGET)
    assert_equal_to_native(
        world, make_query(7, 40), candidates=149, margin=0.05, budget=TINY_BUDGET
    )


@pytest.mark.parametrize("centroid", [-128, 127])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_products_are_exact(centroid: int, sign: int) -> None:
    """1024 · 128 · 127 in one sum, of products of one sign."""
    world = make_world(dim=1024, bits=4)
    world = world.but(
        centroids_CD=np.full_like(world.centroids_CD, centroid),
        levels=level_grid(np.linspace(127, -127, 64).round(), 0.01),
        residuals_TB=np.where(world.scales_T[:, None] % 2 == 0, 0, 255).astype(np.uint8)
        * np.ones((1, 512), np.uint8),
    )
    assert_equal_to_native(world, np.full((17, 1024), sign, np.float32))


def test_ties_go_to_the_smaller_id() -> None:
    world = make_world(passages=90)
    world = world.but(
        centroids_CD=np.repeat(world.centroids_CD[:1], 64, axis=0),
        centroid_scales_C=np.full_like(world.centroid_scales_C, 0.01),
        residuals_TB=np.zeros_like(world.residuals_TB),
        scales_T=np.zeros_like(world.scales_T),
        contexts_NX=np.repeat(world.contexts_NX[:1], 90, axis=0),
    )
    assert_equal_to_native(world, make_query(5, 128), candidates=80)
    pids, _, _, _ = on_torch(world)[1].exhaustive(make_query(5, 128), 50)
    np.testing.assert_array_equal(pids, np.arange(50))


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e6])
def test_tiny_and_huge_queries(scale: float) -> None:
    Q_LD = make_query(5, 128)
    Q_LD = (Q_LD / np.abs(Q_LD).max() * np.float64(scale)).astype(np.float32)
    assert_equal_to_native(make_world(passages=80), Q_LD, candidates=70)
    Q_LD[1:3] = 0
    assert_equal_to_native(make_world(passages=80), Q_LD, candidates=70)


@settings(max_examples=40)
@given(
    dim=st.sampled_from([8, 16, 72]),
    bits=st.integers(1, 4),
    centroids=st.integers(1, 90),
    passages=st.integers(1, 160),
    longest=st.integers(1, 12),
    tokens=st.integers(1, 40),
    nprobe=st.integers(1, 20),
    k=st.integers(1, 30),
    candidates=st.integers(1, 200),
    share=st.none() | st.floats(0, 1),
    margin=st.just(np.inf) | st.floats(0, 0.3),
    scored=st.sampled_from([0, 1, 4, 30, MOST]),
    missed=st.just(0.0) | st.floats(0, 1),
    spread=st.floats(0, 0.3),
    tight=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_shard_and_query(
    dim: int,
    bits: int,
    centroids: int,
    passages: int,
    longest: int,
    tokens: int,
    nprobe: int,
    k: int,
    candidates: int,
    share: float | None,
    margin: float,
    scored: int,
    missed: float,
    spread: float,
    tight: bool,
    seed: int,
) -> None:
    world = make_world(
        dim=dim, bits=bits, centroids=centroids, passages=passages, longest=longest, seed=seed
    )
    allowed_N = None
    if share is not None:
        allowed_N = (np.random.default_rng(seed).random(passages) < share).astype(np.uint8)
    assert_equal_to_native(
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
        budget=TINY_BUDGET * 16 if tight else BUDGET,
    )


def in_one_batch(
    shard: TorchShard, queries: list[Any], k: int, candidates: int, deadline_s: float, *limits: Any
) -> list[Any]:
    """What calls that arrive together get, without the threads."""
    effort = shard._effort(k, candidates, *limits)
    asked = [shard._query(Q_LD, probes, effort, None, deadline_s) for Q_LD, *probes in queries]
    return shard._stages.run(asked)


@pytest.mark.parametrize("budget", [BUDGET, 1 << 16])
@pytest.mark.parametrize(
    "limits",
    [(np.inf, MOST, 0.0, 0.0), (0.05, 40, 0.0, 0.0), (0.1, 90, 0.05, 0.1), (0.1, 0, 0.0, 0.0)],
)
def test_a_batch_is_its_queries_one_by_one(budget: int, limits: Any) -> None:
    """Of many lengths and widths of probes; some need wider probes, some need no sifting."""
    world = make_world(dim=40, centroids=100, passages=250, longest=8, clustered=1.5)
    table, native = world.native()
    queries = []
    for i, tokens in enumerate((1, 32, 3, 64, 5, 1, 17)):
        Q_LD = make_query(tokens, 40, seed=i)
        queries.append((Q_LD, *table.probe(Q_LD, 1 + i % 4)))
    found = in_one_batch(on_torch(world, budget)[1], queries, 20, 150, 0.0, *limits)
    assert len(found) == len(queries)
    for query, ours in zip(queries, found, strict=True):
        assert_same(ours, native.search(*query, 20, 150, None, 0.0, *limits))


def test_calls_of_many_threads_get_their_own_answers() -> None:
    world = make_world(dim=24, passages=200, longest=6)
    (table, native), shard = world.native(), on_torch(world)[1]
    asked = []
    for i in range(60):
        Q_LD = make_query(1 + i % 9, 24, seed=i)
        probes = table.probe(Q_LD, 3)
        allowed_N = np.ones(200, np.uint8) if i % 5 == 0 else None
        asked.append((Q_LD, *probes, 1 + i % 3, 40, allowed_N))
    with ThreadPoolExecutor(8) as threads:
        for found, args in zip(threads.map(lambda a: shard.search(*a), asked), asked, strict=True):
            assert_same(found, native.search(*args))


def test_waiting_calls_make_one_batch() -> None:
    """Four calls come while a first one runs: two batches in all, and an error reaches each."""
    batches: list[list[int]] = []
    threads = ThreadPoolExecutor(5)

    def run(asked: Any) -> list[int]:
        batches.append(list(asked))
        if len(batches) == 1:
            others.extend(threads.submit(combine, "key", n) for n in range(1, 5))
            while len(combine._waiting) < 4:
                time.sleep(0.001)
        if 4 in asked:
            raise TimeoutError("late")
        return [10 * one for one in asked]

    others: list[Any] = []
    combine: Combiner[int, int] = Combiner(run, 64)
    assert combine("key", 0) == 0
    for future in others:
        with pytest.raises(TimeoutError, match="late"):
            future.result()
    assert [sorted(batch) for batch in batches] == [[0], [1, 2, 3, 4]]
    assert combine("key", 7) == 70


@pytest.mark.parametrize("exact_centroids", [False, True])
@pytest.mark.parametrize("dim", [8, 128, 384])
def test_colbertv2_scores_to_the_rounding_of_its_products(dim: int, exact_centroids: bool) -> None:
    world = make_world(
        dim=dim, passages=150, planes=True, normalize=True, exact_centroids=exact_centroids
    )
    shard, (table, native) = on_torch(world)[1], world.native()
    Q_LD = make_query(32, dim)
    probes = table.probe(Q_LD, 4)
    found = shard.search(Q_LD, *probes, 10, 100, scored=50)
    expected = native.search(Q_LD, *probes, 10, 100, scored=50)
    assert found[2:] == expected[2:]
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-6, atol=5e-7)
    np.testing.assert_allclose(native.score(Q_LD, found[0]), found[1], rtol=2e-6, atol=5e-7)
    every = np.arange(150)
    np.testing.assert_allclose(
        shard.score(Q_LD, every), native.score(Q_LD, every), rtol=2e-6, atol=5e-7
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("planes", [False, True])
def test_float_scores_of_every_packing(planes: bool, bits: int) -> None:
    """Levels that lie on no grid, named by windows of a trellis or by planes."""
    world = make_world(dim=40, bits=bits, passages=30, planes=planes, on_grid=False)
    Q_LD, every = make_query(9, 40), np.arange(30)
    ours, theirs = on_torch(world)[1].score(Q_LD, every), world.native()[1].score(Q_LD, every)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=5e-7)


def test_explanations_are_the_native_ones() -> None:
    world, Q_LD = make_world(), make_query(5, 128)
    assert_same(on_torch(world)[1].match(Q_LD, 7), world.native()[1].match(Q_LD, 7))
    assert_same(on_torch(world)[1].decode(2, 5), world.native()[1].decode(2, 5))
    probes = world.native()[0].probe(Q_LD, 2)
    shard, native = on_torch(world)[1], world.native()[1]
    assert_same(shard.approximate(Q_LD, *probes), native.approximate(Q_LD, *probes))


def test_a_passed_deadline_ends_a_search() -> None:
    world, Q_LD = make_world(passages=100), make_query(4, 128)
    probes, shard = world.native()[0].probe(Q_LD, 2), on_torch(world)[1]
    late, soon = time.monotonic() - 1, time.monotonic() + 600
    with pytest.raises(TimeoutError, match="deadline"):
        shard.search(Q_LD, *probes, 3, 8, None, late)
    with pytest.raises(TimeoutError, match="candidates"):
        in_one_batch(shard, [(Q_LD, *probes)], 3, 8, late, np.inf, MOST, 0.0, 0.0)
    with pytest.raises(TimeoutError, match="deadline"):
        shard.exhaustive(Q_LD, 3, None, late)
    native = world.native()[1]
    assert_same(shard.search(Q_LD, *probes, 3, 8, None, soon), native.search(Q_LD, *probes, 3, 8))


def test_bad_arguments_are_refused_in_the_native_words() -> None:
    world, Q_LD = make_world(), make_query(4, 128)
    probes, shard, native = world.native()[0].probe(Q_LD, 2), on_torch(world)[1], world.native()[1]
    for asked in (
        (Q_LD[:, :64].copy(), *probes, 3, 8),
        (Q_LD, probes[0] + 1000, probes[1], 3, 8),
        (Q_LD, *probes, 0, 8),
        (Q_LD, *probes, 3, 0),
        (Q_LD, *probes, 3, 8, np.ones(3, np.uint8)),
        (Q_LD, *probes, 3, 8, None, 0.0, -1.0),
        (Q_LD, *probes, 3, 8, None, 0.0, float("nan")),
        (Q_LD, *probes, 3, 8, None, 0.0, 0.0, -1),
        (Q_LD, *probes, 3, 8, None, 0.0, 0.0, 9, -0.5),
    ):
        with pytest.raises(ValueError) as ours:
            shard.search(*asked)
        with pytest.raises(ValueError) as theirs:
            native.search(*asked)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(ValueError, match="passage 40 is not one of 40"):
        shard.score(Q_LD, np.array([40]))


def test_what_cannot_be_in_a_shard_is_found_when_it_is_loaded() -> None:
    world, device = make_world(centroids=60, passages=40), open_device(DEVICE)
    rest = world.residuals_TB, world.scales_T, world.contexts_NX
    with pytest.raises(ValueError, match=r"centroid 63 of 60"):
        load_arrays(40, 60, np.full_like(world.codes, 255), *rest, world.offsets, device)
    with pytest.raises(ValueError, match="has no tokens"):
        load_arrays(40, 60, world.codes, *rest, np.zeros_like(world.offsets), device)


@pytest.mark.parametrize("name", ["gpu", "torch:cuda", "cuda:x", "cuda:99", ""])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="device"):
        open_device(name)


def test_a_device_that_rounds_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 keeps 10 bits of mantissa: matrices are rounded as it would."""
    exact = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        bits = a.view(torch.int32) + (1 << 12)
        return exact((bits & ~((1 << 13) - 1)).view(torch.float32), b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with pytest.raises(InvalidInput, match="set_float32_matmul_precision"):
        devices.check_arithmetic(torch.device("cpu"))


def test_runs_cover_everything_within_their_limit() -> None:
    sizes = np.random.default_rng(0).integers(0, 50, 200)
    cuts = list(runs(sizes, 60))
    assert [a for a, _ in cuts] == [0, *(b for _, b in cuts[:-1])]
    assert cuts[-1][1] == 200
    assert all(sizes[a:b].sum() <= 60 for a, b in cuts)
    assert list(runs(np.array([99, 1, 99]), 10)) == [(0, 1), (1, 2), (2, 3)]
    assert list(runs(sizes[:0], 10)) == []


@pytest.mark.parametrize("dim", [8, 128, 1024])
def test_centroid_interaction_gives_the_scores_of_the_reference(dim: int) -> None:
    world = make_world(dim=dim, passages=60, longest=30)
    (table, shard), reference = on_torch(world), world.reference()[1]
    queries = [make_query(tokens, dim, seed=tokens) for tokens in (1, 9, 32)]
    batch = make_batch(queries, table.longest, table.device)
    pids_BK = torch.tensor(np.tile(np.arange(59, -1, -1), (3, 1)), device=table.device)
    for budget in (BUDGET, TINY_BUDGET):
        contexts = shard._precise.contexts
        scores_BK = interact(table, shard.arrays, batch, pids_BK, contexts, budget, 0.0).cpu()
        for Q_LD, scores_K in zip(queries, scores_BK, strict=True):
            assert_same(scores_K.numpy(), reference._interact(Q_LD, np.arange(59, -1, -1), 0.0))


def test_the_best_of_floats_of_every_kind() -> None:
    """Both zeros are equal, passage -1 is none, and ids may use all their 32 bits."""
    scores = [3e38, 1.5, 1.5, 1e-45, 0.0, -0.0, 0.0, -1e-45, -2.0, -3e38, 9.0]
    pids = [2**32 - 1, 7, 2**31, 3, 6, 5, 4, 1, 0, 2, -1]
    best, best_scores = best_pairs(torch.tensor([pids]), torch.tensor([scores]), 20)
    assert best[0].tolist() == [2**32 - 1, 7, 2**31, 3, 4, 5, 6, 1, 0, 2, -1]
    assert_same(best_scores[0, :10].numpy(), np.float32(sorted(scores[:10], reverse=True)))
