"""Searches over lines: as calls are in all that counts, and calls where there is no line."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import grpc
import numpy as np
import pytest
from local_cluster import unit_vectors

from cluster.telemetry.registry import Registry
from cluster.telemetry.shard_metrics import ShardMetrics
from cluster.wire import shard_lines
from cluster.wire.request_context import begin_request
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.tartan.shard.v1 import shard_pb2, shard_pb2_grpc
from cluster.wire.types import ShardAnswer, ShardQuery
from colbert_core.errors import DeadlineExceeded, IndexMissing, NotAuthenticated, Unavailable
from colbert_core.index import open_generation
from workers import shard_lines as served_lines
from workers import shard_server
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer, _Servicer

TIMEOUT_S = 20.0
TOKEN = "right"


class Slow:
    """A held shard that searches when it is told to."""

    def __init__(self, held: HeldShard) -> None:
        self._held = held
        self.go = threading.Event()
        self.go.set()
        self.begun = 0
        self.at_once = 0
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held, name)

    def search(self, query: ShardQuery, deadline: float) -> ShardAnswer:
        self.begun += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.go.wait(TIMEOUT_S)
        self.at_once -= 1
        return self._held.search(query, deadline)


@pytest.fixture
def held(small_index: Path) -> Slow:
    manifest = open_generation(small_index, shards=()).manifest
    return Slow(HeldShard.open(small_index, manifest.generation, manifest.shards[1].id))


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def server(held: Slow, registry: Registry) -> Iterator[ShardServer]:
    metrics = ShardMetrics(registry, held.identity, held.mapped_bytes, lambda: 0)
    server = ShardServer(held, threads=2, token=TOKEN, interceptors=[metrics])  # type: ignore[arg-type]
    server.start()
    yield server
    held.go.set()
    server.stop(0.0)


def query(held: Slow, **changes: Any) -> ShardQuery:
    values = {"generation": held.generation, "k": 5, "candidates": 1, "scored": 1, "exact": True}
    query_LD = unit_vectors(np.random.default_rng(1), 4)
    return ShardQuery(
        query_LD=query_LD, probe_ids_LP=None, probe_scores_LP=None, **(values | changes)
    )


def on(server: ShardServer, held: Slow, test: Callable[[ShardChannel], Awaitable[Any]]) -> Any:
    """What a test gives that has a channel to the server."""

    async def run() -> Any:
        channel = ShardChannel(server.address, held.identity.shard_id, TOKEN)
        try:
            return await test(channel)
        finally:
            await channel.close()

    return asyncio.run(run())


def searches(registry: Registry, held: Slow, code: str = "OK") -> float:
    labels = {"shard": held.identity.shard_id, "method": "Search", "code": code}
    return registry.collectors.get_sample_value("tartan_server_calls_total", labels) or 0.0


async def until(held: Slow, begun: int) -> None:
    end = time.monotonic() + TIMEOUT_S
    while held.begun < begun:
        assert time.monotonic() < end, f"{held.begun} of {begun} searches began"
        await asyncio.sleep(0.005)


def test_one_line_carries_searches_one_after_another(
    server: ShardServer, held: Slow, registry: Registry
) -> None:
    async def three(channel: ShardChannel) -> list[ShardAnswer]:
        answers = [await channel.search(query(held), TIMEOUT_S) for _ in range(3)]
        assert channel._lines._open == len(channel._lines._free) == 1
        channel._lines._not_before = float("inf")
        channel._lines._free.clear()
        return [*answers, await channel.search(query(held), TIMEOUT_S)]  # a call

    answers = on(server, held, three)
    for answer in answers[:3]:
        assert answer.top.pids_K.tolist() == answers[3].top.pids_K.tolist()
        assert answer.top.scores_K.tolist() == answers[3].top.scores_K.tolist()
    assert searches(registry, held) == 4


def test_a_refusal_is_that_of_a_call_and_the_line_goes_on(
    server: ShardServer, held: Slow, registry: Registry
) -> None:
    async def refused(channel: ShardChannel) -> None:
        told = []
        for _ in range(2):
            begin_request([("x-request-id", "who-asked")])
            with pytest.raises(IndexMissing, match="not shard") as caught:
                await channel.search(query(held, generation="gone"), TIMEOUT_S)
            told.append((str(caught.value), caught.value.__notes__))
            assert channel._lines._open == len(channel._lines._free) == (not told[1:])
            channel._lines._free.clear()
            channel._lines._open = 0
            channel._lines._not_before = float("inf")  # the second time it is a call
        assert told[0] == told[1]
        assert told[0][1] == ["request who-asked"]

    on(server, held, refused)
    assert searches(registry, held, "NOT_FOUND") == 2


def test_at_most_as_many_work_at_once_and_the_rest_wait_by_line_or_call(
    server: ShardServer, held: Slow
) -> None:
    async def many(channel: ShardChannel) -> None:
        held.go.clear()
        asked = [asyncio.create_task(channel.search(query(held), TIMEOUT_S)) for _ in range(9)]
        await until(held, 2)
        await asyncio.sleep(0.2)
        assert held.begun == held.at_once == 2
        assert channel._lines._open == shard_lines.MOST_LINES
        with pytest.raises(DeadlineExceeded):  # a probe waits its turn, too
            await channel.probe(held.generation, 0.2)
        held.go.set()
        answers = await asyncio.gather(*asked)
        assert len({tuple(answer.top.pids_K.tolist()) for answer in answers}) == 1
        assert channel._lines._open == len(channel._lines._free) == shard_lines.MOST_LINES

    on(server, held, many)
    assert held.begun == 9
    assert held.most == 2


def test_who_stops_waiting_lets_go_of_the_line_and_is_not_begun(
    server: ShardServer, held: Slow
) -> None:
    async def impatient(channel: ShardChannel) -> None:
        await channel.search(query(held), TIMEOUT_S)
        held.go.clear()
        busy = [asyncio.create_task(channel.search(query(held), TIMEOUT_S)) for _ in range(2)]
        await until(held, 3)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"did not answer in 0\.2 s"):
            await channel.search(query(held), 0.2)
        assert 0.1 < time.monotonic() - began < 5
        cancelled = asyncio.create_task(channel.search(query(held), TIMEOUT_S))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert channel._lines._open == 2
        held.go.set()
        await asyncio.gather(*busy)
        await channel.search(query(held), TIMEOUT_S)

    on(server, held, impatient)
    assert held.begun == 4


def test_where_a_server_takes_no_more_lines_searches_are_calls(
    server: ShardServer, held: Slow, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_lines, "MOST_LINES", 0)
    monkeypatch.setattr(shard_lines, "PAUSE_S", 60.0)

    async def as_calls(channel: ShardChannel) -> None:
        for _ in range(2):
            await channel.search(query(held), TIMEOUT_S)
            assert channel._lines._open == 0
        monkeypatch.setattr(served_lines, "MOST_LINES", 1)
        await channel.search(query(held), TIMEOUT_S)
        assert channel._lines._open == 0  # it is not asked again at once
        channel._lines._not_before = 0.0  # as if the pause were over
        await channel.search(query(held), TIMEOUT_S)
        assert channel._lines._open == 1

    on(server, held, as_calls)
    assert searches(registry, held) == 4


def test_a_server_that_knows_no_lines_is_asked_for_one_once(
    server: ShardServer, held: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unknown(self: Any, requests: Any, context: Any) -> Any:
        asked.append(self)
        return shard_pb2_grpc.ShardServiceServicer.Searches(self, requests, context)

    monkeypatch.setattr(_Servicer, "Searches", unknown)
    old = ShardServer(held, threads=1, token=TOKEN)  # type: ignore[arg-type]
    old.start()

    async def twice(channel: ShardChannel) -> None:
        for _ in range(2):
            await channel.search(query(held), TIMEOUT_S)
        assert channel._lines._open == 0

    on(old, held, twice)
    old.stop(0.0)
    assert len(asked) == 1


def test_bytes_that_are_no_search_are_told_so_and_the_line_goes_on(
    server: ShardServer, held: Slow
) -> None:
    good = shard_pb2.SearchesRequest(timeout_s=TIMEOUT_S).SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        line = channel.stream_stream(
            "/tartan.shard.v1.ShardService/Searches",
            response_deserializer=shard_pb2.SearchesResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        told = list(line(iter([b"\xff\xff", good]), metadata=metadata, timeout=TIMEOUT_S))
        assert [one.WhichOneof("result") for one in told] == ["problem", "problem"]
        assert told[0].problem.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "are not a tartan.shard.v1.SearchesRequest" in told[0].problem.message
        assert told[1].problem.error == "IndexMissing"


def test_a_line_needs_the_token(server: ShardServer, held: Slow) -> None:
    async def refused() -> None:
        channel = ShardChannel(server.address, held.identity.shard_id, "wrong")
        with pytest.raises(NotAuthenticated):
            await channel.search(query(held), TIMEOUT_S)
        assert channel._lines._open == 0
        await channel.close()

    asyncio.run(refused())
    assert held.begun == 0


def test_a_server_that_stops_ends_its_lines(server: ShardServer, held: Slow) -> None:
    async def stopped(channel: ShardChannel) -> None:
        await channel.search(query(held), TIMEOUT_S)
        held.go.clear()
        waiting, idle = channel._lines, asyncio.create_task(channel.search(query(held), TIMEOUT_S))
        await until(held, 2)
        second = asyncio.create_task(channel.search(query(held), TIMEOUT_S))
        await until(held, 3)
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        ending = loop.run_in_executor(None, server.stop, 10.0)
        await asyncio.sleep(0.2)
        held.go.set()
        for answered in (idle, second):  # what is under way is finished
            assert len((await answered).top.pids_K) == 5
        await ending
        assert time.monotonic() - began < 5
        with pytest.raises(Unavailable):
            await channel.search(query(held), 2.0)
        assert waiting._open == len(waiting._free)  # one that ended while it was free shows later

    on(server, held, stopped)


def test_idle_lines_do_not_hold_up_a_stop(server: ShardServer, held: Slow) -> None:
    async def idle(channel: ShardChannel) -> None:
        await channel.search(query(held), TIMEOUT_S)
        assert channel._lines._open == 1
        began = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, server.stop, 10.0)
        assert time.monotonic() - began < 5

    on(server, held, idle)


VANISHING = """
import asyncio, sys
sys.path[:0] = sys.argv[4:]
from cluster.wire.shard_channel import ShardChannel
from test_shard_lines import query

