"""Token pooling: what is merged, how many vectors are left, and what of it an index shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import clustered, unit

from colbert_core import Index
from colbert_core.errors import InvalidInput
from colbert_core.index import describe, read_current, verify
from colbert_core.pooling import MAX_POOL_FACTOR, RUN, pool_passages, pooled_doclens
from colbert_core.types import F32


def pool(tokens_TD: F32, factor: int, *doclens: int) -> F32:
    doclens_N = np.array(doclens or [len(tokens_TD)], np.int32)
    return pool_passages(tokens_TD, doclens_N, factor)


def pairs(rng: np.random.Generator, count: int, dim: int = 32) -> F32:
    """Tokens that come in pairs of nearly the same vector, the pairs shuffled."""
    first = unit(rng, count, dim)
    both = np.concatenate([first, first + 0.05 * unit(rng, count, dim)])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both[rng.permutation(2 * count)]


def test_what_is_alike_becomes_its_mean_where_its_first_token_stood() -> None:
    rng = np.random.default_rng(0)
    tokens_TD = pairs(rng, 10)
    partner_T = np.argsort(-(tokens_TD @ tokens_TD.T), axis=1)[:, 1]
    firsts = [token for token, partner in enumerate(partner_T) if token < partner]
    means_PD = tokens_TD[firsts] + tokens_TD[partner_T[firsts]]
    means_PD /= np.linalg.norm(means_PD, axis=1, keepdims=True)
    marker_1D = unit(rng, 1, 32)
    pooled_PD = pool(np.concatenate([marker_1D, tokens_TD]), 2)
    np.testing.assert_allclose(pooled_PD, np.concatenate([marker_1D, means_PD]), atol=1e-6)


def test_the_first_token_is_not_merged_unless_it_must_be() -> None:
    tokens_TD = np.repeat(unit(np.random.default_rng(0), 2, 16), 6, axis=0)
    tokens_TD[0] = -tokens_TD[1]
    pooled_PD = pool(tokens_TD, 6)
    np.testing.assert_array_equal(pooled_PD[0], tokens_TD[0])
    assert len(pooled_PD) == 2
    mean_D = tokens_TD.sum(0) / np.linalg.norm(tokens_TD.sum(0))
    np.testing.assert_allclose(pool(tokens_TD, 12), mean_D[None], atol=1e-6)


def ward(tokens_TD: F32, clusters: int) -> list[set[int]]:
    """Ward's clustering as the textbook has it: merge what adds least to the squared error."""
    groups = [[token] for token in range(len(tokens_TD))]

    def error(group: list[int]) -> float:
        wide = tokens_TD[group].astype(np.float64)
        return float(((wide - wide.mean(0)) ** 2).sum())

    while len(groups) > clusters:
        choices = [
            (error(a + b) - error(a) - error(b), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups[:i])
        ]
        _, i, j = min(choices)
        groups[j] += groups.pop(i)
    return [set(group) for group in groups]


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_clusters_are_those_of_ward(factor: int) -> None:
    tokens_TD = np.concatenate(clustered(4, 16))[:25]
    others_TD = tokens_TD[1:]
    groups = ward(others_TD, -(-25 // factor) - 1)
    expected = [others_TD[sorted(group)].sum(0) for group in groups]
    pooled_PD = pool(tokens_TD, factor)
    assert len(pooled_PD) == len(expected) + 1
    for mean_D in expected:
        nearest = (pooled_PD @ (mean_D / np.linalg.norm(mean_D))).max()
        assert nearest == pytest.approx(1, abs=1e-5)


@settings(max_examples=60)
@given(
    doclens=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    factor=st.integers(1, MAX_POOL_FACTOR),
    seed=st.integers(0, 1000),
    kinds=st.integers(1, 50),
)
def test_any_passages(doclens: list[int], factor: int, seed: int, kinds: int) -> None:
    """Counts are exact, ties or not (`kinds` different vectors); a passage's result is its own."""
    rng = np.random.default_rng(seed)
    tokens_TD = unit(rng, kinds, 8)[rng.integers(0, kinds, sum(doclens))]
    pooled_PD = pool(tokens_TD, factor, *doclens)
    pooled_N = pooled_doclens(np.array(doclens, np.int32), factor)
    assert pooled_N.tolist() == [-(-doclen // factor) for doclen in doclens]
    assert pooled_PD.shape == (pooled_N.sum(), 8)
    assert pooled_PD.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(pooled_PD, axis=1), 1, atol=1e-5)
    ends_N = np.cumsum(doclens)
    alone = [pool(part, factor) for part in np.split(tokens_TD, ends_N[:-1])]
    np.testing.assert_array_equal(pooled_PD, np.concatenate(alone))
    if factor == 1:
        np.testing.assert_array_equal(pooled_PD, tokens_TD)


def test_identical_and_single_tokens() -> None:
    (token_1D,) = unit(np.random.default_rng(0), 1, 16)[None]
    np.testing.assert_array_equal(pool(token_1D, 16), token_1D)
    pooled_PD = pool(np.repeat(token_1D, 10, axis=0), 3)
    np.testing.assert_allclose(pooled_PD, np.repeat(token_1D, 4, axis=0), atol=1e-6)


def test_opposite_tokens_leave_a_unit_vector() -> None:
    one_1D = unit(np.random.default_rng(0), 1, 16)
    np.testing.assert_array_equal(pool(np.concatenate([one_1D, -one_1D]), 2), one_1D)


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_passages_longer_than_a_run_keep_the_count(factor: int) -> None:
    tokens_TD = unit(np.random.default_rng(0), 2 * RUN + 101, 8)
    assert len(pool(tokens_TD, factor)) == -(-len(tokens_TD) // factor)


@pytest.fixture(scope="module")
def vectors() -> list[F32]:
    rng = np.random.default_rng(1)
    return [pairs(rng, int(rng.integers(1, 9)))[: int(rng.integers(1, 17))] for _ in range(500)]


@pytest.fixture(scope="module")
def pooled(vectors: list[F32], tmp_path_factory: pytest.TempPathFactory) -> Index:
    """From vectors that can be read only once."""
    path = tmp_path_factory.mktemp("pooled") / "ix"
    return Index.build(path, iter(vectors), bits=4, shards=3, pool_factor=2)


def doclens_of(index: Index) -> list[int]:
    return [
        int(shard.offsets[pid + 1] - shard.offsets[pid])
        for shard in index.generation.shards
        for pid in range(shard.passages)
    ]


def test_an_index_of_half_the_vectors_finds_the_same(pooled: Index, vectors: list[F32]) -> None:
    assert doclens_of(pooled) == [-(-len(passage) // 2) for passage in vectors]
    for number in (0, 123, 499):
        assert pooled.search(vectors[number], k=1)[0].id == str(number)
    verify(pooled.generation.path)


def test_the_manifest_and_inspect_say_so(pooled: Index) -> None:
    manifest = read_current(pooled.generation.path)
    assert manifest.pool_factor == 2
    assert describe(manifest)["pool_factor"] == 2


def test_explain_counts_pooled_vectors_and_names_no_text(pooled: Index, vectors: list[F32]) -> None:
    (hit,) = pooled.search(vectors[7], k=1, explain=True)
    assert hit.id == "7"
    assert max(match.passage_token_index for match in hit.matches) < -(-len(vectors[7]) // 2)
    assert {(match.start, match.end) for match in hit.matches} == {(-1, -1)}


def stored_tokens(index: Index) -> list[bytes]:
    """All tokens as stored, whatever shards they lie in."""
    shards = index.generation.shards
    return [
        np.concatenate([shard.codes.read(0, shard.tokens) for shard in shards]).tobytes(),
        np.concatenate([shard.arrays.residuals for shard in shards]).tobytes(),
        np.concatenate([shard.arrays.scales for shard in shards]).tobytes(),
    ]


def test_shards_and_the_kind_of_source_change_no_token(
    pooled: Index, vectors: list[F32], tmp_path: Path
) -> None:
    doclens = [len(passage) for passage in vectors]
    whole = [np.float16(passage) for passage in vectors]  # what a spool keeps of an iterator
    matrix = np.concatenate(whole)
    options = {"bits": 4, "pool_factor": 2, "normalize": False}
    listed = Index.build(tmp_path / "listed", whole, shards=1, **options)
    joined = Index.build(tmp_path / "joined", matrix, doclens=doclens, shards=5, **options)
    assert stored_tokens(pooled) == stored_tokens(listed) == stored_tokens(joined)


def test_a_factor_of_1_changes_no_byte(tmp_path: Path) -> None:
    passages = clustered(60, 16)
    one = Index.build(tmp_path / "one", passages, pool_factor=1)
    none = Index.build(tmp_path / "none", passages)
    assert one.manifest.pool_factor == none.manifest.pool_factor == 1

    def checksums(index: Index) -> list[str]:
        return [entry.sha256 for _, entry in sorted(index.manifest.files.items())]

    assert checksums(one) == checksums(none)


@pytest.mark.parametrize("factor", [0, -2, MAX_POOL_FACTOR + 1])
def test_an_impossible_factor_is_refused(factor: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"pool_factor is {factor}; give 1 .* to 16"):
        Index.build(tmp_path / "ix", clustered(20, 16), pool_factor=factor)
    assert not (tmp_path / "ix").exists()
