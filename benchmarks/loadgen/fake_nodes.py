"""A Ray cluster on this machine whose autoscaler brings nodes up and takes them down.

Each node is a raylet of its own, started by Ray's fake node provider. Ray's `AutoscalingCluster` is
not used: it needs a file that the wheel lacks, and ends every Ray of the machine when it starts.
"""

from __future__ import annotations

import json
import os
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0
ADDRESS = "127.0.0.2"  # what is called 127.0.0.1 Ray looks for under the machine's other address
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@dataclass(frozen=True)
class FakeNodes:
    """The running cluster: what a driver's environment is, and where Ray's own files lie."""

    environment: dict[str, str]
    folder: Path

    def count(self) -> int:
        """Nodes beside the head: raylets that run."""
        return (
            sum(
                os.fsencode("/raylet/raylet") in command
                for _, command in _processes_naming(self.folder)
            )
            - 1
        )


@contextmanager
def fake_nodes(*, head_cpus: int, node_cpus: int, nodes: int, idle_s: float) -> Iterator[FakeNodes]:
    """A head, and up to `nodes` nodes that come when actors wait for CPUs and go when idle.

    Raises:
        RuntimeError: the head did not start; with what it said.
    """
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, for Ray's sockets
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    port = _free_port()
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(_config(f"{ADDRESS}:{port}", head_cpus, node_cpus, nodes, idle_s)))
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
    command += ["--head", "--block", f"--port={port}", f"--num-cpus={head_cpus}"]
    command += [f"--node-ip-address={ADDRESS}", f"--temp-dir={folder}"]
    command += ["--include-dashboard=false", "--dashboard-agent-listen-port=0"]
    command += ["--object-store-memory=100000000", f"--autoscaling-config={config}"]
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    log = folder / "head.log"
    with log.open("wb") as out:
        head = subprocess.Popen(
            command,
            env=environment | own,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(log, r"Ray runtime started", head)
        environment["RAY_ADDRESS"] = f"{ADDRESS}:{port}"
        yield FakeNodes(environment, folder)
    finally:
        named = [pid for pid, _ in _processes_naming(folder)]
        for pid in [head.pid, *_processes_under(head.pid), *named]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait(TIMEOUT_S)
        shutil.rmtree(folder, ignore_errors=True)


def _config(address: str, head_cpus: int, node_cpus: int, nodes: int, idle_s: float) -> Any:
    unused = ("initialization", "setup", "head_setup", "worker_setup")
    start = ("head_start_ray_commands", "worker_start_ray_commands")
    commands = [*(f"{name}_commands" for name in unused), *start, "cluster_synced_files"]
    return {
        **{name: [] for name in commands},
        "auth": {},
        "file_mounts": {},
        "docker": {},
        "cluster_name": "fake",
        "max_workers": nodes,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD,
            "gcs_address": address,
        },
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": head_cpus},
                "node_config": {},
                "max_workers": 0,
            },
            "small": {
                "resources": {"CPU": node_cpus, "object_store_memory": 100_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": nodes,
            },
        },
        "head_node_type": "ray.head.default",
    }


def _wait_for(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not re.search(pattern, text := log.read_text()):
        if time.monotonic() > end or process.poll() is not None:
            raise RuntimeError(f"the head did not say {pattern!r} but:\n{text}")
        time.sleep(0.1)  # polling another process; there is no event to wait for


def _processes_under(root: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found, parents = [], [root]
    while parents:
        parent = parents.pop()
        children = [pid for pid, ppid in rows if ppid == parent]
        found += children
        parents += children
    return found


def _processes_naming(folder: Path) -> list[tuple[int, bytes]]:
    """Process ids and commands of those that have the folder on their command line: also of nodes
    whose parent has ended."""
    found = []
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if os.fsencode(folder) in (command := arguments.read_bytes()):
                found.append((int(arguments.parent.name), command))
    return [(pid, command) for pid, command in found if pid != os.getpid()]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