class Meant:
    generation = sys.argv[3]

async def run():
    channel = ShardChannel(sys.argv[1], sys.argv[2], "right")
    await channel.search(query(Meant), 20.0)
    print("asked", flush=True)
    await asyncio.sleep(600)

asyncio.run(run())
"""


def test_lines_of_a_gateway_that_vanished_are_ended(
    held: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = [(name, 1_000) for name, _ in shard_server.VANISHED_OPTIONS]
    monkeypatch.setattr(shard_server, "VANISHED_OPTIONS", soon)
    server = ShardServer(held, threads=1, token=TOKEN)  # type: ignore[arg-type]
    server.start()
    command = [sys.executable, "-c", VANISHING, server.address, held.identity.shard_id]
    here = str(Path(__file__).parent)
    gateway = subprocess.Popen([*command, held.generation, here], stdout=PIPE, text=True)
    try:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "asked\n"
        assert server._lines._open == 1
        gateway.send_signal(signal.SIGSTOP)  # nothing is closed, and nothing answered
        end = time.monotonic() + TIMEOUT_S
        while server._lines._open:
            assert time.monotonic() < end, f"the line is still open after {TIMEOUT_S:.0f} s"
            time.sleep(0.05)
    finally:
        gateway.kill()
        gateway.wait()
        server.stop(0.0)
