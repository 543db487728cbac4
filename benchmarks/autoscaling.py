"""Replicas and Ray nodes follow the load, and no query is lost: a run on nodes that come and go.

    .venv/bin/python benchmarks/autoscaling.py [--busy 40] [--idle 120] [--clients 8]

A Ray cluster of a head for two shard servers, and nodes for two each that Ray's autoscaler starts
when actors wait for CPUs (loadgen/fake_nodes.py). `tartan serve` with one to three replicas of two
shards. First one client asks now and then, then `--clients` ask all the time, then one again. Each
answer is compared with the index searched in this process. The nodes share this machine's
processors, so that more replicas answer no faster here: what is shown is that they come and go.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from loadgen.fake_nodes import FakeNodes, fake_nodes
from loadgen.served import START_TIMEOUT_S, STOP_TIMEOUT_S

from cluster.client import Client, RetryPolicy
from cluster.client_admin import AdminClient
from cluster.wire.admin import ReplicaPhase
from colbert_core.api import Index
from colbert_core.errors import TartanError

DIM = 64
QUERIES = 16
K = 10
SHARDS = 2
MAX_REPLICAS = 3
SAMPLE_S = 0.5

SERVE = f"""
import sys
from pathlib import Path

from cluster.autoscale import AutoscalePolicy
from cluster.controller.state import Scale
from cluster.gateway import GatewayConfig
from cluster.serve import serve
from cluster.serve_config import ServeConfig

up_s, down_s = map(float, sys.argv[2:])
config = ServeConfig(
    Path(sys.argv[1]).resolve(),
    GatewayConfig(port=0),
    scale=Scale(max_replicas={MAX_REPLICAS}),
    policy=AutoscalePolicy(replica_calls=0.5, up_s=up_s, down_s=down_s),
    shard_cpus=1.0,
)
sys.exit(serve(config))
"""


@dataclass
class Moment:
    """What there was at one time."""

    at: float
    nodes: int
    wanted: int
    ready: int
    draining: int
    in_flight: int
    answers: int
    failed: int
    clients: int


@dataclass
class Run:
    """The whole run."""

    trace: list[Moment] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: int = 0

    def problems(self) -> list[str]:
        """What did not go as it should."""
        found = [f"failed: {message}" for message in self.failures[:3]]
        found += [f"{self.wrong} wrong answers"] if self.wrong else []
        if max(one.nodes for one in self.trace) < 1:
            found.append("no node came")
        if max(one.ready for one in self.trace) < 2 * SHARDS:
            found.append("no replica came")
        last = self.trace[-1]
        if (last.nodes, last.ready, last.wanted) != (0, SHARDS, SHARDS):
            found.append(f"not all went away: {last}")
        return found


class Clients:
    """So many clients that ask all the time, or one that asks now and then."""

    def __init__(self, address: str, index: Index, run: Run) -> None:
        rng = np.random.default_rng(5)
        self._queries = [rng.standard_normal((8, DIM), dtype=np.float32) for _ in range(QUERIES)]
        self._truth = [_listed(index.search(query, k=K, exact=True)) for query in self._queries]
        self._address = address
        self._run = run
        self._threads: list[tuple[threading.Thread, threading.Event]] = []
        self.answers = 0

    def set(self, count: int, pause_s: float) -> None:
        """Change how many there are."""
        self.end()
        for number in range(count):
            over = threading.Event()
            thread = threading.Thread(target=self._ask, args=(number, pause_s, over))
            thread.start()
            self._threads.append((thread, over))

    @property
    def count(self) -> int:
        return len(self._threads)

    def end(self) -> None:
        for _, over in self._threads:
            over.set()
        for thread, _ in self._threads:
            thread.join()
        self._threads = []

    def _ask(self, number: int, pause_s: float, over: threading.Event) -> None:
        with Client(self._address, retry=RetryPolicy(attempts=1), timeout_s=30.0) as client:
            turn = number
            while not over.wait(pause_s):
                turn += 1
                which = turn % QUERIES
                try:
                    answer = client.search(self._queries[which], k=K, exact=True)
                except TartanError as error:
                    self._run.failures.append(f"{type(error).__name__}: {error}")
                    continue
                self.answers += 1
                self._run.wrong += _listed(answer.hits) != self._truth[which]


def _listed(hits: Any) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


def build(folder: Path, passages: int) -> Index:
    """An index of random unit vectors, 16 to a passage."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((passages, 16, DIM), dtype=np.float32)
    return Index.build(folder / "index", list(vectors), shards=SHARDS, centroids=64, normalize=True)


