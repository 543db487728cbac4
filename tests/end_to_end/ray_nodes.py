"""Ray clusters of several nodes: real `ray start` processes of this machine, each with an address
of its own in 127.0.0.0/8, so that an address that names the wrong node does not answer."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import descendants

TIMEOUT_S = 120.0
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@dataclass(frozen=True)
class Nodes:
    """A Ray cluster: its nodes' processes by address, and what a driver's environment is."""

    processes: dict[str, subprocess.Popen[bytes]]
    environment: dict[str, str]
    folder: Path
    dashboard: str | None = None

    def actors(self, address: str, kind: str) -> list[int]:
        """Process ids of the actors of a class on a node."""
        found = descendants(self.processes[address].pid)
        return [pid for pid, command in found.items() if command.startswith(f"ray::{kind}")]

    def join(self, address: str) -> None:
        """A machine joins."""
        self._start(address, f"--address={self.environment['RAY_ADDRESS']}")
        self._said(address, "(Ray runtime started)")

    def end(self, address: str) -> None:
        """Everything of a node dies at once, as if its machine had lost its power."""
        process = self.processes.pop(address)
        for pid in [process.pid, *descendants(process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(TIMEOUT_S)

    def _start(self, address: str, *arguments: str) -> None:
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
        command += ["--block", "--num-cpus=1", "--object-store-memory=100000000", *arguments]
        command += [f"--node-ip-address={address}", "--dashboard-agent-listen-port=0"]
        environment = self.environment | {"RAY_AUTH_MODE": "token"}
        environment.pop("RAY_ADDRESS", None)
        with (self.folder / f"{address}.log").open("wb") as log:
            self.processes[address] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _said(self, address: str, pattern: str) -> str:
        """What a node said, once it has."""
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            text = (self.folder / f"{address}.log").read_text()
            if found := re.search(pattern, re.sub(r"\x1b\[\d+m", "", text)):
                return found[1]
            time.sleep(0.1)  # polling another process; there is no event to wait for
        raise AssertionError(f"node {address} did not say {pattern!r} but:\n{text}")


@contextmanager
def ray_nodes(*, dashboard: bool = False) -> Iterator[Nodes]:
    """Three nodes with one CPU each, and a token that a driver has but was not told to use.

    Args:
        dashboard: whether the head takes submitted jobs.
    """
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, for Ray's sockets
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port() if dashboard else 0
    url = f"http://127.0.0.1:{port}" if dashboard else None
    nodes = Nodes({}, environment, folder, url)
    head = ["--head", "--port=0", f"--temp-dir={folder}"]
    head += [f"--dashboard-port={port}"] if dashboard else ["--include-dashboard=false"]
    try:
        nodes._start(ADDRESSES[0], *head)
        pattern = r"ray start --address='([0-9.:]+)'"
        environment["RAY_ADDRESS"] = nodes._said(ADDRESSES[0], pattern)
        for address in ADDRESSES[1:]:
            nodes.join(address)
        yield nodes
    finally:
        for address in list(nodes.processes):
            nodes.end(address)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port to be listened on later: of those that the system gives to nobody who asks for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("100 ports are in use")
