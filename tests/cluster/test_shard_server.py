"""One shard behind gRPC: what it refuses, how it stops, and what it finds when it opens."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from local_cluster import DIM, unit_vectors

from cluster.controller.placement import gpu_share
from cluster.wire import shard as convert
from cluster.wire.tartan.shard.v1 import shard_pb2, shard_pb2_grpc
from cluster.wire.types import Along, FetchQuery, ShardQuery
from colbert_core import hardware
from colbert_core.errors import IndexCorrupt, IndexMissing, Unavailable
from colbert_core.index import open_generation
from workers import shard_actor
from workers.held_shard import HeldShard
from workers.shard_actor import ShardServerActor
from workers.shard_server import ShardServer


@pytest.fixture(scope="module")
def held(small_index: Path) -> HeldShard:
    manifest = open_generation(small_index, shards=()).manifest
    return HeldShard.open(small_index, manifest.generation, manifest.shards[1].id)


@pytest.fixture(scope="module")
def stub(held: HeldShard) -> Iterator[shard_pb2_grpc.ShardServiceStub]:
    server = ShardServer(held, threads=2)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        yield shard_pb2_grpc.ShardServiceStub(channel)
    server.stop(0.0)


def request(held: HeldShard, **changes: Any) -> shard_pb2.SearchRequest:
    values: dict[str, Any] = {
        "generation": held.generation,
        "query_LD": unit_vectors(np.random.default_rng(1), 4),
        "probe_ids_LP": np.tile(np.arange(8, dtype=np.int32), (4, 1)),
        "probe_scores_LP": np.tile(np.linspace(1, 0, 8, dtype=np.float32), (4, 1)),
        "k": 5,
        "candidates": 20,
        "scored": 10,
    }
    return convert.query_to_proto(ShardQuery(**(values | changes)), held.identity.shard_id)


def test_what_did_not_fit_in_memory_is_copied_when_it_does(
    small_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = 0
    monkeypatch.setattr(hardware, "available_memory", lambda: available)
    monkeypatch.setattr(shard_actor, "SETTLE_S", 0.01)
    manifest = open_generation(small_index, shards=()).manifest
    told: list[Any] = []

    class Listener:
        def start(self, shard: Any, mapped_bytes: int, copied_bytes: Any) -> tuple[()]:
            told.extend([mapped_bytes, copied_bytes])
            return ()

    actor = ShardServerActor(
        str(small_index),
        manifest.generation,
        manifest.shards[1].id,
        "127.0.0.1",
        telemetry=Listener(),
    )
    try:
        address = actor.address()
        held = HeldShard.open(small_index, manifest.generation, manifest.shards[1].id)
        asked = request(held)
        with grpc.insecure_channel(address) as channel:
            stub = shard_pb2_grpc.ShardServiceStub(channel)
            mapped = stub.Search(asked, timeout=20)
            assert told[1]() == held.copied_bytes == 0
            available = 1 << 40
            deadline = time.monotonic() + 20
            while not told[1]() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert 0 < told[1]() < told[0]
            copied = stub.Search(asked, timeout=20)
        assert (copied.pids, copied.scores) == (mapped.pids, mapped.scores)
        assert held.settle()
        assert held.copied_bytes == told[1]()
    finally:
        actor.stop(0.0)


def refused(call: Any, message: Any, code: grpc.StatusCode, part: str, **options: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(message, **options)
    assert caught.value.code() is code, caught.value
    assert part in caught.value.details()


def test_a_search_and_the_fetch_of_what_it_found(held: HeldShard, stub: Any) -> None:
    found = convert.answer_from_proto(stub.Search(request(held)))
    assert len(found.top.pids_K) == 5
    assert (np.diff(found.top.scores_K) <= 0).all()
    query_LD = convert.query_from_proto(request(held)).query_LD
    fetch = FetchQuery(held.generation, found.top.pids_K, True, True, query_LD)
    message = convert.fetch_to_proto(fetch, held.identity.shard_id)
    for passage, score in zip(stub.Fetch(message).passages, found.top.scores_K, strict=True):
        stored = convert.passage_from_proto(passage)
        assert stored.match_scores_L is not None
        assert stored.match_scores_L.sum() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 9])
def test_the_best_are_sent_along(held: HeldShard, stub: Any, count: int) -> None:
    alone = convert.answer_from_proto(stub.Search(request(held)))
    found = convert.answer_from_proto(stub.Search(request(held, along=Along(count, True, False))))
    assert alone.passages == ()
    assert found.top.pids_K.tolist() == alone.top.pids_K.tolist()
    wanted = FetchQuery(held.generation, found.top.pids_K[:count], True, False)
    fetched = stub.Fetch(convert.fetch_to_proto(wanted, held.identity.shard_id)).passages
    assert list(map(astuple, found.passages)) == [
        astuple(convert.passage_from_proto(passage)) for passage in fetched
    ]


def test_info(held: HeldShard, stub: Any) -> None:
    info = convert.identity_from_proto(stub.GetShardInfo(shard_pb2.GetShardInfoRequest()))
    assert info == held.identity
    assert (info.dim, info.passages) == (DIM, held.shard.entry.passages)


@pytest.mark.parametrize("field", ["generation", "shard_id"])
def test_a_call_for_another_generation_or_shard_is_refused(
    held: HeldShard, stub: Any, field: str
) -> None:
    message = request(held)
    setattr(message, field, "another")
    refused(stub.Search, message, grpc.StatusCode.NOT_FOUND, "this server holds shard")
    fetch = shard_pb2.FetchRequest(generation=held.generation, shard_id=held.identity.shard_id)
    setattr(fetch, field, "another")
    refused(stub.Fetch, fetch, grpc.StatusCode.NOT_FOUND, "this server holds shard")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"query_LD": np.ones((4, 16), np.float32)}, "16 dimensions"),
        ({"query_LD": np.full((4, DIM), np.nan, np.float32)}, "NaN"),
        ({"k": 0}, "k is 0"),
        ({"candidates": 0}, "candidates 0"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"missed": 0.0}, "missed is 0.0"),
        ({"missed": 1.5}, "missed is 1.5"),
        ({"spread": -0.1}, "spread is -0.1"),
        ({"spread": float("nan")}, "spread is nan"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"probe_ids_LP": np.full((4, 8), 32, np.int32)}, "centroid is not in 0…31"),
        ({"probe_ids_LP": np.full((4, 8), -1, np.int32)}, "centroid is not in"),
        ({"probe_ids_LP": None, "probe_scores_LP": None}, "no probes"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    held: HeldShard, stub: Any, changes: Any, part: str
) -> None:
    refused(stub.Search, request(held, **changes), grpc.StatusCode.INVALID_ARGUMENT, part)


@pytest.mark.parametrize("beyond", [-1, 0, 2**40])
def test_an_ordinal_out_of_range_is_refused(held: HeldShard, stub: Any, beyond: int) -> None:
    count = held.identity.passages
    pid = count + beyond if beyond >= 0 else beyond
    fetch = FetchQuery(held.generation, np.array([0, pid], np.int64), True, True)
    message = convert.fetch_to_proto(fetch, held.identity.shard_id)
    part = f"passage {pid} is not in 0…{count - 1} of this shard"
    refused(stub.Fetch, message, grpc.StatusCode.INVALID_ARGUMENT, part)


def test_a_deadline_reaches_the_kernel(held: HeldShard) -> None:
    with pytest.raises(TimeoutError):
        held.search(convert.query_from_proto(request(held)), time.monotonic() - 1.0)
    fetch = FetchQuery(held.generation, np.array([0], np.int64), True, True)
    with pytest.raises(TimeoutError):
        held.fetch(fetch, time.monotonic() - 1.0)
    with pytest.raises(TimeoutError, match="while passages were fetched"):
        held._along(Along(1, True, True), np.array([0], np.int64), time.monotonic() - 1.0)


class Gate(HeldShard):
    """A shard whose searches wait until the test lets them go on."""

    def __init__(self, held: HeldShard) -> None:
        super().__init__(held.generation, held.shard)
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()

    def search(self, query: ShardQuery, deadline: float) -> Any:
        self.entered.release()
        assert self.free.wait(30.0)
        return super().search(query, deadline)


@pytest.fixture
def gate(held: HeldShard) -> Iterator[Gate]:
    gate = Gate(held)
    yield gate
    gate.free.set()


def test_beyond_its_limit_a_server_refuses_at_once(held: HeldShard, gate: Gate) -> None:
    server = ShardServer(gate, threads=2, max_concurrent=2)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        busy = [stub.Search.future(request(held)) for _ in range(2)]
        for _ in busy:
            assert gate.entered.acquire(timeout=30.0)
        full = grpc.StatusCode.RESOURCE_EXHAUSTED
        refused(stub.Search, request(held), full, "limit", timeout=30.0)
        gate.free.set()
        assert all(call.result(30.0).pids for call in busy)
    server.stop(0.0)


def test_a_stopping_server_finishes_what_is_under_way(held: HeldShard, gate: Gate) -> None:
    server = ShardServer(gate, threads=2)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        under_way = stub.Search.future(request(held))
        assert gate.entered.acquire(timeout=30.0)
        stopping = threading.Thread(target=server.stop, args=(30.0,))
        stopping.start()
        gate.free.set()
        assert under_way.result(30.0).pids
        stopping.join(30.0)
        assert not stopping.is_alive()
        refused(stub.Search, request(held), grpc.StatusCode.UNAVAILABLE, "", timeout=10.0)


def test_a_damaged_kernel_answer_is_data_loss(held: HeldShard) -> None:
    class Damaged(HeldShard):
        def search(self, query: ShardQuery, deadline: float) -> Any:
            raise RuntimeError("code 99 is out of range: run `tartan index verify`")

    server = ShardServer(Damaged(held.generation, held.shard))
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        refused(stub.Search, request(held), grpc.StatusCode.DATA_LOSS, "tartan index verify")
    server.stop(0.0)


def test_a_taken_port_is_named(held: HeldShard) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}"):
            ShardServer(held, port=port)


def test_a_shard_of_another_generation_is_not_opened(small_index: Path, held: HeldShard) -> None:
    with pytest.raises(IndexMissing, match="older"):
        HeldShard.open(small_index, "older", held.identity.shard_id)
    with pytest.raises(IndexMissing, match="no shard nowhere"):
        HeldShard.open(small_index, held.generation, "nowhere")


def test_a_truncated_file_is_found_before_serving(
    small_index: Path, held: HeldShard, tmp_path: Path
) -> None:
    copy = tmp_path / "index"
    shutil.copytree(small_index, copy)
    damaged = copy / "shards" / held.identity.shard_id / "residuals.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(IndexCorrupt, match=r"residuals\.npy"):
        HeldShard.open(copy, held.generation, held.identity.shard_id)


def test_the_actor_class_works_without_ray(small_index: Path, held: HeldShard) -> None:
    """Errors come from `address`, with their class: Ray would lose it from a constructor."""
    shard_id = held.identity.shard_id
    broken = ShardServerActor(str(small_index), "older", shard_id, "127.0.0.1")
    with pytest.raises(IndexMissing):
        broken.address()
    broken.stop(0.0)
    actor = ShardServerActor(str(small_index), held.generation, shard_id, "127.0.0.1", threads=1)
    address = actor.address()
    assert actor.address() == address
    with grpc.insecure_channel(address) as channel:
        assert shard_pb2_grpc.ShardServiceStub(channel).Search(request(held), timeout=30.0).pids
    actor.stop(0.0)


def test_a_shard_on_a_device_answers_alike(held: HeldShard, small_index: Path) -> None:
    actor = ShardServerActor(
        str(small_index), held.generation, held.identity.shard_id, "127.0.0.1", device="torch:cpu"
    )
    try:
        with grpc.insecure_channel(actor.address()) as channel:
            stub = shard_pb2_grpc.ShardServiceStub(channel)
            late = [stub.Search.future(request(held, k=k)) for k in (1, 5, 9) for _ in range(8)]
            found = [convert.answer_from_proto(future.result()).top for future in late]
            info = stub.GetShardInfo(shard_pb2.GetShardInfoRequest())
    finally:
        actor.stop(0.0)
    for k, top in zip(np.repeat([1, 5, 9], 8), found, strict=True):
        query = convert.query_from_proto(request(held, k=int(k)))
        expected = held.search(query, time.monotonic() + 60).top
        np.testing.assert_array_equal(top.pids_K, expected.pids_K)
        np.testing.assert_array_equal(top.scores_K, expected.scores_K)
    assert convert.identity_from_proto(info).kernels == "torch (cpu)"


def test_gpus_are_shared_evenly() -> None:
    assert [gpu_share(servers, 4) for servers in (1, 4, 5, 8, 9)] == [1, 1, 0.5, 0.5, 0.3333]
    assert gpu_share(3, 1) * 3 <= 1
    with pytest.raises(Unavailable, match=r"no GPU.*--device cpu"):
        gpu_share(1, 0)


@pytest.mark.parametrize(("before", "wanted", "after"), [(0, 10, 10), (15, 10, 15), (0, 0, 0)])
def test_a_process_gets_the_niceness_that_is_wanted(before: int, wanted: int, after: int) -> None:
    code = (
        "import os; from workers.shard_actor import ShardServerActor; "
        f"os.nice({before} - os.nice(0)); "
        f"ShardServerActor('index', 'g', 's', '', niceness={wanted}); print(os.nice(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == [str(after)], done.stderr
