"""Processes that tests start, listen to, and count."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 150.0
DRIVER = [sys.executable, "-c", Path(__file__).with_name("doomed_driver.py").read_text()]
"""The program of doomed_driver.py; run so, it finds our packages as the tests do."""


def tartan(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own; by default without a Ray to join."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *arguments],
        **({"stdout": subprocess.PIPE, "env": environment, "text": True} | options),
    )


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line that the process prints; "" if it ends before, or takes too long."""
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def descendants(root: int) -> dict[int, str]:
    """Command by process id of everything that `root` started, directly or not."""
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


def listening_ports(pid: int) -> set[int]:
    """TCP ports that a process listens on, as the kernel lists them."""
    listening = "0A"
    inodes = {}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == listening:
                inodes[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            links.add(str(descriptor.readlink()))
    return {port for link, port in inodes.items() if link in links}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
