"""Each request has an id, the caller's or a new one, on every server and in its errors."""

from __future__ import annotations

from contextvars import copy_context
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_cluster import DIM, LocalCluster

from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.gateway import GatewayConfig
from cluster.security.api_keys import new_key
from cluster.wire import request_context
from cluster.wire.request_context import REQUEST_ID_KEY, begin_request
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from colbert_core.errors import NotAuthenticated, QueryError
from workers.held_shard import HeldShard

TIMEOUT_S = 30.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def vectors(rows: int = 2) -> search_pb2.Matrix:
    data = np.full((rows, DIM), 0.1, np.float32).tobytes()
    return search_pb2.Matrix(data=data, rows=rows, dim=DIM)


def ids_in(trailing: object) -> list[str]:
    return [value for key, value in trailing or () if key == REQUEST_ID_KEY]  # type: ignore[union-attr]


def search(cluster: LocalCluster, *metadata: tuple[str, str]) -> list[str]:
    """The ids in the trailing metadata of a search."""
    with grpc.insecure_channel(cluster.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.SearchRequest(vectors=vectors(), k=1)
        _, call = stub.Search.with_call(request, metadata=metadata, timeout=TIMEOUT_S)
        return ids_in(call.trailing_metadata())


def test_an_id_that_was_sent_is_kept_and_otherwise_one_is_made(serving: LocalCluster) -> None:
    assert search(serving, (REQUEST_ID_KEY, "checkout-7:a.b/c")) == ["checkout-7:a.b/c"]
    (first,), (second,) = search(serving), search(serving)
    assert first != second
    assert len(first) == len(second) == 16


@pytest.mark.parametrize("wrong", ["", "x" * 65, "two words", "-dash", '"{}"'])
def test_an_id_that_is_none_is_replaced_and_the_query_answered(
    serving: LocalCluster, wrong: str
) -> None:
    (made,) = search(serving, (REQUEST_ID_KEY, wrong))
    assert made != wrong
    assert len(made) == 16


@given(st.text(max_size=80), st.text(max_size=600))
def test_what_is_taken_over_is_short_and_printable(sent: str, trace: str) -> None:
    def check() -> None:
        identity = begin_request(((REQUEST_ID_KEY, sent), ("traceparent", trace)))
        assert 0 < len(identity) <= 64
        for text in (identity, *dict(request_context.trace()).values()):
            assert text.isascii()
            assert text.isprintable()
            assert len(text) <= 512

    copy_context().run(check)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Id and trace of each search, as the shard servers have it in their own context."""
    found: list[tuple[str, ...]] = []
    original = HeldShard.search

    def noting(self: HeldShard, *arguments: object) -> object:
        found.append((request_context.request_id(), *dict(request_context.trace()).values()))
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(HeldShard, "search", noting)
    return found


def test_the_shards_get_the_id_and_the_trace(
    serving: LocalCluster, seen: list[tuple[str, ...]]
) -> None:
    search(serving, (REQUEST_ID_KEY, "one"), ("traceparent", TRACE))
    (made,) = search(serving)
    assert seen == [("one", TRACE)] * 3 + [(made,)] * 3


def test_errors_name_the_request(serving: LocalCluster) -> None:
    with (
        Client(serving.address, retry=RetryPolicy(attempts=1)) as client,
        pytest.raises(QueryError, match="k is 0") as raised,
    ):
        client.search(np.full((1, DIM), 0.1), k=0)
    (note,) = raised.value.__notes__
    assert note.startswith("request ")


def test_a_batch_has_one_id(serving: LocalCluster) -> None:
    with grpc.insecure_channel(serving.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.SearchRequest(vectors=vectors(), k=1)
        stream = stub.SearchBatch(
            search_pb2.SearchBatchRequest(requests=[request] * 3),
            metadata=((REQUEST_ID_KEY, "batch"),),
            timeout=TIMEOUT_S,
        )
        assert len(list(stream)) == 3
        assert ids_in(stream.trailing_metadata()) == ["batch"]


def test_who_is_refused_is_told_the_id_and_who_is_let_in_is_known(
    small_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, key = new_key("notebook", "search")
    keys = tmp_path / "keys"
    keys.write_text(line.line() + "\n")
    callers: list[str] = []
    config = GatewayConfig(port=0, api_keys=keys)
    with LocalCluster(small_index, gateway=config) as cluster:
        with Client(cluster.address) as client, pytest.raises(NotAuthenticated) as raised:
            client.search(np.full((1, DIM), 0.1))
        assert raised.value.__notes__[0].startswith("request ")
        original = cluster.pipeline.fan_out.search

        async def noting(*arguments: object, **options: object) -> object:
            callers.append(request_context.caller())
            return await original(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(cluster.pipeline.fan_out, "search", noting)
        with Client(cluster.address, api_key=key) as client:
            client.search(np.full((1, DIM), 0.1))
    assert callers == ["notebook"]
