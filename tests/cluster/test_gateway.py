"""Real gRPC from client to gateway to shard servers: the same hits as one process gives."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from local_cluster import DIM, LocalCluster, unit_vectors

from cluster import gateway as gateway_module
from cluster import gateway_search
from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.gateway import GatewayConfig
from cluster.gateway_encoder import LazyEncoder
from cluster.gateway_limits import DEFAULT_LIMITS, check_probes
from cluster.wire.channels import may_use_proxy
from cluster.wire.status import ERROR_KEY
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from colbert_core.api import Index
from colbert_core.errors import (
    AddressInUse,
    DeadlineExceeded,
    ModelError,
    Overloaded,
    QueryError,
    Unavailable,
)
from colbert_core.index import open_generation
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

ONCE = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def client(serving: LocalCluster) -> Iterator[Client]:
    with Client(serving.address, retry=ONCE, timeout_s=30.0) as client:
        yield client


@pytest.fixture(scope="module")
def index(small_index: Path) -> Index:
    return Index.open(small_index)


@pytest.fixture(scope="module")
def stub(serving: LocalCluster) -> Iterator[search_pb2_grpc.SearchServiceStub]:
    with grpc.insecure_channel(serving.address) as channel:
        yield search_pb2_grpc.SearchServiceStub(channel)


def query(seed: int = 0, rows: int = 5) -> Any:
    return unit_vectors(np.random.default_rng(seed), rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 1},
        {"k": 1000},
        {"k": 7, "recall": 0.8},
        {"k": 20, "recall": 1.0},
        {"k": 5, "nprobe": 1},
        {"k": 5, "nprobe": 4, "candidates": 8},
        {"k": 5, "nprobe": 4, "candidates": 8, "scored": 0},
        {"k": 50, "exact": True},
    ],
)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_three_shards_over_grpc_equal_one_process(
    client: Client, index: Index, options: Any, rows: int
) -> None:
    Q_LD = query(rows, rows)
    answer = client.search(Q_LD, explain=True, **options)
    assert list(answer.hits) == index.search(Q_LD, explain=True, **options)


def test_a_probe_in_a_thread_gives_the_same_and_counts_its_wait(
    client: Client, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    prepare = gateway_search.SearchPipeline._prepare

    def noting(self: Any, *args: Any) -> Any:
        threads.add(threading.current_thread().name.partition("_")[0])
        return prepare(self, *args)

    monkeypatch.setattr(gateway_search.SearchPipeline, "_prepare", noting)
    wanted = index.search(query(), k=5).ids
    at_once = client.search(query(), k=5, timings=True)
    assert "encode" not in threads
    monkeypatch.setattr(gateway_search, "PROBED_AT_ONCE", -1)
    in_thread = client.search(query(), k=5, timings=True)
    assert "encode" in threads
    assert [hit.id for hit in at_once.hits] == [hit.id for hit in in_thread.hits] == wanted
    assert at_once.timings_ms["queue"] == 0.0 < in_thread.timings_ms["queue"]


def test_an_answer_says_what_was_done_and_how_complete_it_is(client: Client, index: Index) -> None:
    answer = client.search(query(), k=7, nprobe=3, timings=True)
    assert (answer.params.k, answer.params.nprobe, answer.params.exact) == (7, 3, False)
    assert answer.params == index.params(7, nprobe=3)
    assert answer.params.margin is not None
    assert answer.generation == index.manifest.generation
    coverage = answer.coverage
    assert (coverage.shards_asked, coverage.shards_ok) == (3, 3)
    assert coverage.passages_searched == coverage.passages_total == len(index)
    stages = ("encode", "probe", "fan_out", "merge", "fetch", "explain")
    assert all(answer.timings_ms[stage] >= 0 for stage in stages)
    assert answer.timings_ms["total"] >= sum(answer.timings_ms[stage] for stage in stages) * 0.99
    assert [timing.shard_id for timing in answer.shard_timings] == [
        shard.id for shard in index.manifest.shards
    ]
    assert all(0 < timing.search_ms <= timing.elapsed_ms for timing in answer.shard_timings)


def test_timings_text_and_metadata_come_only_as_asked(client: Client) -> None:
    plain = client.search(query(), k=3, with_text=False, with_metadata=False, explain=True)
    assert not plain.timings_ms
    assert not plain.shard_timings
    assert all(hit.text is None and not hit.metadata and hit.matches for hit in plain.hits)
    full = client.search(query(), k=3)
    assert [hit.id for hit in full.hits] == [hit.id for hit in plain.hits]
    for hit in full.hits:
        number = int(hit.id[1:])
        assert hit.text == (f"text of {number}" if number % 10 else "")
        assert hit.metadata == {"number": number, "big": 2**53 + number}
        assert not hit.matches


def test_a_batch_gives_what_single_queries_give_in_their_order(client: Client) -> None:
    queries = [query(seed, 1 + seed % 7) for seed in range(150)]
    answers = list(client.search_batch(iter(queries), k=3))
    assert len(answers) == 150
    for position in (0, 63, 64, 149):
        assert answers[position].hits == client.search(queries[position], k=3).hits


def test_one_bad_query_of_a_batch_does_not_end_the_others(
    stub: search_pb2_grpc.SearchServiceStub,
) -> None:
    good = search_pb2.SearchRequest(k=2)
    good.vectors.CopyFrom(search_pb2.Matrix(data=query().tobytes(), rows=5, dim=DIM))
    requests = [good, search_pb2.SearchRequest(k=2), good]
    responses = {
        response.index: response
        for response in stub.SearchBatch(search_pb2.SearchBatchRequest(requests=requests))
    }
    assert sorted(responses) == [0, 1, 2]
    assert len(responses[0].answer.hits) == len(responses[2].answer.hits) == 2
    problem = responses[1].problem
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert problem.error == "QueryError"
    assert "no query" in problem.message


def test_the_client_names_the_bad_query_of_a_batch(client: Client) -> None:
    queries = [query(seed) for seed in range(70)]
    queries[66] = queries[66][:, :8]
    with pytest.raises(QueryError, match=r"^query 66: .*8 dimensions.*has 32"):
        list(client.search_batch(queries, k=1))


@pytest.mark.parametrize("count", [0, DEFAULT_LIMITS.max_batch + 1])
def test_batches_have_a_size(stub: search_pb2_grpc.SearchServiceStub, count: int) -> None:
    requests = [search_pb2.SearchRequest(text="x")] * count
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.SearchBatch(search_pb2.SearchBatchRequest(requests=requests)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "send 1 to 1,024" in caught.value.details()


def matrix(values: Any, rows: int | None = None, dim: int | None = None) -> search_pb2.Matrix:
    array = np.asarray(values, np.float32)
    return search_pb2.Matrix(
        data=array.tobytes(),
        rows=len(array) if rows is None else rows,
        dim=array.shape[1] if dim is None else dim,
    )


NAN = np.full((2, DIM), np.nan)
GOOD = matrix(np.ones((2, DIM)))
BAD_INPUT = [
    ({}, "no query"),
    ({"text": ""}, "empty"),
    ({"text": " \n\t"}, "empty"),
    ({"text": "x" * 16_385}, "16,385 characters and the limit is 16,384"),
    ({"vectors": GOOD, "k": 0}, "k is 0: ask for 1 to 10,000"),
    ({"vectors": GOOD, "k": -1}, "k is -1"),
    ({"vectors": GOOD, "k": 10_001}, "k is 10001"),
    ({"vectors": GOOD, "recall": 0.0}, "recall is 0"),
    ({"vectors": GOOD, "recall": -1.0}, "recall is -1"),
    ({"vectors": GOOD, "recall": 1.5}, "recall is 1.5"),
    ({"vectors": GOOD, "recall": float("nan")}, "recall is nan"),
    ({"vectors": GOOD, "budget": search_pb2.SearchBudget(nprobe=0)}, "nprobe is 0"),
    ({"vectors": GOOD, "budget": search_pb2.SearchBudget(nprobe=-4)}, "nprobe is -4"),
    ({"vectors": GOOD, "budget": search_pb2.SearchBudget(candidates=0)}, "candidates is 0"),
    ({"vectors": GOOD, "budget": search_pb2.SearchBudget(scored=-1)}, "scored is -1"),
    ({"vectors": matrix(NAN)}, "NaN"),
    ({"vectors": matrix(np.full((1, DIM), np.inf))}, "infinity"),
    ({"vectors": matrix(np.ones((2, 16)))}, "16 dimensions and the index has 32"),
    ({"vectors": matrix(np.ones((0, DIM)))}, "0 tokens"),
    ({"vectors": matrix(np.ones((1025, DIM)))}, "1,025 tokens and the limit is 1,024"),
    ({"vectors": matrix(np.ones((2, DIM)), rows=3)}, "256 bytes where 3 × 32 × 4 = 384"),
    ({"vectors": matrix(np.ones((2, DIM)), rows=2**32 - 1)}, "256 bytes where"),
    ({"vectors": search_pb2.Matrix()}, "0 tokens"),
]


@pytest.mark.parametrize(("fields", "part"), BAD_INPUT)
def test_bad_input_is_refused_with_value_limit_and_remedy(
    stub: search_pb2_grpc.SearchServiceStub, fields: Any, part: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(search_pb2.SearchRequest(**fields), timeout=30.0)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert part in caught.value.details()
    assert (ERROR_KEY, "QueryError") in caught.value.trailing_metadata()


def test_text_to_an_index_of_vectors_says_what_to_send(
    client: Client, stub: search_pb2_grpc.SearchServiceStub
) -> None:
    with pytest.raises(ModelError, match="send the query as `vectors`"):
        client.search("some words")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(search_pb2.SearchRequest(text="some words"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_message_beyond_the_limit_is_refused_and_not_asked_again(small_index: Path) -> None:
    limits = replace(DEFAULT_LIMITS, max_message_bytes=100_000)
    with LocalCluster(small_index, limits=limits) as cluster, Client(cluster.address) as client:
        assert client.info().limits.max_message_bytes == 100_000
        with pytest.raises(QueryError, match=r"larger than max.*100000.*max_message_bytes"):
            client.search(np.ones((1000, DIM), np.float32))
        assert client.search(query()).hits


class FakeEncoder:
    """Words become vectors by their length; positions of characters are real."""

    def encode_queries(self, texts: list[str]) -> list[Any]:
        return [np.stack([query(len(word), 1)[0] for word in text.split()]) for text in texts]

    def query_tokens(self, text: str) -> list[str]:
        return text.split()

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        return [(at, at + 1) for at in range(3)]  # fewer than the stored tokens


class SlowEncoder(FakeEncoder):
    """Encodes once the test lets it; the gateway's own first query at once."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.free = threading.Event()

    def encode_queries(self, texts: list[str]) -> list[Any]:
        if texts == ["warm-up"]:
            return super().encode_queries(texts)
        self.entered.set()
        assert self.free.wait(60.0)
        return super().encode_queries(texts)


