"""Searching in one process: against plain numpy over the decoded vectors, and its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_core import Index
from colbert_core.errors import CorpusError, IndexExists, InvalidInput, QueryError
from colbert_core.search import merge
from colbert_core.types import F32, ShardTopK


def unit(rng: np.random.Generator, rows: int, dim: int) -> F32:
    x = rng.standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered(count: int, dim: int, seed: int = 0) -> list[F32]:
    """Passages around topics, so that some are near a query and most are not."""
    rng = np.random.default_rng(seed)
    topics = unit(rng, 12, dim)
    made = []
    for number in range(count):
        x = topics[number % 12] + 0.9 * unit(rng, int(rng.integers(1, 20)), dim)
        made.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return made


def truth(index: Index, query: F32) -> list[tuple[str, float]]:
    """Exact MaxSim over the decoded vectors, in numpy, best first."""
    scored = []
    for shard in index.generation.shards:
        decoded = shard.codec.decode(*shard.compressed(0, shard.passages))
        for pid in range(shard.passages):
            first, last = shard.offsets[pid], shard.offsets[pid + 1]
            scored.append((shard.id(pid), float((decoded[first:last] @ query.T).max(0).sum())))
    return sorted(scored, key=lambda one: -one[1])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(tmp_path_factory.mktemp("search") / "ix", clustered(400, 64), shards=4)


@pytest.mark.parametrize("codec", ["tartan", "colbertv2"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_exhaustive_search_is_maxsim_over_decoded_vectors(
    codec: str, bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("exact") / "ix"
    vectors = clustered(150, 32)
    index = Index.build(path, vectors, codec=codec, bits=bits, shards=2)
    for number in (0, 7, 70):
        hits = index.search(vectors[number], k=20, exact=True)
        want = truth(index, vectors[number])
        np.testing.assert_allclose([h.score for h in hits], [s for _, s in want[:20]], atol=1e-4)


def test_the_default_setting_finds_what_exhaustive_search_finds(index: Index) -> None:
    shares = []
    for number, query in enumerate(clustered(400, 64)):
        if number % 10:
            continue
        found = {hit.id for hit in index.search(query)}
        exact = {hit.id for hit in index.search(query, exact=True)}
        shares.append(len(found & exact) / 10)
    assert np.mean(shares) >= 0.98


def test_one_shard_and_four_give_the_same_scores(index: Index, tmp_path: object) -> None:
    whole = Index.build(f"{tmp_path}/one", clustered(400, 64), shards=1)
    query = clustered(400, 64)[33][:5]
    one, four = (i.search(query, k=30, exact=True) for i in (whole, index))
    assert [hit.id for hit in one] == [hit.id for hit in four]
    np.testing.assert_allclose([h.score for h in one], [h.score for h in four], atol=1e-5)


@pytest.mark.parametrize("k", [1, 10, 399, 400, 401, 10_000])
def test_there_are_min_k_and_all_hits_each_once(index: Index, k: int) -> None:
    hits = index.search(clustered(400, 64)[0], k=k)
    assert len({hit.id for hit in hits}) == len(hits) == min(k, 400)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_ties_fall_in_the_order_of_the_corpus(tmp_path: object) -> None:
    same = clustered(1, 16)[0]
    index = Index.build(f"{tmp_path}/ix", [same] * 30, shards=3)
    for options in ({}, {"exact": True}):
        assert [hit.id for hit in index.search(same, k=12, **options)] == [
            str(number) for number in range(12)
        ]


def test_filters_keep_what_they_name(index: Index) -> None:
    query = clustered(400, 64)[5]
    everything = [hit.id for hit in index.search(query, k=400)]
    for wanted in ({"3"}, {"5", "17", "399"}, set(everything[200:]), {"5", "nobody"}):
        best = [one for one in everything if one in wanted][:10]
        hits = index.search(query, k=10, filter=wanted, exact=True)
        assert [hit.id for hit in hits] == best
        found = [hit.id for hit in index.search(query, k=10, filter=wanted)]
        assert len(found) == len(best)
        assert found == [one for one in everything if one in found]
        assert set(found) <= wanted
    assert index.search(query, filter=[]) == []


def test_search_many_gives_what_search_gives(index: Index) -> None:
    queries = clustered(400, 64)[:40]
    assert index.search_many(queries, k=5, threads=4) == [index.search(q, k=5) for q in queries]


def test_explain_names_the_best_passage_token_of_each_query_token(index: Index) -> None:
    query = clustered(400, 64)[8]
    hit = index.search(query, k=1, explain=True)[0]
    assert hit.id == "8"
    assert [match.passage_token_index for match in hit.matches] == list(range(len(query)))
    assert sum(match.score for match in hit.matches) == pytest.approx(hit.score, abs=1e-4)
    assert index.search(query, k=1)[0].matches == ()


@pytest.mark.parametrize("shape", [(1, 64), (33, 64), (1024, 64)])
def test_queries_may_have_1_to_1024_tokens(index: Index, shape: tuple[int, int]) -> None:
    query = unit(np.random.default_rng(0), *shape)
    hits, exact = (index.search(query, k=3, exact=exact) for exact in (False, True))
    assert hits[0].score <= exact[0].score + 1e-4
    assert exact[0].score == pytest.approx(truth(index, query)[0][1], rel=1e-4)


@pytest.mark.parametrize("dim", [8, 96, 1024])
@pytest.mark.parametrize("count", [1, 2])
def test_tiny_indexes_of_any_dimension(dim: int, count: int, tmp_path: object) -> None:
    vectors = [unit(np.random.default_rng(n), 1, dim) for n in range(count)]
    index = Index.build(f"{tmp_path}/ix", vectors)
    assert index.search(vectors[-1], k=5)[0].id == str(count - 1)
    assert len(index.search(vectors[0], k=5)) == count


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.zeros((0, 64)), "has 0 tokens; give 1 to 1,024"),
        (np.zeros((1025, 64)), "has 1025 tokens"),
        (np.zeros((2, 63)), "63 dimensions and the index has 64"),
        (np.full((2, 64), np.nan), "query token 0 holds NaN"),
        (np.full((2, 64), np.inf), "query token 0 holds NaN or infinity"),
        (np.full((2, 64), 2e4), "query token 0 holds 20000, beyond 10000"),
        (np.zeros(64), r"shape \(64,\)"),
        ([["a"]], "not an array of numbers"),
        ("text", "knows no model"),
        ("  ", "the query is empty"),
    ],
)
def test_impossible_queries_are_refused(index: Index, query: object, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(query)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; ask for 1 to 10,000"),
        ({"k": 10_001}, "k is 10001"),
        ({"k": 2.5}, "k is 2.5"),
        ({"k": True}, "k is True"),
        ({"recall": 0.0}, "recall is 0.0"),
        ({"recall": 1.5}, "recall is 1.5"),
        ({"recall": float("nan")}, "recall is nan"),
        ({"nprobe": 0}, "nprobe is 0"),
        ({"candidates": -1}, "candidates is -1"),
    ],
)
def test_impossible_parameters_are_refused(
    index: Index, options: dict[str, object], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(clustered(1, 64)[0], **options)  # type: ignore[arg-type]


def test_a_deadline_that_is_over_ends_the_search(index: Index) -> None:
    with pytest.raises(TimeoutError):
        index.search(clustered(1, 64)[0], timeout_s=1e-9)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0, 2.0])), max_size=6),
        max_size=5,
    ),
    st.integers(1, 12),
)
def test_merge_is_a_sort_of_everything(parts: list[list[tuple[int, float]]], k: int) -> None:
    parts = [sorted(part, key=lambda one: (-one[1], one[0])) for part in parts]
    shards = [
        ShardTopK(
            np.array([pid for pid, _ in part], np.int64),
            np.array([score for _, score in part], np.float32),
            0,
            0,
        )
        for part in parts
    ]
    everything = [(i, pid, score) for i, part in enumerate(parts) for pid, score in part]
    want = sorted(everything, key=lambda one: (-one[2], one[0], one[1]))[:k]
    assert merge(shards, k).located() == want


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        ({"embeddings": []}, CorpusError, "no passages"),
        ({"embeddings": iter([])}, CorpusError, "no passages"),
        ({"ids": ["a", "b", "a"]}, CorpusError, "'a' is given twice: to passages 0 and 2"),
        ({"ids": ["a", "", "c"]}, CorpusError, "id '' of passage 1"),
        ({"ids": ["a"]}, InvalidInput, "1 ids do not fit 3 passages"),
        ({"texts": ["a"]}, InvalidInput, "1 texts do not fit 3 passages"),
        ({"bits": 0}, InvalidInput, "bits is 0"),
        ({"codec": "x"}, InvalidInput, "codec 'x' is unknown"),
        ({"shards": 0}, InvalidInput, "shards is 0"),
        ({"centroids": 0}, InvalidInput, "centroids is 0"),
        ({"embeddings": [np.ones((2, 64))]}, CorpusError, "token 0: the vector's length is 8"),
        ({"embeddings": [np.ones((0, 64))]}, CorpusError, r"passage 0 has shape \(0, 64\)"),
        ({"embeddings": [np.ones(64)]}, CorpusError, r"passage 0 has shape \(64,\)"),
        ({"embeddings": [np.ones((1, 12))], "normalize": True}, InvalidInput, "12 dimensions"),
    ],
)
def test_impossible_builds_are_refused(
    build: dict[str, object], error: type[Exception], message: str, tmp_path: object
) -> None:
    arguments = {"embeddings": clustered(3, 64), **build}
    with pytest.raises(error, match=message):
        Index.build(f"{tmp_path}/ix", **arguments)  # type: ignore[arg-type]


def test_dimensions_must_not_change_within_a_corpus(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(CorpusError, match="passage 1 has 16 dimensions and the ones before it 8"):
        Index.build(f"{tmp_path}/ix", [unit(rng, 2, 8), unit(rng, 2, 16)])


def test_an_iterator_and_a_list_give_the_same_hits(tmp_path: object) -> None:
    vectors = [v.astype(np.float16).astype(np.float32) for v in clustered(60, 16)]
    lists = Index.build(f"{tmp_path}/a", vectors)
    once = Index.build(f"{tmp_path}/b", (v for v in vectors))
    assert lists.search(vectors[9], k=7) == once.search(vectors[9], k=7)
    with pytest.raises(IndexExists):
        Index.build(f"{tmp_path}/a", vectors)


def test_normalize_scales_what_is_not_unit_length(tmp_path: object) -> None:
    vectors = clustered(30, 16)
    plain = Index.build(f"{tmp_path}/a", vectors)
    scaled = Index.build(f"{tmp_path}/b", [3 * v for v in vectors], normalize=True)
    np.testing.assert_allclose(
        [h.score for h in plain.search(vectors[2])],
        [h.score for h in scaled.search(vectors[2])],
        atol=0.02,
    )
