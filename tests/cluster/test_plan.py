"""Plans are pure: every passage once, in order, balanced, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import (
    MAX_UNIT_BYTES,
    MIN_UNIT_BYTES,
    SHARD_BYTES,
    WORKER_BYTES,
    choose_sample,
    cut_shards,
    estimate_tokens,
    plan_workers,
    shard_count,
    unit_budget,
)
from colbert_core.errors import InvalidInput
from workers.units import Unit

units_of_doclens = st.lists(
    st.lists(st.integers(1, 300), min_size=1, max_size=12), min_size=1, max_size=12
)


def cut(doclens, shards):
    return cut_shards(
        [len(unit) for unit in doclens],
        [sum(unit) for unit in doclens],
        shards,
        lambda unit: np.array(doclens[unit], np.int32),
    )


@given(units_of_doclens, st.data())
def test_shards_hold_every_passage_once_and_in_order(doclens, data):
    passages = sum(len(unit) for unit in doclens)
    shards = data.draw(st.integers(1, passages))
    plans = cut(doclens, shards)
    assert len(plans) == shards
    rows = [
        (piece.unit, row)
        for plan in plans
        for piece in plan.slices
        for row in range(piece.start, piece.stop)
    ]
    assert rows == [
        (unit, row) for unit in range(len(doclens)) for row in range(len(doclens[unit]))
    ]
    assert all(plan.stop > plan.first for plan in plans)
    assert [plan.first for plan in plans[1:]] == [plan.stop for plan in plans[:-1]]


@given(units_of_doclens, st.integers(2, 4))
def test_shards_are_balanced_to_within_a_passage(doclens, shards):
    flat = [length for unit in doclens for length in unit]
    if len(flat) < 8 * shards:
        return
    ends = np.cumsum(flat)
    for number, plan in enumerate(cut(doclens, shards)[1:], start=1):
        ideal = ends[-1] * number // shards
        assert abs(int(ends[plan.first - 1]) - ideal) <= max(flat)


def test_only_the_units_that_are_cut_are_opened():
    doclens = [[10] * 10 for _ in range(1000)]
    opened = []
    cut_shards(
        [10] * 1000, [100] * 1000, 4, lambda unit: opened.append(unit) or np.array(doclens[unit])
    )
    assert len(opened) == 3


def test_one_passage_much_longer_than_the_rest():
    plans = cut([[1, 1000, 1], [1, 1]], 5)
    assert [(plan.first, plan.stop) for plan in plans] == [(i, i + 1) for i in range(5)]


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(1, 10**6), st.integers(0)
)
def test_a_sample_is_enough_and_the_same_each_time(tokens, target, seed):
    chosen = choose_sample(tokens, target, seed)
    assert chosen == choose_sample(tokens, target, seed)
    assert list(chosen) == sorted(set(chosen))
    held = sum(tokens[unit] for unit in chosen)
    assert held >= target or len(chosen) == len(tokens)
    # No more than needed: every proper part of the random order fell short.
    assert held - max(tokens[unit] for unit in chosen) < target


def test_different_seeds_choose_differently():
    assert choose_sample([1] * 100, 10, 0) != choose_sample([1] * 100, 10, 1)


@given(st.lists(st.tuples(st.sampled_from([".jsonl", ".gz", ".parquet"]), st.integers(0, 2**40))))
def test_units_are_never_too_small_or_too_large(files):
    assert MIN_UNIT_BYTES <= unit_budget(files).text_bytes <= MAX_UNIT_BYTES


def test_estimated_tokens_are_within_what_is_possible():
    unit = Unit(0, 0, 10, 0, "a", "b")
    assert estimate_tokens(unit, 180) == 30
    assert estimate_tokens(Unit(0, 0, 10, 10**6, "a", "b"), 180) == 1800


def test_shard_count():
    tokens = 3 * SHARD_BYTES // 10
    assert shard_count(None, passages=10**9, tokens=tokens, token_bytes=10) == 3
    assert shard_count(None, passages=1, tokens=5, token_bytes=36) == 1
    assert shard_count(7, passages=7, tokens=5, token_bytes=36) == 7
    with pytest.raises(InvalidInput, match=r"8 shards cannot be made of 7 passages.*--shards 7"):
        shard_count(8, passages=7, tokens=5, token_bytes=36)


def test_workers_follow_the_cluster():
    def planned(workers, text_bytes=50 * WORKER_BYTES, **cluster):
        plan = plan_workers(workers, None, None, text_bytes=text_bytes, **cluster)
        return plan.least, plan.most, plan.gpus

    assert planned(None, cpus=4, gpus=0) == (1, 50, 0.0)
    assert planned(9, cpus=4, gpus=0) == (4, 4, 0.0)
    assert planned(1, cpus=4, gpus=0) == (1, 1, 0.0)
    assert planned(3, cpus=0, gpus=0) == (1, 1, 0.0)
    assert planned(None, cpus=16, gpus=2) == (1, 50, 1.0)
    assert planned(4, cpus=16, gpus=2) == (4, 4, 0.5)
    assert planned(None, cpus=2, gpus=0, device="cuda") == (1, 50, 1.0)  # a pool at zero
    assert planned(None, cpus=16, gpus=2, device="cpu") == (1, 50, 0.0)
    assert planned(None, 1, cpus=4, gpus=0) == (1, 1, 0.0)  # no model loads for nothing
    assert planned(None, WORKER_BYTES + 1, cpus=4, gpus=0) == (1, 2, 0.0)
    assert planned(3, 1, cpus=4, gpus=0) == (3, 3, 0.0)
    # The order of sums, and so the bytes of the index, must not depend on the number of workers.
    one = {"text_bytes": 1, "cpus": 8, "gpus": 0}
    assert len({plan_workers(n, None, None, **one).threads for n in range(1, 9)}) == 1
