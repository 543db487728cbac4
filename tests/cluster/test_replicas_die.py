"""Real shard servers killed and paused under load: with two replicas nobody who asks notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_shards import Seen
from following import Following
from local_cluster import unit_vectors
from shard_processes import ShardProcesses

from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.fan_out import TailPolicy
from cluster.gateway_config import GatewayConfig
from colbert_core.api import Index
from colbert_core.errors import TartanError

ONCE = RetryPolicy(attempts=1)
SEEDS = 12


def query(seed: int) -> Any:
    return unit_vectors(np.random.default_rng(seed), 5)


class Load:
    """Clients that ask one query after another and hold each answer to the truth."""

    def __init__(self, address: str, index: Path, threads: int) -> None:
        opened = Index.open(index)
        self._truth = [
            [(hit.id, hit.score) for hit in opened.search(query(seed), k=10)]
            for seed in range(SEEDS)
        ]
        self._client = Client(address, retry=ONCE, timeout_s=20.0)
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self.answers = 0
        self.errors: list[str] = []
        self._tasks = [self._pool.submit(self._ask, first) for first in range(threads)]

    def _ask(self, seed: int) -> None:
        while not self._ended.is_set():
            seed = (seed + 1) % SEEDS
            try:
                answer = self._client.search(query(seed), k=10)
            except TartanError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            assert [(hit.id, hit.score) for hit in answer.hits] == self._truth[seed]
            assert answer.coverage.complete
            self.answers += 1

    def more(self, answers: int = 60) -> None:
        """Wait for so many more answers."""
        wanted, end = self.answers + answers, time.monotonic() + 60.0
        while self.answers < wanted:
            assert time.monotonic() < end, f"waited 60 s for answers: {self.errors[:3]}"
            time.sleep(0.01)

    def end(self) -> None:
        self._ended.set()
        for task in self._tasks:
            task.result(60.0)
        self._pool.shutdown()
        self._client.close()


@contextmanager
def under_load(address: str, index: Path) -> Iterator[Load]:
    load = Load(address, index, threads=3)
    try:
        load.more()
        yield load
    finally:
        load.end()


@pytest.fixture
def processes(small_index: Path) -> Iterator[ShardProcesses]:
    with ShardProcesses(small_index, replicas=2) as processes:
        yield processes


def test_killed_paused_and_back_again(small_index: Path, processes: ShardProcesses) -> None:
    seen = Seen()
    config = GatewayConfig(port=0, tail=TailPolicy(eject_s=0.2))
    with Following(processes.served, config=config, observer=seen) as gateway:
        with under_load(gateway.address, small_index) as load:
            killed = processes.shards[0][0]
            killed.kill()
            load.more()
            processes.shards[0][0] = processes.start(0)
            version = gateway.source.table.version + 1
            gateway.set(processes.served)
            gateway.wait(lambda report: report.version == version)
            load.more()

            paused = processes.shards[1][1]
            before = len(seen.names("ejected"))
            paused.pause()
            load.more()
            gateway.wait(lambda _: paused.address in seen.names("ejected")[before:])
            load.more()
            paused.go_on()
            gateway.wait(lambda _: paused.address in seen.names("readmitted"))
            load.more()

            processes.shards[0][1].kill()  # the one that was there before: the new one answers
            load.more()
        assert not load.errors
    assert killed.address not in {one.replica_id for one in seen.calls[-20:]}
