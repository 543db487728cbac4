"""`tartan train adapt` from a corpus to a student; its driver is killed on the way."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from processes import tartan

from colbert_core.text import Encoder
from colbert_core.text.corpus import read_corpus
from colbert_core.train.averaging import Moments, averaged
from colbert_core.train.cross_encoder import CrossEncoder
from colbert_core.train.records import Record
from colbert_core.train.tuples import read_records

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
sys.path.insert(0, str(Path(__file__).parent.parent / "train"))
from text_checkpoints import WORDS, plain
from writing import causal

WAIT_S = 900.0  # three runs of Ray Train, each many processes that start
SETS = ("question", "claim")
MORE = ("question-more", "claim-more")
TEACHER = f"sets/{SETS[0]}/teacher/checkpoint/*"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A corpus that one language model of random weights writes queries for."""
    chance, words = random.Random(0), WORDS.split()
    rows = [{"_id": f"p{at}", "text": " ".join(chance.sample(words, 6))} for at in range(40)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "train", "adapt", str(tmp_path / "corpus.jsonl"), "--out", str(tmp_path / "out"),
        "--writer", str(causal(tmp_path / "causal")), "--max-tokens", "6", "--stemmer", "none",
        *(part for name in SETS for part in ("--template", name)),
        "--model", str(plain(tmp_path / "model")), "--teacher-model", str(tmp_path / "model"),
        "--more", "20", "--n-way", "3", "--ranks", "1:20",
        "--teacher-batch", "4", "--teacher-steps", "6",
        "--teacher-rate", "1e-3", "--batch", "4", "--steps", "6", "--rate", "1e-3",
        "--dim", "16", "--query-maxlen", "12", "--doc-maxlen", "20", "--workers", "1",
        "--weigh-queries", "--blend", "0.5",
    ]  # fmt: skip


def wait_for(path: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear in {WAIT_S:.0f} s"
        time.sleep(0.05)


def times(out: Path, *patterns: str) -> dict[Path, int]:
    """When files were written."""
    found = [path for pattern in patterns for path in out.glob(pattern)]
    assert found
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_killed_driver_is_gone_on_with_to_the_student(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    doomed = tartan(*command)
    try:
        wait_for(out / "sets" / SETS[0] / "teacher" / "settings.json")
    finally:
        doomed.kill()
        doomed.wait()
    assert not (out / "student").exists()
    patterns = ("generated/**/*", "more/**/*", "sets/*/mined.jsonl", TEACHER)
    kept = times(out, *patterns)
    again = tartan(*command, "--json")
    printed, _ = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0
    assert times(out, *patterns) == kept
    report = json.loads(printed)
    assert [one["name"] for one in report["sets"]] == [*SETS, *MORE]
    assert [one["written"] for one in report["sets"]] == [40, 40, 20, 20]
    assert all(0 < one["kept"] <= one["written"] for one in report["sets"])
    assert not list(out.glob("sets/*-more/teacher"))
    assert Encoder.load(report["checkpoint"]).dim == 16
    assert (Path(report["checkpoint"]) / "query_weights.npy").exists()
    check_scores(tmp_path, out)

    done = times(out, "**/*")
    third = tartan(*command)
    printed, _ = third.communicate(timeout=WAIT_S)
    assert third.returncode == 0
    assert f"--model {report['checkpoint']}" in printed
    assert times(out, "**/*") == done
    other = tartan(*command, "--seed", "1", stderr=PIPE)
    _, errors = other.communicate(timeout=WAIT_S)
    assert other.returncode == 6
    assert "seed was 0, now 1" in errors
    assert times(out, "**/*") == done


@pytest.mark.long
def test_given_teachers_judge(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    at = command.index("--teacher-model")
    given = ["--teacher", "bm25:none", "--teacher", f"maxsim:{command[at + 1]}"]
    at_steps = command.index("--teacher-steps")
    command[at_steps : at_steps + 2] = []
    command[at : at + 2] = given
    run = tartan(*command, "--json")
    printed, _ = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0
    report = json.loads(printed)
    assert Encoder.load(report["checkpoint"]).dim == 16
    assert not list(out.glob("sets/*/teacher"))
    scored = [record for record, _ in read_records(out / "scored" / "scored.jsonl")]
    mined = [len(read_records_of(out, name)) for name in (*SETS, *MORE)]
    assert len(scored) == sum(mined)
    assert all(len(set(one.scores or ())) > 1 for one in scored)


@pytest.mark.long
def test_killed_while_it_writes_queries_it_writes_the_same(
    command: list[str], tmp_path: Path
) -> None:
    def generate(out: str) -> list[str]:
        (corpus,) = (part for part in command if part.endswith("corpus.jsonl"))
        writer = command[command.index("--writer") + 1]
        return [
            "train", "generate", corpus, "--out", str(tmp_path / out), "--writer", writer,
            "--batch", "2", "--max-tokens", "12", "--stemmer", "none",
        ]  # fmt: skip

    doomed = tartan(*generate("killed"))
    try:
        wait_for(tmp_path / "killed" / "answers" / "question-000001.json")
    finally:
        doomed.kill()
        doomed.wait()
    assert not (tmp_path / "killed" / "claim").exists()
    for out in ("killed", "whole"):
        process = tartan(*generate(out))
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
    killed, whole = (
        {path.relative_to(tmp_path / out): path.read_bytes() for path in files_of(tmp_path / out)}
        for out in ("killed", "whole")
    )
    assert killed == whole


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def read_records_of(out: Path, name: str) -> list[Record]:
    return [record for record, _ in read_records(out / "sets" / name / "mined.jsonl")]


def check_scores(folder: Path, out: Path) -> None:
    """The tuples of all sets stand in one file, with the average of both teachers' scores."""
    mined = [record for name in (*SETS, *MORE) for record in read_records_of(out, name)]
    scored = [record for record, _ in read_records(out / "scored" / "scored.jsonl")]
    assert [(one.query, one.passages) for one in scored] == [
        (one.query, one.passages) for one in mined
    ]
    texts = {d.passage.id: d.passage.text for d in read_corpus(folder / "corpus.jsonl")}
    for name in (*SETS, *MORE):
        read = read_corpus(out / ("more" if name in MORE else "generated") / name / "queries.jsonl")
        texts |= {d.passage.id: d.passage.text for d in read}
    pairs = [(texts[one.query], texts[passage]) for one in scored for passage in one.passages]
    each = []
    for name in SETS:
        teacher = CrossEncoder.load(out / "sets" / name / "teacher" / "checkpoint", CPU)
        each.append(teacher.score(pairs))
    assert not np.allclose(each[0], each[1], atol=1e-3)  # each has learnt from its own set
    tables = [scores.reshape(-1, len(scored[0].passages)) for scores in each]
    wanted = averaged(tables, [Moments().plus(table) for table in tables]).ravel()
    found = [score for one in scored for score in one.scores or ()]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


CPU = torch.device("cpu")
