"""What the benchmark of the index job computes from its samples, and what it feeds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report.index_job import growth_of, memory_markdown, scaling_markdown
from short_passages import LENGTHS, write_corpus
from watch import STAGES, Watched

MIB = 2**20
ABOUT: dict[str, Any] = {
    "collection": "c",
    "date": "2026-11-21",
    "workers": 2,
    "words": (8, 12),
    "dim": 64,
    "model": "m",
    "load_before": 0.0,
    "load_after": 0.0,
    "machine": {"processor": "p", "cores": 2, "flags": [], "memory_gib": 1, "system": "s"},
}


def row(passages: int, driver: int, worker: int, **more: Any) -> dict[str, Any]:
    def of(size: int) -> dict[str, Any]:
        by_stage = {stage: size if stage == "encode" else None for stage in STAGES}
        return {"anonymous": size, "rss": 2 * size, "anonymous_by_stage": by_stage}

    return {
        "passages": passages,
        "tokens": 12 * passages,
        "centroids": 16,
        "corpus_bytes": 100 * passages,
        "worker_cpu_s": 2.0,
        "seconds": {"sample": 1.0, "encode": 2.0, "write": 1.0, "total": 5.0},
        "memory": {"driver": of(driver), "worker": of(worker)},
        **more,
    }


def test_growth_is_of_the_last_two_sizes() -> None:
    rows = [row(10, 0, 0), row(100, 1000, 5000), row(1100, 3000, 5000)]
    found = growth_of(rows)
    assert found["driver"] == {"anonymous": 2.0, "rss": 4.0}
    assert found["worker"] == {"anonymous": 0.0, "rss": 0.0}


def test_tables_show_peaks_and_no_stage_that_was_not_seen() -> None:
    rows = [row(10_000, 100 * MIB, 300 * MIB)]
    text = memory_markdown({"about": ABOUT, "rows": rows}, "plot.svg")
    assert "| 10,000 | 120,000 | 16 | 1.0 | 100 | 200 | 300 | 600 | 5 |" in text
    assert "| – / – | 100 / 300 | – / – |" in text


def test_scaling_is_beside_the_least_workers_and_the_ceiling() -> None:
    slow = row(1000, 1, 1, workers=1, products_per_s=100.0, load=0.1)
    quick = row(1000, 1, 1, workers=2, products_per_s=150.0, load=0.2)
    quick["seconds"] = {**quick["seconds"], "encode": 1.0}
    text = scaling_markdown({"about": ABOUT, "rows": [slow, quick]})
    assert "| 1 | 4,000 | 1.00 × | 1.00 × |" in text
    assert "| 2 | 6,000 | 1.50 × | 1.50 × | 6,000 |" in text


def test_passages_are_short_and_their_ids_unique(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", 300)
    records = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    assert len({record["_id"] for record in records}) == 300
    lengths = {len(record["text"].split()) for record in records}
    assert lengths == set(range(LENGTHS[0], LENGTHS[1] + 1))


def test_a_process_is_watched_through_its_stages() -> None:
    program = (
        "import sys, time\n"
        "held = bytearray(50 * 2**20)\n"
        "time.sleep(1); print('read: 3 passages (9 passages/s) in 1.0 s', file=sys.stderr)\n"
        "del held; time.sleep(1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    watched = Watched(process)
    watched.until_the_end(timeout_s=60)
    driver = watched.summary()["driver"] if watched.peaks else pytest.fail("nothing was sampled")
    assert driver["anonymous_by_stage"]["read"] > 50 * MIB
    assert driver["anonymous"] == driver["anonymous_by_stage"]["read"]
    assert watched.stage == 1
