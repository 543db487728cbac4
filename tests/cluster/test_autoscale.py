"""How many replicas and gateways for which load: bounds, no flapping, monotone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.autoscale import AutoscalePolicy, Sample, decide, needed_replicas, rescaled
from cluster.controller.state import Scale

POLICY = AutoscalePolicy()
WIDE = Scale(2, 1, 20, 1, 1, 10)
loads = st.builds(
    Sample,
    at=st.just(0.0),
    shard_calls=st.floats(0, 100),
    shard_cpu=st.floats(0, 20),
    queries=st.floats(0, 1000),
    gateway_cpu=st.floats(0, 10),
    queue_delay_ms=st.floats(0, 5000),
)
scales = st.builds(
    lambda low, more, most, gateways: Scale(
        low + more, low, low + more + most, 1 + gateways, 1, 4 + gateways
    ),
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(0, 9),
    st.integers(0, 3),
)


def run(scale: Scale, load: Sample, seconds: int) -> list[Scale]:
    """The scale at each second of a load that stays as it is."""
    samples: list[Sample] = []
    changed_at, seen = 0.0, [scale]
    for second in range(1, seconds):
        samples.append(replace(load, at=float(second)))
        after = rescaled(POLICY, seen[-1], samples, float(second), changed_at)
        if after != seen[-1]:
            changed_at = float(second)
        seen.append(after)
    return seen


@given(scales, st.lists(loads, max_size=20), st.floats(0, 200))
def test_it_stays_within_the_bounds(scale: Scale, samples: list[Sample], now: float) -> None:
    spread = [replace(one, at=now - 1 + i / 20) for i, one in enumerate(samples)]
    after = rescaled(POLICY, scale, spread, now, 0.0)
    assert scale.min_replicas <= after.replicas <= scale.max_replicas
    assert scale.min_gateways <= after.gateways <= scale.max_gateways


@given(scales, loads)
@settings(max_examples=20)
def test_a_constant_load_is_followed_and_then_nothing_moves(scale: Scale, load: Sample) -> None:
    seen = run(scale, replace(load, queue_delay_ms=0.0), 400)
    counts = [(one.replicas, one.gateways) for one in seen]
    changes = sum(a != b for a, b in pairwise(counts))
    assert changes <= 2  # each kind once, or both at once
    replicas = [one.replicas for one in seen]
    assert replicas == sorted(replicas) or replicas == sorted(replicas, reverse=True)
    need = needed_replicas(POLICY, load)
    fits = seen[-1].replicas * (1 + POLICY.tolerance) >= need
    assert fits or seen[-1].replicas == scale.max_replicas


@given(
    st.integers(1, 20),
    st.lists(st.floats(0, 50), min_size=1, max_size=9),
    st.lists(st.floats(0, 50), min_size=1, max_size=9),
    st.floats(0, 5),
)
def test_more_load_never_means_fewer(
    now: int, recent: list[float], longer: list[float], more: float
) -> None:
    for seconds in (recent, []):
        for minute in (longer, []):
            less = decide(now, 1, 30, seconds, minute, 0.1)
            greater = decide(
                now, 1, 30, [x + more for x in seconds], [x + more for x in minute], 0.1
            )
            assert greater >= less


def test_up_within_seconds_down_after_a_minute() -> None:
    busy, idle = Sample(0.0, shard_calls=9.0), Sample(0.0)
    up = run(WIDE, busy, 30)
    assert next(i for i, one in enumerate(up) if one.replicas == 5) <= POLICY.up_s + 1
    assert "replicas 2 → 5" in up[-1].reason
    down = run(replace(WIDE, replicas=5), idle, 90)
    assert all(one.replicas == 5 for one in down[: int(POLICY.down_s)])
    assert down[-1].replicas == 1


def test_a_peak_within_the_minute_keeps_what_there_is() -> None:
    scale, samples = replace(WIDE, replicas=5), []
    for second in range(1, 200):
        calls = 9.0 if second % 40 < POLICY.up_s else 0.0
        samples.append(Sample(float(second), shard_calls=calls))
        assert rescaled(POLICY, scale, samples, float(second), 0.0) == scale


def test_calls_that_happen_to_meet_at_a_moment_keep_nothing() -> None:
    scale = replace(WIDE, replicas=5)
    samples = [Sample(float(s), shard_calls=12.0 if s % 10 == 0 else 0.0) for s in range(1, 100)]
    assert rescaled(POLICY, scale, samples, 99.0, 0.0).replicas == 2  # 2.4 calls on average


@pytest.mark.parametrize("calls", [4.3, 3.7, 3.3])
def test_a_load_near_what_there_is_for_changes_nothing(calls: float) -> None:
    assert run(WIDE, Sample(0.0, shard_calls=calls), 300)[-1] == WIDE


def test_queries_that_wait_bring_gateways() -> None:
    seen = run(WIDE, Sample(0.0, queue_delay_ms=1000.0), 8)
    assert [one.gateways for one in (seen[0], seen[-1])] == [1, 2]
