"""A gateway follows its table: warm beside the old, switch, finish on the old, let go of it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from following import Following
from local_cluster import FixedTable, LoopThread, replicas_at, served, unit_vectors

from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.gateway import Gateway, GatewayConfig
from cluster.gateway_encoder import Encoders, LazyEncoder
from cluster.topology import RoutingTable, ServedGeneration
from cluster.wire.shard_channel import ShardChannel
from colbert_core.api import Index
from colbert_core.errors import Unavailable
from colbert_core.index import open_generation
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

ONCE = RetryPolicy(attempts=1)


def query(seed: int = 0) -> Any:
    return unit_vectors(np.random.default_rng(seed), 5)


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose second generation is live, and has other passages than the first."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("two") / "index"
    vectors = [unit_vectors(rng, 6) for _ in range(40)]
    built = Index.build(path, vectors, ids=[f"old{n}" for n in range(40)], shards=2, centroids=16)
    added = [unit_vectors(rng, 6) for _ in range(40)]
    built.add(added, ids=[f"new{n}" for n in range(40)])
    return path


class Serving:
    """Shard servers of one generation of an index."""

    def __init__(self, index: Path, generation: str | None) -> None:
        self.manifest = open_generation(index, shards=(), generation=generation).manifest
        self.servers = [
            ShardServer(HeldShard.open(index, self.manifest.generation, shard.id), threads=2)
            for shard in self.manifest.shards
        ]
        for server in self.servers:
            server.start()
        addresses = [[server.address] for server in self.servers]
        self.generation: ServedGeneration = served(index, self.manifest, addresses)

    def stop(self) -> None:
        for server in self.servers:
            server.stop(0.0)


@pytest.fixture
def newer(two_generations: Path) -> Iterator[Serving]:
    serving = Serving(two_generations, None)
    yield serving
    serving.stop()


@pytest.fixture
def older(two_generations: Path, newer: Serving) -> Iterator[Serving]:
    parent = newer.manifest.parent
    assert parent
    serving = Serving(two_generations, parent)
    yield serving
    serving.stop()


def test_a_generation_is_warmed_beside_the_old_and_switched_to(
    older: Serving, newer: Serving
) -> None:
    old, new = older.generation, newer.generation
    with Following(old) as gateway, Client(gateway.address, retry=ONCE) as client:
        gateway.set(old, warming=new)
        gateway.wait(lambda report: report.warmed == new.generation)
        assert gateway.report().live == old.generation
        answer = client.search(query(), k=80)
        assert answer.generation == old.generation
        assert {hit.id[:3] for hit in answer.hits} == {"old"}

        gateway.set(new)
        gateway.wait(lambda report: report.in_use == (new.generation,))
        assert gateway.report().live == new.generation
        older.stop()
        for seed in range(4):
            answer = client.search(query(seed), k=80)
            assert answer.generation == new.generation
            assert {hit.id[:3] for hit in answer.hits} == {"old", "new"}
        assert client.info().passages == 80


def test_a_generation_that_is_let_go_of_needs_no_search_for_garbage(
    older: Serving, newer: Serving
) -> None:
    """A gateway leaves the first out of that search (workers/heap.py): it must go all the same."""
    old, new = older.generation, newer.generation
    with Following(old) as gateway, Client(gateway.address, retry=ONCE) as client:
        assert client.search(query(), k=5, explain=True).generation == old.generation
        current = gateway.gateway._follower.current
        assert current is not None
        table = weakref.ref(current.opened.codec)
        del current
        gc.disable()
        try:
            gateway.set(new)
            gateway.wait(lambda report: report.in_use == (new.generation,))
            gateway.wait(lambda _: table() is None)
        finally:
            gc.enable()


class Blocking:
    """An encoder that waits for the test, but not with the gateway's own first query."""

    def __init__(self) -> None:
        self.entered, self.free = threading.Event(), threading.Event()

    def encode_queries(self, texts: list[str]) -> list[Any]:
        if texts != ["warm-up"]:
            self.entered.set()
            assert self.free.wait(60.0)
        return [query() for _ in texts]

    def query_tokens(self, text: str) -> list[str]:
        return ["t"] * 5

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        return []


