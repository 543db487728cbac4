"""`tartan index verify|repair|import|export`: what they print and how they end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"


def tartan(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cluster.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=FIXTURES.parents[1],
    )


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "index_v3" / "tartan-2" / "index", tmp_path / "ix"))


def test_verify_lists_every_problem_and_repair_mends_what_it_can(index: Path) -> None:
    assert "decoded to the last vector" in tartan("index", "verify", index, "--deep").stdout
    shard = sorted((index / "shards").iterdir())[0]
    (shard / "postings.npy").unlink()
    damaged = tartan("index", "verify", index)
    assert (damaged.returncode, "postings.npy" in damaged.stdout) == (1, True)
    assert "tartan index repair" in damaged.stderr
    (problem,) = read(tartan("index", "verify", index, "--json"))["problems"]
    assert problem["repairable"]
    mended = tartan("index", "repair", index)
    assert (mended.returncode, "repaired shards/" in mended.stdout) == (0, True)
    (shard / "residuals.npy").unlink()
    lost = tartan("index", "repair", index, "--json")
    assert (lost.returncode, read(lost)["ok"]) == (1, False)
    assert "or build it again" in tartan("index", "repair", index).stdout


def test_import_and_export(tmp_path: Path) -> None:
    source = FIXTURES / "imports" / "stanford-2" / "index"
    done = tartan("index", "import", source, "--out", tmp_path / "ix", "--shards", 2)
    assert done.returncode == 0, done.stderr
    assert "posting lists follow from the codes" in done.stdout
    again = tartan("index", "import", source, "--out", tmp_path / "ix")
    assert again.returncode == 6
    replaced = tartan("index", "import", source, "--out", tmp_path / "ix", "--overwrite", "--json")
    assert read(replaced)["passages"] == 40
    out = tmp_path / "plain"
    about = read(tartan("index", "export", tmp_path / "ix", "--out", out, "--json"))
    assert (about["passages"], about["dtype"]) == (40, "float16")
    assert {path.name for path in out.iterdir()} == {
        "embeddings.npy", "doclens.npy", "passages.jsonl", "export.json", "README.md",
    }  # fmt: skip


def test_a_source_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    done = tartan("index", "import", FIXTURES, "--out", tmp_path / "new" / "ix")
    assert (done.returncode, "no index of stanford" in done.stderr) == (5, True)
    assert not (tmp_path / "new").exists()
