"""`ray job submit -- tartan index build` on several nodes: done, stopped, gone on with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from index_bytes import contents
from ray_nodes import Nodes, ray_nodes

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODEL = Path(__file__).parents[1] / "fixtures" / "encoder_parity" / "stanford" / "checkpoint"
TIMEOUT_S = 300.0


def submit(nodes: Nodes, *words: str) -> list[str]:
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "job"]
    return [*ray, words[0], f"--address={nodes.dashboard}", *words[1:]]


def environment(nodes: Nodes) -> dict[str, str]:
    return {k: v for k, v in nodes.environment.items() if k != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": "token"
    }


def test_a_submitted_job_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    records = [{"_id": str(i), "text": f"passage number {i} " * 6} for i in range(1200)]
    corpus.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    with ray_nodes(dashboard=True) as nodes:
        options = {"env": environment(nodes), "stdout": subprocess.PIPE, "text": True}

        def build(name: str, submission: str) -> subprocess.Popen[str]:
            tartan = [sys.executable, "-m", "cluster.cli", "index", "build", str(corpus)]
            tartan += ["--out", str(tmp_path / name), "--model", str(MODEL), "--shards", "2"]
            words = ["submit", "--submission-id", submission, "--", *tartan]
            return subprocess.Popen(submit(nodes, *words), **options)

        process = build("whole", "first")
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said
        assert "1,200 passages" in said
        assert "start: 1 models" in said

        process = build("index", "second")
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("start: 1 models"):
                break
        stop = subprocess.run(submit(nodes, "stop", "second"), timeout=TIMEOUT_S, **options)
        assert stop.returncode == 0, stop.stdout
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert "run the same command again to go on" in said
        assert not (tmp_path / "index" / "CURRENT").exists()

        process = build("index", "third")
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said
        assert "going on with an unfinished build" in said
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")
