"""A real `tartan serve`, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    log: Path


@contextmanager
def serving(
    index: Path, options: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Start it, wait until it answers, and stop it with SIGTERM.

    Args:
        environment: by default this one's, without a Ray to join.

    Raises:
        RuntimeError: it ended, or said nothing in `START_TIMEOUT_S`; with what it said.
    """
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "cluster.cli", "serve", str(index), "--port", "0", *options]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )
    try:
        line = _first_line(process)
        if not line:
            raise RuntimeError(f"tartan serve did not come up: {log.read_text()[-2000:]}")
        yield Served(process, line.split()[-1], log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(process: subprocess.Popen[str]) -> str:
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def descendants(root: int) -> dict[int, str]:
    """Command by process id of everything that a process started, directly or not."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    found: dict[int, str] = {}
    parents = [root]
    while parents:
        parent = parents.pop()
        for pid, ppid, *command in rows:
            if int(ppid) == parent:
                found[int(pid)] = command[0] if command else ""
                parents.append(int(pid))
    return found
