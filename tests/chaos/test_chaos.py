"""Processes of a service die or stop under steady load, and clients do not notice.

Every answer is compared with the truth, and must stand for all shards. Clients ask again as ours
do. How long the load felt each is in benchmarks/results (`benchmarks/chaos.py`).
"""

from __future__ import annotations

import pytest
from loadgen.service import (
    CONTROLLER,
    GATEWAY,
    QUERY_TIMEOUT_S,
    SHARD_SERVER,
    K,
    Service,
    check,
)
from loadgen.steady import steady

RATE = 20.0


@pytest.mark.parametrize("kind", [SHARD_SERVER, GATEWAY, CONTROLLER])
@pytest.mark.parametrize("seconds", [6.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_one_is_killed(service: Service, kind: str, seconds: float) -> None:
    service.wait_until_whole()
    offered = steady(
        service.targets,
        service.queries,
        service.truth,
        rate=RATE,
        seconds=seconds,
        timeout_s=QUERY_TIMEOUT_S,
        events=[(1.5, service.end_one(kind))],
        k=K,
    )
    check(offered)
    service.wait_until_whole()


@pytest.mark.parametrize("paused_s", [2.0, pytest.param(10.0, marks=pytest.mark.long)])
def test_a_shard_server_stands_still(service: Service, paused_s: float) -> None:
    service.wait_until_whole()
    offered = steady(
        service.targets,
        service.queries,
        service.truth,
        rate=RATE,
        seconds=paused_s + 4.0,
        timeout_s=QUERY_TIMEOUT_S,
        events=[(1.0, lambda: service.pause_one(SHARD_SERVER, paused_s))],
        k=K,
    )
    check(offered)
    service.wait_until_whole()
