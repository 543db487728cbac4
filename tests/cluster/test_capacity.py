"""Capacity planning: formulas against an index that was really built, limits, and scaling."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.capacity import GIB, Workload, plan_capacity
from cluster.cli_plan import plan_command, shown
from colbert_core import Index
from colbert_core.errors import InvalidInput
from colbert_core.index import describe

MS_MARCO_V2 = Workload(140_000_000, 60)


@pytest.mark.parametrize(
    "bits", [2, *(pytest.param(bits, marks=pytest.mark.long) for bits in (1, 4))]
)
def test_bytes_are_those_of_a_real_index(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(bits)
    # words come back in a passage: that is what makes postings fewer than tokens
    words = rng.standard_normal((400, 128)).astype(np.float32)
    passages = []
    for _ in range(3000):
        tokens = words[rng.zipf(1.3, 40) % 400] + 0.2 * rng.standard_normal((40, 128))
        passages.append(tokens / np.linalg.norm(tokens, axis=1, keepdims=True))
    ids = [f"passage-{number:08d}" for number in range(len(passages))]
    built = describe(Index.build(tmp_path / "index", passages, ids=ids, bits=bits).manifest)
    plan = plan_capacity(Workload(3000, 40, bits=bits, dim=128, centroids=int(built["centroids"])))
    # the rotation and tables, which large indexes do not feel, are not in the plan
    fixed = built["bytes"]["rotation"] + built["bytes"]["tables"]
    assert plan["index"] == pytest.approx(
        built["bytes_total"] - built["bytes"]["texts"] - fixed, rel=0.05
    )


def test_the_larger_corpus_takes_more_of_everything() -> None:
    small, large = (plan_capacity(Workload(n, 60)) for n in (10_000_000, 10_000_000_000))
    for line in small.lines:
        if line.name == "query at a shard":
            continue  # more centroids make shorter lists
        assert large[line.name] >= line.value, line.name
    assert large["index per token"] == pytest.approx(small["index per token"], rel=0.1)


def test_machines_follow_memory_or_load() -> None:
    by_memory = plan_capacity(replace(MS_MARCO_V2, target_qps=0.1))
    assert by_memory["machines"] == by_memory["machines, by memory"]
    by_load = plan_capacity(replace(MS_MARCO_V2, target_qps=100_000))
    assert by_load["machines"] == by_load["machines, by load"]
    assert by_load["machines"] > by_memory["machines"]
    twice = plan_capacity(replace(MS_MARCO_V2, target_qps=0.1, replicas=2))
    assert by_memory["machines"] < twice["machines"] <= 2 * by_memory["machines"]


def test_hours_are_shared_by_cores() -> None:
    one, many = (plan_capacity(replace(MS_MARCO_V2, index_cores=n)) for n in (1, 100))
    assert one["index job"] == pytest.approx(100 * many["index job"])


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tight = replace(MS_MARCO_V2, machine_memory=4 * GIB)
    plan = plan_capacity(tight)
    assert math.isinf(plan["machines"])
    assert any("more than a machine has" in warning for warning in plan.warnings)
    plan_command(tight, as_json=False)
    assert "does not fit" in capsys.readouterr().out
    plan_command(tight, as_json=True)
    assert json.loads(capsys.readouterr().out)["plan"]["machines"] is None


def test_many_centroids_are_warned_of() -> None:
    assert any("--centroids" in text for text in plan_capacity(Workload(10**10, 60)).warnings)
    assert not any("--centroids" in text for text in plan_capacity(MS_MARCO_V2).warnings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"passages": 0}, "--passages is 0"),
        ({"tokens_per_passage": 0.5}, "--tokens-per-passage is 0.5"),
        ({"bits": 5}, "--bits is 5; give 1 to 4"),
        ({"target_qps": 0}, "--target-qps is 0"),
        ({"machine_cores": 0}, "--machine-cores is 0"),
        ({"encode_rate": float("nan")}, "--encode-rate is nan"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidInput, match=named.replace(".", r"\.")):
        plan_capacity(replace(MS_MARCO_V2, **change))  # type: ignore[arg-type]


def test_bytes_are_shown_in_units_that_people_read() -> None:
    plan = plan_capacity(MS_MARCO_V2)
    index = next(line for line in plan.lines if line.name == "index")
    assert shown(index).endswith(" GiB")
