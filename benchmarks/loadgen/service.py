"""A service under test: two shards, two replicas each, two gateways; queries and their answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colbert_core.api import Index
from colbert_core.types import F32
from loadgen.open_loop import RIGHT, Offered
from loadgen.served import Served, descendants, serving
from loadgen.truth import Truth

DIM = 32
K = 5
SHARDS = REPLICAS = GATEWAYS = 2
TIMEOUT_S = 120.0
QUERY_TIMEOUT_S = 30.0
FAILED_SHARE = 0.001
SHARD_SERVER, GATEWAY, CONTROLLER = "ShardServerActor", "GatewayActor", "ControllerActor"


@dataclass(frozen=True)
class Service:
    """What is asked, and what its answers must be."""

    served: Served
    targets: tuple[str, ...]
    queries: Sequence[F32]
    truth: Truth

    def processes(self, kind: str) -> list[int]:
        """Process ids of the actors of a class."""
        found = descendants(self.served.process.pid)
        # While a method runs, its name and that of the actor stand in the title, too.
        ours = {pid: name for pid, name in found.items() if name.startswith("ray::")}
        return sorted(pid for pid, name in ours.items() if kind in name)

    def end_one(self, kind: str) -> Callable[[], None]:
        """What kills one of them, when it is called."""

        def send() -> None:
            os.kill(self.processes(kind)[0], signal.SIGKILL)

        return send

    def pause_one(self, kind: str, seconds: float) -> None:
        """Stop one of them with SIGSTOP, and let the same one go on, if it is still there."""
        pid = self.processes(kind)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was taken for hung, and replaced
            os.kill(pid, signal.SIGCONT)

    def whole(self) -> bool:
        """Whether everything that should run does."""
        wanted = {SHARD_SERVER: SHARDS * REPLICAS, GATEWAY: GATEWAYS - 1, CONTROLLER: 1}
        return all(len(self.processes(kind)) == count for kind, count in wanted.items())

    def wait_until_whole(self) -> float:
        """Seconds until it is, again."""
        began = time.monotonic()
        while not self.whole():
            assert time.monotonic() - began < TIMEOUT_S, self.served.log.read_text()[-3000:]
            time.sleep(0.2)  # polling other processes; there is no event to wait for
        return time.monotonic() - began


def build(folder: Path, shards: int = SHARDS) -> tuple[Path, list[F32]]:
    """A small index, and queries."""
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal((6, DIM), dtype=np.float32) for _ in range(400)]
    Index.build(folder / "index", vectors, shards=shards, centroids=32, normalize=True)
    queries = [rng.standard_normal((8, DIM), dtype=np.float32) for _ in range(500)]
    return folder / "index", [
        query / np.linalg.norm(query, axis=1, keepdims=True) for query in queries
    ]


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """Build an index and serve it."""
    index, queries = build(folder)
    truth = Truth(K)
    truth.learn(index, queries)
    port = free_ports(GATEWAYS)
    options = ["--replicas", str(REPLICAS), "--gateways", str(GATEWAYS), "--port", str(port)]
    with serving(index, options, folder / "log") as served:
        targets = tuple(f"127.0.0.1:{port + number}" for number in range(GATEWAYS))
        yield Service(served, targets, queries, truth)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                others = [socket.socket() for _ in range(count - 1)]
                for number, other in enumerate(others, 1):
                    other.bind(("127.0.0.1", port + number))
            except OSError:
                continue
            finally:
                for other in others:
                    other.close()
        return port


def check(offered: Offered) -> None:
    """No wrong answer, none that hides a missing shard, and hardly any that failed."""
    lies = {kind for kind in offered.kinds if kind.islower() and kind != RIGHT}
    assert not lies, offered.kinds
    failed = offered.failed
    assert len(failed) <= FAILED_SHARE * len(offered.outcomes), [
        (round(one.at, 2), one.kind, one.message) for one in failed
    ]
