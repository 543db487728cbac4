"""The benchmark of builds on a GPU runs, with torch's CPU device in the GPU's place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "fixtures" / "encoder_parity" / "pylate" / "checkpoint"


@pytest.mark.long
def test_ours_alone(tmp_path):
    lines = [json.dumps({"_id": str(i), "text": f"passage {i} of many"}) for i in range(40)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_build.py")]
    command += [str(tmp_path / "corpus.jsonl"), "--model", str(MODEL), "--device", "torch:cpu"]
    command += [
        "--alone",
        "--passages",
        "30",
        "--doc-maxlen",
        "48",
        "--out",
        str(tmp_path / "results.json"),
    ]
    subprocess.run(command, check=True, timeout=200, capture_output=True, cwd=tmp_path)
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["passages"] == 30
    assert result["tartan"]["tokens"] == result["stages_alone"]["tokens"] > 0
    assert {"read", "train", "encode", "write"} <= set(result["tartan"]["stages"])