def test_text_is_encoded_and_explained_with_words_and_spans(small_index: Path) -> None:
    encoder = LazyEncoder("fake", FakeEncoder)
    with LocalCluster(small_index, encoder=encoder) as cluster, Client(cluster.address) as client:
        assert client.info().model == "fake"
        answer = client.search("one three", k=20, explain=True)
        by_vectors = client.search(FakeEncoder().encode_queries(["one three"])[0], k=20)
        assert [hit.id for hit in answer.hits] == [hit.id for hit in by_vectors.hits]
        for hit in answer.hits:
            assert [match.query_token for match in hit.matches] == ["one", "three"]
            assert sum(match.score for match in hit.matches) == pytest.approx(hit.score, abs=1e-4)
            for match in hit.matches:
                at = match.passage_token_index
                known = bool(hit.text) and at < 3
                assert (match.start, match.end) == ((at, at + 1) if known else (-1, -1))
        assert any(match.start >= 0 for hit in answer.hits for match in hit.matches)
        hidden = client.search("one three", k=20, explain=True, with_text=False)
        assert [hit.matches for hit in hidden.hits] == [hit.matches for hit in answer.hits]
        assert all(hit.text is None for hit in hidden.hits)


def test_pooled_vectors_are_explained_without_spans(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    passages = [unit_vectors(rng, 6) for _ in range(20)]
    Index.build(tmp_path / "ix", passages, texts=["one two three"] * 20, pool_factor=2)
    encoder = LazyEncoder("fake", FakeEncoder)
    pooled = LocalCluster(tmp_path / "ix", encoder=encoder)
    with pooled as cluster, Client(cluster.address) as client:
        matches = client.search("one three", k=1, explain=True).hits[0].matches
    assert [match.query_token for match in matches] == ["one", "three"]
    assert all(match.passage_token_index < 3 for match in matches)
    assert {(match.start, match.end) for match in matches} == {(-1, -1)}


def test_a_model_that_fails_to_load_is_said_and_tried_again(small_index: Path) -> None:
    tries = []

    def load() -> FakeEncoder:
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("the model is not on this machine: copy it")
        return FakeEncoder()

    encoder = LazyEncoder("fake", load)
    with LocalCluster(small_index, encoder=encoder) as cluster, Client(cluster.address) as client:
        assert client.search("word").hits
        assert any("ModelError: the model is not" in problem for problem in cluster.problems)
        assert cluster.gateway.report().problem == ""
    assert len(tries) == 2


def test_a_slow_encoder_is_held_to_the_deadline_and_blocks_nobody(small_index: Path) -> None:
    slow = SlowEncoder()
    with LocalCluster(small_index, encoder=LazyEncoder("slow", lambda: slow)) as cluster:
        try:
            with Client(cluster.address, retry=ONCE) as client:
                with pytest.raises(DeadlineExceeded, match="before the query was encoded"):
                    client.search("word", timeout_s=2.0)
                assert client.search(query(), timeout_s=30.0).hits
        finally:
            slow.free.set()


def test_beyond_its_limit_a_gateway_refuses_at_once(small_index: Path) -> None:
    slow = SlowEncoder()
    encoder = LazyEncoder("slow", lambda: slow)
    config = GatewayConfig(port=0, max_concurrent=1)
    with (
        LocalCluster(small_index, encoder=encoder, gateway=config) as cluster,
        Client(cluster.address, retry=ONCE, timeout_s=30.0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            first = pool.submit(client.search, "word")
            assert slow.entered.wait(30.0)
            with pytest.raises(Overloaded):
                client.search(query())
        finally:
            slow.free.set()
        assert first.result(30.0).hits


def test_a_stopping_gateway_finishes_what_is_under_way(small_index: Path) -> None:
    slow = SlowEncoder()
    cluster = LocalCluster(small_index, encoder=LazyEncoder("slow", lambda: slow))
    with Client(cluster.address, retry=ONCE, timeout_s=30.0) as client:
        with ThreadPoolExecutor(2) as pool:
            under_way = pool.submit(client.search, "word")
            assert slow.entered.wait(30.0)
            stopping = pool.submit(cluster.loop.run, cluster.gateway.stop(30.0))
            slow.free.set()
            assert under_way.result(30.0).hits
            stopping.result(30.0)
        with pytest.raises(Unavailable):
            client.search(query(), timeout_s=30.0)
    cluster.close()


def test_a_gateway_stops_even_if_its_grpc_server_does_not(
    small_index: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway_module, "STOP_MARGIN_S", 0.1)
    with LocalCluster(small_index) as cluster:

        async def never(_grace_s: float) -> None:
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(cluster.gateway, "_server", SimpleNamespace(stop=never))
            cluster.loop.run(cluster.gateway.stop(0.1))
        assert f"the gRPC server at {cluster.address} did not end in 0.2 s" in caplog.text


def test_a_killed_shard_is_named_and_the_rest_of_the_gateway_lives(small_index: Path) -> None:
    with LocalCluster(small_index) as cluster, Client(cluster.address, retry=ONCE) as client:
        assert client.search(query()).hits
        cluster.servers[1][0].stop(0.0)
        lost = cluster.routes[1].shard_id
        with pytest.raises(Unavailable, match=rf"shard {lost} \(2 of 3\) does not answer"):
            client.search(query(), timeout_s=60.0)  # at its end it would be DeadlineExceeded
        assert client.info().passages == 150


def test_with_two_replicas_a_killed_server_costs_nothing(small_index: Path) -> None:
    cluster = LocalCluster(small_index, replicas=2)
    with cluster, Client(cluster.address, retry=ONCE) as client:
        wanted = client.search(query()).hits
        assert [shard.replicas for shard in client.info().shards] == [2, 2, 2]
        cluster.servers[0][0].stop(0.0)
        cluster.servers[2][1].stop(0.0)
        for _ in range(6):
            assert client.search(query()).hits == wanted


def test_a_shard_server_of_another_generation_is_never_used(small_index: Path) -> None:
    with LocalCluster(small_index) as cluster, Client(cluster.address, retry=ONCE) as client:
        route = cluster.routes[0]
        (reader,) = open_generation(small_index, shards=[route.shard_id]).shards
        newer = ShardServer(HeldShard("newer", reader))
        newer.start()
        cluster.route_to(0, newer.address)
        with pytest.raises(Unavailable, match=r"holds shard .* of generation newer, not "):
            client.search(query())
        newer.stop(0.0)


def test_reflection(serving: LocalCluster) -> None:
    with grpc.insecure_channel(serving.address) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([request]))
        names = {service.name for service in listed.list_services_response.service}
        assert {"tartan.v1.SearchService", "grpc.health.v1.Health"} <= names
        request = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="tartan.v1.SearchService"
        )
        (described,) = reflection.ServerReflectionInfo(iter([request]))
        assert described.file_descriptor_response.file_descriptor_proto


def test_shard_servers_have_health_too(serving: LocalCluster) -> None:
    with grpc.insecure_channel(serving.servers[0][0].address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="tartan.shard.v1.ShardService")
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_index_info(client: Client, index: Index) -> None:
    info = client.info()
    assert (info.passages, info.tokens) == (len(index), index.manifest.tokens)
    assert (info.dim, info.centroids, info.model) == (DIM, 32, "")
    assert [shard.passages for shard in info.shards] == [
        shard.passages for shard in index.manifest.shards
    ]
    assert info.limits == DEFAULT_LIMITS


def test_no_proxy_stands_between_gateway_shards_and_a_client_on_this_machine(
    small_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grpc_proxy", "http_proxy"):  # gRPC asks it for 127.0.0.1, too
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with LocalCluster(small_index) as cluster, Client(cluster.address, retry=ONCE) as client:
        assert client.search(query()).hits


@pytest.mark.parametrize(
    ("target", "may"),
    [
        ("localhost:50051", False),
        ("127.0.0.1:1", False),
        ("[::1]:50051", False),
        ("search.example.org:443", True),
        ("10.0.0.1:50051", True),
    ],
)
def test_only_other_machines_are_asked_through_a_proxy(target: str, may: bool) -> None:
    assert may_use_proxy(target) is may


@pytest.mark.parametrize(
    ("tokens", "nprobe", "centroids", "fits"),
    [(32, 32_768, 10**6, True), (32, 32_769, 10**6, False), (1024, 10**9, 1024, True)],
)
def test_probes_fit_a_message(tokens: int, nprobe: int, centroids: int, fits: bool) -> None:
    if fits:
        check_probes(tokens, nprobe, centroids)
    else:
        with pytest.raises(QueryError, match=r"nprobe is 32,769 .* limit is 32,768"):
            check_probes(tokens, nprobe, centroids)


def test_a_taken_port_is_an_error_of_its_own(small_index: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{port}.*--port"):
            LocalCluster(small_index, gateway=GatewayConfig(port=port))
    assert AddressInUse.exit_code == 10


def test_two_gateways_never_share_a_port(serving: LocalCluster, small_index: Path) -> None:
    """gRPC's default, SO_REUSEPORT, would let the second one take half of the first one's calls."""
    port = int(serving.address.rsplit(":", 1)[1])
    with pytest.raises(AddressInUse):
        LocalCluster(small_index, gateway=GatewayConfig(port=port))


def test_many_clients_at_once_get_their_own_answers(serving: LocalCluster) -> None:
    wanted = {}
    with Client(serving.address) as client:
        for seed in range(8):
            wanted[seed] = client.search(query(seed), k=4).hits
        seeds = list(wanted) * 3
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda seed: client.search(query(seed), k=4), seeds))
    assert [answer.hits for answer in answers] == [wanted[seed] for seed in seeds]
