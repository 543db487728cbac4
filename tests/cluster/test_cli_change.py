"""The commands that change an index: what they print, and the exit codes of what is wrong."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import runner

from colbert_core import Index
from colbert_core.index import write_lock


@pytest.fixture
def tartan(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    return runner(monkeypatch, capfd, "index")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "ix"
    Index.build(path, [np.eye(8, dtype=np.float32)[: 1 + n % 8] for n in range(30)])
    return path


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "ix"))


def test_delete_reads_ids_from_a_file(tartan: Any, index: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes("\ufeff3\r\n\n4\n".encode())
    done = tartan("delete", index, "--ids", tmp_path / "ids", "--json")
    assert done.code == 0
    assert done.json() == {
        "deleted": 2,
        "passages": 28,
        "shards": 1,
        "generation": Index.open(index).manifest.generation,
    }
    again = tartan("delete", index, "--ids", tmp_path / "ids")
    assert again.code == 2
    assert "ids '3', '4' are not in the index" in again.err
    assert tartan("delete", index, "--ids", tmp_path / "ids", "--missing-ok").code == 0
    assert tartan("delete", index, "--ids", tmp_path / "nowhere").code == 2


def test_delete_reads_ids_from_standard_input(
    tartan: Any, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\n".join(map(str, range(10)))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    done = tartan("delete", index, "--ids", "-")
    assert done.code == 0
    assert "10 passages deleted" in done.out
    assert "has 20 now" in done.out
    assert "tartan index compact" in done.out  # a third of what is stored


def test_a_life_of_changes(tartan: Any, index: Path, tmp_path: Path) -> None:
    first = Index.open(index).manifest.generation
    (tmp_path / "ids").write_text("3")
    tartan("delete", index, "--ids", tmp_path / "ids")
    done = tartan("compact", index, "--json").json()
    assert (done["compacted"], done["dropped"], done["passages"]) == (True, 1, 29)
    assert "nothing to do" in tartan("compact", index).out
    stored = tartan("generations", index, "--json").json()
    assert [info["live"] for info in stored] == [True, False, False]
    assert [info["passages"] for info in stored] == [29, 29, 30]
    assert first in tartan("generations", index).out
    dry = tartan("gc", index, "--dry-run", "--json").json()
    assert (dry["removed"], dry["dry_run"]) == ([first], True)
    assert len(tartan("generations", index, "--json").json()) == 3
    assert "1 generation removed" in tartan("gc", index).out
    assert tartan("rollback", index, "--json").json()["generation"] == stored[1]["generation"]
    back = tartan("rollback", index, stored[0]["generation"])
    assert back.code == 0
    assert f"{stored[0]['generation']} is live" in back.out
    assert tartan("rollback", index, first).code == 5
    assert tartan("verify", index).code == 0
    about = tartan("inspect", index, "--json").json()
    assert (about["passages"], about["deleted"], about["delta_shards"]) == (29, 0, 0)


def test_what_cannot_be_done_has_its_own_exit_code(
    tartan: Any, index: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text("1")
    (tmp_path / "docs.jsonl").write_text('{"_id": "a", "text": "b"}')
    for command in (["compact"], ["gc"], ["rollback"], ["delete", "--ids", tmp_path / "ids"]):
        nowhere = tartan(command[0], tmp_path / "none", *command[1:])
        assert nowhere.code == 5, (command, nowhere.err)
    assert tartan("add", tmp_path / "none", tmp_path / "docs.jsonl").code == 5
    with write_lock(index):
        for command in (["compact"], ["gc"], ["delete", "--ids", tmp_path / "ids"]):
            held = tartan(command[0], index, *command[1:])
            assert held.code == 6, (command, held.err)
            assert "another build or change is writing" in held.err
    assert tartan("gc", index, "--keep", -1).code == 2
    assert tartan("compact", index, "--shards", 31).code == 2
    no_model = tartan("add", index, tmp_path / "docs.jsonl")
    assert no_model.code == 2
    assert "built from vectors" in no_model.err


@pytest.mark.parametrize("command", ["add", "delete", "compact", "rollback", "generations", "gc"])
def test_help_teaches(tartan: Any, command: str) -> None:
    shown = tartan(command, "--help")
    assert shown.code == 0
    assert "--json" in shown.out
    if command != "generations":
        assert "Example" in shown.out


def test_calibrate_says_what_recall_took_and_takes(
    tartan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def unit(rows: int) -> np.ndarray:
        x = rng.standard_normal((rows, 16)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    path = tmp_path / "ix"
    Index.build(path, [unit(1) for _ in range(512)])
    (tmp_path / "asked.txt").write_text("\n".join(f"words {n}" for n in range(60)))
    (tmp_path / "asked.jsonl").write_text('{"text": "words"}\n{"query": "none"}\n')
    refused = tartan("calibrate", path, "--queries", tmp_path / "asked.txt")
    assert (refused.code, "knows no model" in refused.err) == (2, True)
    refused = tartan("calibrate", path, "--queries", tmp_path / "asked.jsonl")
    assert (refused.code, "asked.jsonl:2: a query needs `text`" in refused.err) == (3, True)
    refused = tartan("calibrate", path, "--queries", tmp_path / "nowhere")
    assert (refused.code, "give a file of queries" in refused.err) == (3, True)

    monkeypatch.setattr(Index, "encode_query", lambda *_args, **_about: unit(2))
    done = tartan("calibrate", path, "--queries", tmp_path / "asked.txt", "--json")
    assert done.code == 0, done.err
    assert done.json()["queries"] == 60
    assert done.json()["generation"] == Index.open(path).manifest.generation
    assert len(done.json()["presets"]) == 5
    done = tartan("calibrate", path, "--queries", tmp_path / "asked.txt")
    assert "measured with 60 queries, generation g000003-" in done.out
    Index.open(path).delete(["7"])
    assert f"`tartan index calibrate {path} --queries FILE`" in tartan("compact", path).out
    assert "recall@10" in done.out
    assert " → " in done.out
