"""What the load benchmark claims and shows, on figures made up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from load import verdict
from loadgen.open_loop import offer
from loadgen.prepared import HeldBack, PreparedQueries
from report.load import load_markdown, plot_load

from cluster.client_throttle import Throttle


def row(load: float, own: bool, goodput: float, **kinds: int) -> dict[str, Any]:
    latencies = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "lag_p99_ms"), 1.0)
    offered = {"load": load, "holds_back": own, "offered": 100 * load, "goodput": goodput}
    return {**offered, **latencies, "kinds": {"right": 9, **kinds}}


def rows(at_three: float) -> list[dict[str, Any]]:
    return [
        row(0.5, True, 50),
        row(1, True, 100),
        row(3, True, at_three, HeldBack=7, Overloaded=5),
        row(3, False, 60, Overloaded=12),
    ]


@pytest.mark.parametrize(("at_three", "holds"), [(80, True), (79, False)])
def test_what_clients_of_ours_get_past_saturation_decides(at_three: float, holds: bool) -> None:
    found = verdict(rows(at_three))
    assert (found["holds"], found["kept"], found["kept_from_any"]) == (holds, at_three / 100, 0.6)


def test_a_wrong_answer_decides_all_the_same() -> None:
    found = verdict([*rows(100), row(2, True, 100, **{"other ids": 1})])
    assert (found["holds"], found["wrong"]) == (False, 1)


def test_both_kinds_of_clients_stand_in_the_report(tmp_path: Path) -> None:
    about = {
        "collection": "c", "date": "2026-01-01", "replicas": 2, "seconds": 12.0, "distinct": 9,
        "k": 10, "deadline_s": 1.0, "index": {"passages": 10, "shards": 2},
        "machine": {
            "processor": "x", "cores": 2, "flags": ["avx2"], "memory_gib": 8.0, "system": "Linux",
        },
        "load_before": 0.0, "load_after": 0.0,
    }  # fmt: skip
    document = {"about": about, "rows": rows(85), "verdict": verdict(rows(85))}
    plot = plot_load(document, tmp_path, "load")
    assert (tmp_path / plot).is_file()
    text = load_markdown(document, plot)
    assert "| 3 | 300 | 85 | 1.0 | 1.0 | 1.0 | 7 | 5 | 0 | 0 | 1.0 |" in text
    assert "| 3, all sent | 300 | 60 | 1.0 | 1.0 | 1.0 | 0 | 12 | 0 | 0 | 1.0 |" in text


def test_what_a_client_does_not_send_is_told_apart() -> None:
    async def run() -> dict[str, int]:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        queries = [np.ones((2, 4), np.float32)]
        async with PreparedQueries(f"127.0.0.1:{port}", queries, k=1) as ask:
            throttle = ask.throttle = Throttle(lambda: 0.0, lambda: 0.0)
            for _ in range(20):  # as if more were refused than were sent
                throttle.refused("full")
            offered = await offer(
                ask, 1, lambda *_: "right", rate=200.0, seconds=0.1, timeout_s=1.0
            )
        await server.stop(None)
        return offered.kinds

    kinds = asyncio.run(run())
    assert set(kinds) == {HeldBack.__name__}
