"""How many workers a cluster gets, and what is begun twice."""

from __future__ import annotations

import pytest

from cluster.elastic import COPY_S, STRAGGLER_S, Running, room, straggles, to_copy, wanted_workers
from cluster.plan import WorkerPlan, plan_workers
from colbert_core.errors import InvalidInput

CPU = WorkerPlan(1, 99, 1.0, 0.0, 1)


def test_room_is_counted_node_by_node():
    assert room(CPU, [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}, {"memory": 9.0}]) == 6
    halves = WorkerPlan(1, 99, 1.0, 0.5, 1)
    assert room(halves, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 64.0}]) == 5
    thirds = WorkerPlan(1, 99, 1.0, 1 / 3, 1)
    assert room(thirds, [{"CPU": 8.0, "GPU": 1.0}]) == 3


@pytest.mark.parametrize(
    ("least", "most", "fitting", "wanted"),
    [
        (1, 99, 6, 6),
        (1, 99, 0, 1),  # an autoscaler hears of it
        (1, 4, 6, 4),
        (3, 4, 2, 3),
        (2, 2, 8, 2),
    ],
)
def test_workers_follow_the_cluster_within_bounds(least, most, fitting, wanted):
    assert wanted_workers(WorkerPlan(least, most, 1.0, 0.0, 1), fitting) == wanted


def test_bounds_that_cannot_be():
    for arguments, message in [
        ((0, None, None), r"workers is 0"),
        ((None, 0, None), r"min-workers is 0"),
        ((None, None, -1), r"max-workers is -1"),
        ((None, 5, 4), r"min-workers is 5 and max-workers is 4"),
        ((2, 1, None), r"either --workers or"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            plan_workers(*arguments, text_bytes=10**9, cpus=4, gpus=0)
    plan = plan_workers(None, 2, 5, text_bytes=10**9, cpus=4, gpus=0)
    assert plan == WorkerPlan(2, 5, 1.0, 0.0, 1)
    assert plan_workers(None, 2, 5, text_bytes=1, cpus=4, gpus=0).most == 2
    assert plan_workers(None, None, 5, text_bytes=10**9, cpus=4, gpus=1).gpus == 1.0


def at(key, seconds, rank=0, copies=1):
    return Running(key, rank, seconds, copies)


def test_what_hangs_longest_is_copied_once():
    usual = 10.0
    assert to_copy([at("a", 29.0), at("b", 5.0)], usual) is None
    assert to_copy([at("a", 31.0), at("b", 40.0)], usual) == "b"
    assert to_copy([at("a", 31.0), at("b", 40.0, copies=2)], usual) == "a"
    assert to_copy([], usual) is None


def test_what_waits_behind_a_piece_that_hangs_is_copied_next():
    head, behind = at("a", 40.0, copies=2), at("b", 40.0, rank=1)
    assert to_copy([head, behind], 10.0) == "b"
    assert to_copy([at("a", 40.0), behind], 10.0) == "a"


def test_short_pieces_are_not_copied_for_a_hiccup():
    assert to_copy([at("a", COPY_S - 1)], 0.1) is None
    assert to_copy([at("a", COPY_S + 1)], 0.1) == "a"
    assert to_copy([at("a", STRAGGLER_S - 1)], 0.0) is None  # nothing to compare with
    assert not straggles(STRAGGLER_S - 1, 0.1)
    assert straggles(STRAGGLER_S + 1, 0.1)