def test_a_query_ends_on_the_generation_that_it_began_with(older: Serving, newer: Serving) -> None:
    old, new = older.generation, newer.generation
    blocking = Blocking()
    encoder = LazyEncoder("blocking", lambda: blocking)
    with (
        Following(old, encoder) as gateway,
        Client(gateway.address, retry=ONCE, timeout_s=60.0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        under_way = pool.submit(client.search, "word", 80)
        assert blocking.entered.wait(60.0)
        gateway.set(old, warming=new)
        gateway.wait(lambda report: report.warmed == new.generation)
        gateway.set(new)
        gateway.wait(lambda report: report.live == new.generation)
        assert client.search(query(), k=80).generation == new.generation
        report = gateway.report()
        assert set(report.in_use) == {old.generation, new.generation}
        assert report.in_flight == 1
        blocking.free.set()
        answer = under_way.result(60.0)
        assert answer.generation == old.generation
        assert {hit.id[:3] for hit in answer.hits} == {"old"}
        gateway.wait(lambda report: report.in_use == (new.generation,))


def test_a_generation_that_cannot_be_warmed_is_a_problem_and_changes_nothing(
    older: Serving, newer: Serving
) -> None:
    old = older.generation
    shards = [replace(shard, replicas=old.shards[0].replicas) for shard in newer.generation.shards]
    wrong = replace(newer.generation, shards=tuple(shards))
    missing = replace(old, generation="0" * 16)
    with Following(old) as gateway, Client(gateway.address, retry=ONCE) as client:
        for warming, part in ((wrong, "IndexMissing: shard server .* holds shard"), (missing, "")):
            gateway.set(old, warming=warming)
            gateway.wait(lambda report: bool(report.problem))
            problem = gateway.report().problem
            assert problem.startswith(f"generation {warming.generation}: ")
            assert part.split(":")[0] in problem
            assert gateway.report().warmed == ""
            assert client.search(query()).generation == old.generation
            gateway.set(old)
            gateway.wait(lambda report: not report.problem)


def test_while_the_controller_is_away_the_last_table_holds(older: Serving, newer: Serving) -> None:
    with Following(older.generation) as gateway, Client(gateway.address, retry=ONCE) as client:
        gateway.source.away = True
        gateway.wait(lambda _: gateway.source.asked_while_away >= 2)
        assert client.search(query()).generation == older.generation.generation
        gateway.source.away = False
        gateway.set(newer.generation)  # never announced as warming: the old answers meanwhile
        gateway.wait(lambda report: report.live == newer.generation.generation)
        assert client.search(query()).generation == newer.generation.generation


def test_an_older_table_is_none(older: Serving, newer: Serving) -> None:
    with Following(older.generation) as gateway, Client(gateway.address, retry=ONCE) as client:

        async def apply() -> None:
            gateway.gateway._follower.apply(RoutingTable(0, newer.generation))

        gateway.loop.run(apply())
        assert gateway.report().version == 1
        assert client.search(query()).generation == older.generation.generation


def test_generations_are_switched_under_load_and_no_answer_is_mixed_or_lost(
    two_generations: Path, older: Serving, newer: Serving
) -> None:
    old, new = older.generation, newer.generation
    truth = {
        one.generation: [hit.id for hit in _hits(two_generations, one.generation)]
        for one in (old, new)
    }
    ended = threading.Event()
    seen: set[str] = set()

    def ask(client: Client) -> int:
        asked = 0
        while not ended.is_set():
            answer = client.search(query(), k=60, exact=True)
            assert [hit.id for hit in answer.hits] == truth[answer.generation]
            seen.add(answer.generation)
            asked += 1
        return asked

    with (
        Following(old) as gateway,
        Client(gateway.address, retry=ONCE, timeout_s=60.0) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        asking = [pool.submit(ask, client) for _ in range(3)]
        try:
            for live, after in ((old, new), (new, old)) * 3:
                gateway.set(live, warming=after)
                gateway.wait(lambda report, to=after: report.warmed == to.generation)
                gateway.set(after)
                gateway.wait(lambda report, to=after: report.in_use == (to.generation,))
        finally:
            ended.set()
        assert all(one.result(60.0) > 0 for one in asking)
    assert seen == set(truth)


def _hits(index: Path, generation: str) -> Any:
    return Index(open_generation(index, generation=generation)).search(query(), k=60, exact=True)


def test_a_gateway_without_servers_is_not_ready_and_says_why(newer: Serving) -> None:
    shards = tuple(replace(shard, replicas=replicas_at()) for shard in newer.generation.shards)
    loop = LoopThread()

    async def run() -> None:
        table = RoutingTable(1, replace(newer.generation, shards=shards))
        config = GatewayConfig(port=0, warm_timeout_s=0.2)
        gateway = Gateway(FixedTable(table), config, ShardChannel)
        await gateway.start()
        with pytest.raises(Unavailable, match=r"shard \S+ \(1 of \d\) does not answer"):
            await gateway.ready(1.5)
        await gateway.stop(0.1)

    loop.run(run())
    loop.close()


def test_generations_of_one_model_share_its_encoder_for_as_long_as_one_is_open() -> None:
    made = []

    def make(generation: Any) -> LazyEncoder:
        made.append(generation)
        return LazyEncoder("m", None)

    encoders = Encoders(make)
    first, same, other = (
        SimpleNamespace(model={"weights_sha256": digest, "dim": 8}) for digest in "aab"
    )
    held: Any = encoders.of(first)  # type: ignore[arg-type]
    assert encoders.of(same) is held  # type: ignore[arg-type]
    assert encoders.of(other) is not held  # type: ignore[arg-type]
    del held
    gc.collect()
    encoders.of(first)  # type: ignore[arg-type]
    assert made == [first, other, first]
