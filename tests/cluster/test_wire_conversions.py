"""Plain values survive the wire, and bytes that do not fit their sizes are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cluster.wire import public, shard, tensors
from cluster.wire.info import info_from_proto, info_to_proto
from cluster.wire.tartan.shard.v1 import shard_pb2
from cluster.wire.tartan.v1 import search_pb2
from cluster.wire.types import (
    Along,
    Coverage,
    FetchQuery,
    IndexInfo,
    Limits,
    MissingShard,
    SearchAnswer,
    SearchCall,
    ServedShard,
    ShardAnswer,
    ShardIdentity,
    ShardQuery,
    ShardTiming,
    StoredPassage,
)
from colbert_core.errors import QueryError, TartanError
from colbert_core.types import Hit, SearchParams, ShardTopK, TokenMatch

counts = st.integers(0, 2**31 - 1)
floats = st.floats(width=32, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def matrices(draw: Any, rows: int | None = None, dtype: Any = np.float32) -> Any:
    shape = (draw(st.integers(1, 5)) if rows is None else rows, draw(st.integers(1, 9)))
    return np.random.default_rng(draw(counts)).integers(-9, 10**6, shape).astype(dtype)


def same(left: Any, right: Any) -> bool:
    """Equality of dataclasses that hold arrays."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return np.array_equal(left, right) and left.dtype == right.dtype
    if dataclasses.is_dataclass(left) and type(left) is type(right):
        names = [field.name for field in dataclasses.fields(left)]
        return all(same(getattr(left, name), getattr(right, name)) for name in names)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def through(message: Any) -> Any:
    """Serialise and parse, as the network does."""
    return type(message).FromString(message.SerializeToString())


efforts = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"recall": st.floats(0.01, 1.0)}),
    st.fixed_dictionaries({"nprobe": counts}, optional={"candidates": counts}),
    st.fixed_dictionaries({"candidates": counts}, optional={"scored": counts}),
    st.fixed_dictionaries({"scored": counts}),
    st.just({"exact": True}),
)
flags = st.fixed_dictionaries(
    {name: st.booleans() for name in ("with_text", "with_metadata", "explain", "timings")}
)


@given(
    query=st.one_of(
        st.fixed_dictionaries({"text": texts}), st.fixed_dictionaries({"query_LD": matrices()})
    ),
    k=st.integers(-(2**31), 2**31 - 1),
    effort=efforts,
    options=flags,
)
def test_search_call(query: Any, k: int, effort: Any, options: Any) -> None:
    call = SearchCall(k=k, **query, **effort, **options)
    assert same(public.call_from_proto(through(public.call_to_proto(call))), call)


def test_defaults_of_an_almost_empty_request() -> None:
    call = public.call_from_proto(search_pb2.SearchRequest(text="x"))
    assert same(call, SearchCall(text="x", k=10, with_text=True, with_metadata=True))


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (SearchCall(), "exactly one"),
        (SearchCall(text="x", query_LD=np.zeros((1, 8), np.float32)), "exactly one"),
        (SearchCall(text="x", recall=0.9, nprobe=2), "three ways"),
        (SearchCall(text="x", recall=0.9, exact=True), "three ways"),
        (SearchCall(text="x", candidates=2, exact=True), "three ways"),
    ],
)
def test_contradicting_calls_are_refused(call: SearchCall, part: str) -> None:
    with pytest.raises(QueryError, match=part):
        public.call_to_proto(call)


def test_a_request_without_query_is_refused() -> None:
    with pytest.raises(QueryError, match="no query"):
        public.call_from_proto(search_pb2.SearchRequest(k=3))


matches = st.builds(
    TokenMatch,
    query_token=texts,
    query_index=counts,
    passage_token_index=counts,
    score=floats,
    start=st.integers(-1, 10**6),
    end=st.integers(-1, 10**6),
)
hits = st.builds(
    Hit,
    id=texts,
    score=floats,
    text=st.none() | texts,
    metadata=st.just({}),
    matches=st.lists(matches, max_size=3).map(tuple),
)
milliseconds = st.floats(0, 1e9)
answers = st.builds(
    SearchAnswer,
    hits=st.lists(hits, max_size=4).map(tuple),
    params=st.builds(
        SearchParams,
        counts,
        counts,
        counts,
        counts,
        st.booleans(),
        st.none() | st.floats(0, 10),
        st.none() | st.floats(0, 10),
    ),
    coverage=st.builds(
        Coverage,
        *[counts] * 6,
        st.lists(st.builds(MissingShard, texts, counts, st.booleans(), texts), max_size=2).map(
            tuple
        ),
    ),
    generation=texts,
    timings_ms=st.just({}) | st.fixed_dictionaries(dict.fromkeys(public.STAGES, milliseconds)),
    shard_timings=st.just(()),
)


shard_timings = st.builds(ShardTiming, texts, milliseconds, milliseconds, counts, counts, counts)


@settings(max_examples=40)
@given(answers, st.lists(shard_timings, max_size=3))
def test_search_answer(answer: SearchAnswer, timings: list[ShardTiming]) -> None:
    if answer.timings_ms:
        answer = dataclasses.replace(answer, shard_timings=tuple(timings), cached=bool(timings))
    sent = public.answer_to_proto(answer, [""] * len(answer.hits))
    assert public.answer_from_proto(through(sent)) == answer


