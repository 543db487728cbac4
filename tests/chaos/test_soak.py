"""Half of what it could answer, for long: memory and descriptors stay what they were, no errors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from loadgen.service import GATEWAY, QUERY_TIMEOUT_S, SHARD_SERVER, K, Service, check
from loadgen.steady import most, steady

RATE = 30.0  # of the short form, which runs beside other tests
AT_ONCE = 16
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
    ("share", "warm_s", "seconds"),
    [
        (None, 4.0, 12.0),
        pytest.param(0.5, 120.0, 1800.0, marks=[pytest.mark.long, pytest.mark.timeout(2400)]),
    ],
)
def test_memory_and_descriptors_are_flat(
    service: Service, share: float | None, warm_s: float, seconds: float
) -> None:
    """At a `share` of what the service can answer at all, as it was just measured."""
    service.wait_until_whole()
    rate = RATE
    if share is not None:
        whole = most(service.targets, service.queries, seconds=10.0, at_once=AT_ONCE, k=K)
        rate = share * whole
        print(f"{whole:.0f} answers a second at most, {rate:.0f} asked")

    def load(duration_s: float) -> None:
        check(
            steady(
                service.targets,
                service.queries,
                service.truth,
                rate=rate,
                seconds=duration_s,
                timeout_s=QUERY_TIMEOUT_S,
                k=K,
            )
        )

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
