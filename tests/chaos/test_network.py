"""Packets between a gateway and half of its shard servers are lost or late: the other half answers.

The servers of that half are in a network namespace of their own, at the other end of a link that is
carried packet by packet (slow_link.py). Made by root alone.
"""

from __future__ import annotations

import contextlib
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
from slow_link import Quality, SlowLink

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from following import Following
from shard_processes import ShardProcess, ShardProcesses

SPACE = f"tt-{os.getpid()}"  # what a run that was killed left behind is in nobody's way
NEAR, FAR = "10.213.77.1", "10.213.77.2"
RATE = 20.0


@pytest.fixture
def link() -> Iterator[SlowLink]:
    """To the namespace, reached at FAR."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root alone")
    try:
        opened = SlowLink(SPACE, NEAR, FAR).__enter__()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there are no network namespaces here, or no TUN devices: {error}")
    with contextlib.closing(opened):
        yield opened


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


@pytest.mark.long
def test_no_packet_arrives_for_ten_seconds(link: SlowLink, tmp_path: Path) -> None:
    def cut() -> None:  # and nobody is told
        link.quality = Quality(loss=1.0)

    def mend() -> None:
        link.quality = Quality()

    under_load(tmp_path, 25.0, [(3.0, cut), (13.0, mend)])
    assert link.lost


@pytest.mark.parametrize("seconds", [4.0, pytest.param(20.0, marks=pytest.mark.long)])
def test_packets_are_lost(link: SlowLink, tmp_path: Path, seconds: float) -> None:
    link.quality = Quality(loss=0.2)
    under_load(tmp_path, seconds, [])
    assert 0.15 < link.lost / (link.lost + link.carried) < 0.25


@pytest.mark.long
def test_packets_are_late(link: SlowLink, tmp_path: Path) -> None:
    link.quality = Quality(delay_s=0.2, jitter_s=0.1)
    under_load(tmp_path, 20.0, [])
    assert link.carried
