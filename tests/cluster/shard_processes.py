"""Shard servers as processes of their own, which can be killed and paused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from local_cluster import replicas_at

from cluster.topology import ServedGeneration, ShardPlace
from colbert_core.index import open_generation

SERVER = """
import sys, time
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer
server = ShardServer(HeldShard.open(*sys.argv[2:]), threads=2, host=sys.argv[1])
server.start()
print(server.address, flush=True)
time.sleep(3600)
"""


class ShardProcess:
    """One shard server. Begins to start when made; `address` waits for it."""

    def __init__(
        self,
        index: Path,
        generation: str,
        shard: str,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        """`inside`: the command that it is run by, such as one that enters a namespace."""
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-c", SERVER, host, str(index), generation, shard],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._address = ""

    @property
    def address(self) -> str:
        if not self._address:
            assert self._process.stdout is not None
            self._address = self._process.stdout.readline().strip()
            assert self._address, "a shard server did not start"
        return self._address

    def kill(self) -> None:
        """End it as the system would."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class ShardProcesses:
    """`replicas` processes for each shard of an index. A context manager."""

    def __init__(self, index: Path, replicas: int) -> None:
        self._index = index
        self.manifest = open_generation(index, shards=()).manifest
        self.shards = [
            [self.start(number) for _ in range(replicas)]
            for number in range(len(self.manifest.shards))
        ]

    def start(self, shard: int) -> ShardProcess:
        """Another server of a shard."""
        entry = self.manifest.shards[shard]
        return ShardProcess(self._index, self.manifest.generation, entry.id)

    @property
    def served(self) -> ServedGeneration:
        """Where they all are, those that were killed included."""
        shards = tuple(
            ShardPlace(
                entry.id,
                entry.live_passages,
                entry.live_tokens,
                replicas_at(*(one.address for one in processes)),
            )
            for entry, processes in zip(self.manifest.shards, self.shards, strict=True)
        )
        return ServedGeneration(str(self._index), self.manifest.generation, shards)

    def __enter__(self) -> ShardProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (one for processes in self.shards for one in processes):
            process.kill()
