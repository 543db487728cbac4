"""Load brings replicas, and these bring Ray nodes; without load they drain; no query fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from autoscaling import build, measure


@pytest.mark.long
def test_replicas_and_nodes_follow_the_load(tmp_path: Path) -> None:
    index = build(tmp_path, 4000)
    run = measure(index, clients=6, busy_s=120.0, idle_s=120.0, up_s=2.0, down_s=6.0)
    assert not run.problems(), run.trace[-3:]
