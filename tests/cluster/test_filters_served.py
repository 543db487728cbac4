"""Filters over gRPC: the message, its limits, and the answers of one process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_cluster import LocalCluster, unit_vectors

from cluster.cli import main
from cluster.client import AsyncClient, Client
from cluster.wire.filters import (
    MAX_CONDITIONS,
    MAX_EXPRESSION_CHARS,
    MAX_VALUES,
    filter_from_proto,
    filter_to_proto,
)
from cluster.wire.tartan.v1 import search_pb2 as pb
from cluster.wire.tartan.v1 import search_pb2_grpc
from cluster.wire.tensors import matrix_to_proto
from colbert_core.api import Index
from colbert_core.errors import QueryError
from colbert_core.filters import (
    And,
    Eq,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    parse_filter,
)

names = st.text(min_size=1, max_size=5)
values = st.one_of(
    st.text(max_size=5),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
leaves = st.one_of(
    st.builds(Eq, names, values),
    st.builds(In, names, st.lists(values, max_size=3).map(tuple)),
    st.builds(Range, names, values, values, st.booleans(), st.booleans()),
    st.builds(lambda f, v, o: Range(f, low=v, above=o), names, values, st.booleans()),
    st.builds(lambda f, v, o: Range(f, high=v, below=o), names, values, st.booleans()),
    st.builds(Exists, names),
    st.builds(Prefix, names, st.text(max_size=5)),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(filters)
def test_a_filter_survives_the_wire(tree: Filter) -> None:
    data = filter_to_proto(tree).SerializeToString()
    assert repr(filter_from_proto(pb.Filter.FromString(data))) == repr(tree)
    written = pb.Filter(expression=str(tree))
    assert repr(filter_from_proto(written)) == repr(tree)


def joined(kind: str, *of: pb.Filter) -> pb.Filter:
    message = pb.Filter()
    getattr(message, kind).filters.extend(of)
    return message


def test_a_message_of_one_joined_filter_is_that_filter() -> None:
    one = pb.Filter(exists="a")
    assert filter_from_proto(joined("and", one)) == Exists("a")
    assert filter_from_proto(joined("or", joined("and", one))) == Exists("a")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (pb.Filter(), "says nothing"),
        (joined("or", pb.Filter()), "says nothing"),
        (pb.Filter(eq=pb.EqFilter(field="a")), "compares 'a' with nothing"),
        (pb.Filter(eq=pb.EqFilter(value=pb.FilterValue(truth=True))), "give a name"),
        (pb.Filter(range=pb.RangeFilter(field="a")), "has no end"),
        (pb.Filter(eq=pb.EqFilter(field="a", value=pb.FilterValue(number=float("nan")))), "finite"),
        (pb.Filter(expression="year >="), "character 8"),
        (pb.Filter(expression="a" * (MAX_EXPRESSION_CHARS + 1)), f"{MAX_EXPRESSION_CHARS:,}"),
        (joined("and", *[pb.Filter(exists="a")] * MAX_CONDITIONS), f"more than {MAX_CONDITIONS:,}"),
        (filter_to_proto(In("a", (1,) * (MAX_VALUES + 1))), f"more than {MAX_VALUES:,} values"),
    ],
)
def test_what_is_no_filter_says_why(message: pb.Filter, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        filter_from_proto(message)
    assert says in str(caught.value)


def test_the_deepest_filter_passes_protobuf_and_a_deeper_one_is_refused(
    serving: LocalCluster,
) -> None:
    deepest: Filter = Exists("number")
    for _ in range(31):
        deepest = Not(deepest)
    with Client(serving.address) as client:
        query = unit_vectors(np.random.default_rng(0), 4)
        assert client.search(query, filter=deepest).hits == ()
        joined_deep = filter_to_proto(deepest)
        for _ in range(3):
            joined_deep = joined("and", joined_deep, pb.Filter(exists="number"))
        request = pb.SearchRequest(vectors=matrix_to_proto(query), filter=joined_deep)
        with grpc.insecure_channel(serving.address) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Search(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert "32 levels" in caught.value.details()  # type: ignore[attr-defined]


# ---------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def local(small_index: Path) -> Index:
    return Index.open(small_index)


@pytest.fixture(scope="module")
def client(serving: LocalCluster) -> Iterator[Client]:
    with Client(serving.address) as client:
        yield client


@pytest.mark.parametrize(
    "wanted",
    [
        "number < 75",
        "number < 3",
        "10 <= number <= 20 or number = 100",
        f"big >= {2**53 + 149}",
        f"big = {2**53 + 1}",
        "not number >= 5 and _id != 'p2'",
        In("_id", ("p1", "p149", "nobody")),
        ["p7", "p77"],
        [],
    ],
)
@pytest.mark.parametrize("k", [1, 10, 400])
def test_a_cluster_answers_as_one_process_does(
    client: Client, local: Index, wanted: Any, k: int
) -> None:
    for seed in range(3):
        query = unit_vectors(np.random.default_rng(seed), 5)
        for effort in ({}, {"exact": True}, {"scored": 0}):
            answer = client.search(query, k, filter=wanted, **effort)
            hits = local.search(query, k, filter=wanted, **effort)
            assert [(hit.id, hit.score) for hit in answer.hits] == [
                (hit.id, hit.score) for hit in hits
            ]


def test_both_clients_and_batches_take_filters(serving: LocalCluster, client: Client) -> None:
    queries = [unit_vectors(np.random.default_rng(seed), 5) for seed in range(4)]
    expected = [client.search(query, 5, filter="number < 9").hits for query in queries]
    batch = client.search_batch(queries, 5, filter=parse_filter("number < 9"))
    assert [answer.hits for answer in batch] == expected

    async def ask() -> Any:
        async with AsyncClient(serving.address) as asking:
            return (await asking.search(queries[0], 5, filter="number < 9")).hits

    assert asyncio.run(ask()) == expected[0]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("nmber < 3", "_id (string) and big (int64), number (int64)"),
        ("number = 'three'", "it is int64"),
        ("number >", "character 9"),
        ("exists(text)", "no passage of this index has such a field"),
    ],
)
def test_an_impossible_filter_is_a_query_error(client: Client, wanted: str, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        client.search(unit_vectors(np.random.default_rng(0), 2), filter=wanted)
    assert says in str(caught.value)


def test_a_structured_message_needs_no_client(serving: LocalCluster) -> None:
    message = joined(
        "or",
        pb.Filter(eq=pb.EqFilter(field="number", value=pb.FilterValue(integer=3))),
        pb.Filter(expression="number = 4"),
    )
    query = matrix_to_proto(unit_vectors(np.random.default_rng(0), 2))
    with grpc.insecure_channel(serving.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        answer = stub.Search(pb.SearchRequest(vectors=query, filter=message), timeout=10)
    assert {hit.id for hit in answer.hits} == {"p3", "p4"}


def test_the_gateway_lists_the_fields(client: Client) -> None:
    assert client.info().fields == {"big": "int64", "number": "int64"}


# ---------------------------------------------------------------- the command line


def test_inspect_lists_the_fields(
    small_index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tartan", "index", "inspect", str(small_index), "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capfd.readouterr().out)["fields"] == {"big": "int64", "number": "int64"}
    monkeypatch.setattr(sys, "argv", ["tartan", "index", "inspect", str(small_index)])
    with pytest.raises(SystemExit):
        main()
    assert "number" in capfd.readouterr().out


def test_search_with_a_wrong_filter_is_one_line_and_exit_code_2(
    small_index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["tartan", "search", "x", "--index", str(small_index), "--filter", "number >"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "tartan: filter, character 9" in capfd.readouterr().err