def measure(
    index: Index, *, clients: int, busy_s: float, idle_s: float, up_s: float, down_s: float
) -> Run:
    """Serve, load, and watch.

    Args:
        busy_s: at most, until there are as many replicas as there may be.
        idle_s: at most, until everything has gone again.
        up_s, down_s: of the autoscaling policy.
    """
    run = Run()
    with fake_nodes(head_cpus=SHARDS, node_cpus=SHARDS, nodes=MAX_REPLICAS, idle_s=3.0) as nodes:
        command = [sys.executable, "-c", SERVE, str(index.generation.path), f"{up_s}", f"{down_s}"]
        process = subprocess.Popen(
            command, env=nodes.environment, stdout=subprocess.PIPE, text=True
        )
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            watchdog.cancel()
            if not line:
                raise RuntimeError("tartan serve did not come up")
            _play(run, line.split()[-1], index, nodes, clients, busy_s, idle_s)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)
    return run


def _play(
    run: Run,
    address: str,
    index: Index,
    nodes: FakeNodes,
    clients: int,
    busy_s: float,
    idle_s: float,
) -> None:
    asking = Clients(address, index, run)
    began = time.monotonic()
    with AdminClient(address, timeout_s=30.0) as admin:

        def look() -> Moment:
            moment = _moment(time.monotonic() - began, admin, nodes, asking, run)
            run.trace.append(moment)
            time.sleep(SAMPLE_S)
            return moment

        try:
            asking.set(1, 0.2)
            for _ in range(6):
                look()
            asking.set(clients, 0.0)
            end = time.monotonic() + busy_s
            while look().ready < MAX_REPLICAS * SHARDS and time.monotonic() < end:
                continue
            for _ in range(6):
                look()
            asking.set(1, 0.2)
            end = time.monotonic() + idle_s
            while time.monotonic() < end:
                now = look()
                if (now.nodes, now.ready, now.wanted, now.draining) == (0, SHARDS, SHARDS, 0):
                    break
        finally:
            asking.end()


def _moment(at: float, admin: AdminClient, nodes: FakeNodes, asking: Clients, run: Run) -> Moment:
    live = admin.list_shards().generations[0]
    phases = [one.phase for shard in live.shards for one in shard.replicas]
    return Moment(
        at=round(at, 2),
        nodes=nodes.count(),
        wanted=sum(shard.replicas_wanted for shard in live.shards),
        ready=phases.count(ReplicaPhase.READY),
        draining=phases.count(ReplicaPhase.DRAINING),
        in_flight=admin.stats().in_flight,
        answers=asking.answers,
        failed=len(run.failures),
        clients=asking.count,
    )


def plot(run: Run, path: Path) -> None:
    """Draw the trace."""
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5))
    at = [one.at for one in run.trace]
    for name in ("wanted", "ready", "nodes"):
        label = "Ray nodes beside the head" if name == "nodes" else f"shard servers {name}"
        above.step(at, [getattr(one, name) for one in run.trace], where="post", label=label)
    above.legend(loc="upper right", fontsize=8)
    above.set_ylabel("count")
    rates = [
        (after.answers - before.answers) / max(after.at - before.at, 1e-6)
        for before, after in zip(run.trace, run.trace[1:], strict=False)
    ]
    below.plot(at[1:], rates, label="answers a second")
    below.step(at, [one.clients for one in run.trace], where="post", label="clients")
    below.step(at, [one.failed for one in run.trace], where="post", label="failed, in all")
    below.legend(loc="upper right", fontsize=8)
    below.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Measure, and write the results."""
    from machine import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--busy", type=float, default=90.0, help="seconds, at most")
    parser.add_argument("--idle", type=float, default=180.0, help="seconds, at most")
    parser.add_argument("--up", type=float, default=5.0, help="seconds of the policy")
    parser.add_argument("--down", type=float, default=30.0, help="seconds of the policy")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = build(Path(folder), options.passages)
        run = measure(
            index,
            clients=options.clients,
            busy_s=options.busy,
            idle_s=options.idle,
            up_s=options.up,
            down_s=options.down,
        )
    name = f"autoscaling-{datetime.date.today().isoformat()}"
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    written = {
        "machine": machine(),
        "settings": settings,
        "problems": run.problems(),
        "trace": [asdict(one) for one in run.trace],
    }
    (options.out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    plot(run, options.out / f"{name}.svg")
    last = run.trace[-1]
    print(f"{last.answers} answers, {last.failed} failed, {run.wrong} wrong, in {last.at:.0f} s")
    print("\n".join(run.problems()) or "replicas and nodes came and went, and no query was lost")
    return 1 if run.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
