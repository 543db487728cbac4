"""Packets between a gateway and half of its shard servers are lost or late: the other half answers.

The servers of that half are in a network namespace of their own, at the other end of a pair of
virtual devices. Made by root alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loadgen.service import QUERY_TIMEOUT_S, K, build, check
from loadgen.steady import Event, felt, steady
from loadgen.truth import Truth

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from following import Following
from shard_processes import ShardProcess, ShardProcesses

pytestmark = pytest.mark.long

SPACE, HERE, THERE = "tartan-chaos", "tartan-here", "tartan-there"
NEAR, FAR = "10.213.77.1", "10.213.77.2"
RATE = 20.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    """The namespace, reached at FAR."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root alone")
    try:
        ip("netns", "add", SPACE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there are no network namespaces here: {error}")
    try:
        ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", SPACE)
        ip("addr", "add", f"{NEAR}/30", "dev", HERE)
        ip("link", "set", HERE, "up")
        ip("-n", SPACE, "addr", "add", f"{FAR}/30", "dev", THERE)
        ip("-n", SPACE, "link", "set", THERE, "up")
        ip("-n", SPACE, "link", "set", "lo", "up")
        yield SPACE
    finally:
        ip("netns", "del", SPACE)


def cut() -> None:
    """No packet arrives any more, and nobody is told."""
    ip("-n", SPACE, "link", "set", THERE, "down")


def mend() -> None:
    ip("-n", SPACE, "link", "set", THERE, "up")


def impair(*how: str) -> None:
    command = ["tc", "qdisc", "replace", "dev", HERE, "root", "netem", *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        pytest.skip(f"this kernel cannot impair packets: {done.stderr.strip()}")


def unimpair() -> None:
    subprocess.run(["tc", "qdisc", "del", "dev", HERE, "root"], check=True, timeout=30)


def under_load(folder: Path, seconds: float, events: list[Event]) -> None:
    """A load on a gateway with one replica of each shard near, and one far."""
    index, queries = build(folder)
    truth = Truth(K)
    truth.learn(index, queries)
    inside = ["ip", "netns", "exec", SPACE]
    with ShardProcesses(index, replicas=1) as processes:
        manifest = processes.manifest
        for entry, replicas in zip(manifest.shards, processes.shards, strict=True):
            replicas.append(ShardProcess(index, manifest.generation, entry.id, FAR, inside))
        with Following(processes.served) as gateway:
            offered = steady(
                [gateway.address],
                queries,
                truth,
                rate=RATE,
                seconds=seconds,
                timeout_s=QUERY_TIMEOUT_S,
                events=events,
                k=K,
            )
    check(offered)
    for at, _ in events:
        print(felt(offered, at))
    assert np.isfinite(felt(offered, 0.0).worst_ms)


def test_no_packet_arrives_for_ten_seconds(space: str, tmp_path: Path) -> None:
    under_load(tmp_path, 25.0, [(3.0, cut), (13.0, mend)])


def test_packets_are_lost(space: str, tmp_path: Path) -> None:
    impair("loss", "20%")
    try:
        under_load(tmp_path, 20.0, [])
    finally:
        unimpair()


def test_packets_are_late(space: str, tmp_path: Path) -> None:
    impair("delay", "200ms", "100ms")
    try:
        under_load(tmp_path, 20.0, [])
    finally:
        unimpair()
