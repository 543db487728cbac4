"""Half of what it could answer, for long: memory and descriptors stay what they were, no errors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from loadgen.service import GATEWAY, QUERY_TIMEOUT_S, SHARD_SERVER, K, Service, check
from loadgen.steady import steady

RATE = 30.0
GROWTH_MIB = 40


def held(service: Service) -> dict[str, tuple[float, int]]:
    """(anonymous MiB, descriptors) of the gateways and shard servers."""
    ours = {
        f"{kind} {pid}": pid for kind in (SHARD_SERVER, GATEWAY) for pid in service.processes(kind)
    }
    ours["serve"] = service.served.process.pid
    return {
        name: (anonymous_mib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())))
        for name, pid in ours.items()
    }


def anonymous_mib(pid: int) -> float:
    """Memory that is the process's own; that of mapped files is the machine's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])
        / 1024
    )


@pytest.mark.parametrize(
    ("warm_s", "seconds"),
    [(4.0, 12.0), pytest.param(120.0, 1800.0, marks=[pytest.mark.long, pytest.mark.timeout(2400)])],
)
def test_memory_and_descriptors_are_flat(service: Service, warm_s: float, seconds: float) -> None:
    def load(duration_s: float) -> None:
        check(
            steady(
                service.targets,
                service.queries,
                service.truth,
                rate=RATE,
                seconds=duration_s,
                timeout_s=QUERY_TIMEOUT_S,
                k=K,
            )
        )

    service.wait_until_whole()
    load(warm_s)
    before = held(service)
    assert len(service.processes(SHARD_SERVER)) == 4
    began = time.monotonic()
    load(seconds)
    assert time.monotonic() - began >= seconds
    after = held(service)
    assert set(after) == set(before), "a process was started again"
    for name, (memory_mib, descriptors) in after.items():
        assert memory_mib < before[name][0] + GROWTH_MIB, (name, before[name], after[name])
        assert descriptors <= before[name][1] + 4, (name, before[name], after[name])