def test_metadata_travels_as_it_is_stored() -> None:
    """An integer above 2^53 and a float keep their kinds, which google.protobuf.Struct loses."""
    answer = SearchAnswer(
        (Hit("a", 1.0), Hit("b", 0.5)), SearchParams(2, 1, 1, 1), Coverage(1, 1, 0, 0, 2, 2), "g"
    )
    sent = public.answer_to_proto(answer, ['{"n": 9007199254740993, "x": 1.0, "s": "é"}', ""])
    first, second = public.answer_from_proto(through(sent)).hits
    assert first.metadata == {"n": 9007199254740993, "x": 1.0, "s": "é"}
    assert isinstance(first.metadata["x"], float)
    assert second.metadata == {}


@pytest.mark.parametrize("metadata", ["{", "[1]", "3"])
def test_broken_metadata_of_a_server_is_named(metadata: str) -> None:
    message = search_pb2.SearchResponse(hits=[search_pb2.Hit(id="p7", metadata_json=metadata)])
    with pytest.raises(TartanError, match="p7"):
        public.answer_from_proto(message)


def test_index_info() -> None:
    info = IndexInfo(
        "g",
        5,
        50,
        32,
        16,
        "tartan",
        2,
        "m",
        (ServedShard("s0", 5, 50, 2),),
        Limits(1, 2, 3, 4, 5, 6, 7, 8),
    )
    assert info_from_proto(through(info_to_proto(info))) == info


@given(st.data(), st.booleans())
def test_shard_query(data: st.DataObject, exact: bool) -> None:
    query_LD = data.draw(matrices())
    rows = len(query_LD)
    ids_LP = None if exact else data.draw(matrices(rows, np.int32))
    scores_LP = None if ids_LP is None else ids_LP.astype(np.float32)
    margin = None if exact else 0.125
    along = data.draw(st.none() | st.builds(Along, counts, st.booleans(), st.booleans()))
    query = ShardQuery(
        "g", query_LD, ids_LP, scores_LP, 10, 20, 15, exact, margin, margin, along=along
    )
    message = through(shard.query_to_proto(query, "s1"))
    assert message.shard_id == "s1"
    assert same(shard.query_from_proto(message), query)


@given(st.lists(st.tuples(st.integers(0, 2**62), floats), max_size=5), counts, counts)
def test_shard_answer(found: list[tuple[int, float]], touched: int, scored: int) -> None:
    pids_K = np.array([pid for pid, _ in found], np.int64)
    scores_K = np.array([score for _, score in found], np.float32)
    passages = tuple(StoredPassage(f"p{pid}", None, "{}") for pid, _ in found[:2])
    answer = ShardAnswer(ShardTopK(pids_K, scores_K, touched, scored), 1.5, passages)
    assert same(shard.answer_from_proto(through(shard.answer_to_proto(answer))), answer)


def test_more_passages_than_were_found_are_refused() -> None:
    message = shard_pb2.SearchResponse(passages=[shard_pb2.StoredPassage(id="a")])
    with pytest.raises(QueryError, match="1 passages were sent along with 0 pids"):
        shard.answer_from_proto(message)


@given(st.none() | matrices(), st.lists(st.integers(0, 2**62), max_size=4), st.booleans())
def test_fetch(query_LD: Any, pids: list[int], flag: bool) -> None:
    query = FetchQuery("g", np.array(pids, np.int64), flag, not flag, query_LD)
    assert same(shard.fetch_from_proto(through(shard.fetch_to_proto(query, "s"))), query)


@given(texts, st.none() | texts, st.integers(0, 4))
def test_stored_passage(name: str, text: str | None, tokens: int) -> None:
    matched = np.arange(tokens, dtype=np.int32) if tokens else None
    scores = None if matched is None else matched.astype(np.float32)
    passage = StoredPassage(name, text, "{}", matched, scores)
    assert same(shard.passage_from_proto(through(shard.passage_to_proto(passage))), passage)


def test_shard_identity() -> None:
    identity = ShardIdentity("g", "s", 3, 30, 32, "reference: why")
    assert shard.identity_from_proto(through(shard.identity_to_proto(identity))) == identity


@pytest.mark.parametrize("size", [0, 1, 3, 31, 33, 64])
def test_a_matrix_whose_bytes_do_not_fit_is_refused(size: int) -> None:
    message = search_pb2.Matrix(data=b"\0" * size, rows=2, dim=4)
    with pytest.raises(QueryError, match=rf"{size} bytes.*2 × 4 × 4 = 32"):
        tensors.matrix_from_proto(message)


@pytest.mark.parametrize("field", ["query", "probe_ids", "probe_scores"])
def test_every_array_of_a_shard_query_is_checked(field: str) -> None:
    query = ShardQuery(
        "g",
        np.ones((2, 8), np.float32),
        np.ones((2, 3), np.int32),
        np.ones((2, 3), np.float32),
        1,
        1,
        1,
    )
    message = shard.query_to_proto(query, "s")
    setattr(message, field, getattr(message, field)[:-1])
    with pytest.raises(QueryError, match=f"^{field} has"):
        shard.query_from_proto(message)


def test_pids_and_scores_of_different_number_are_refused() -> None:
    with pytest.raises(QueryError, match="scores"):
        shard.answer_from_proto(shard_pb2.SearchResponse(pids=b"\0" * 16, scores=b"\0" * 4))


def test_bytes_are_little_endian_row_major() -> None:
    matrix_RD = np.asfortranarray(np.array([[1, 2], [3, 4]], np.float32))
    assert tensors.f32_to_bytes(matrix_RD) == np.array([1, 2, 3, 4], "<f4").tobytes()
