"""Training on Ray Train: workers and drivers are killed, and the run ends as if they were not."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import descendants, tartan
from ray_nodes import ADDRESSES, ray_nodes

from cluster import train_scoring
from cluster.index_job import build_index
from cluster.progress import SilentProgress
from cluster.ray_session import RaySession
from cluster.train_job import TrainJob, train
from cluster.train_mining import mine
from cluster.train_scoring import score_tuples
from colbert_core.text import Encoder
from colbert_core.text.corpus import read_corpus
from colbert_core.train.averaging import Moments, averaged
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.cross_encoder import CrossEncoder, start_teacher
from colbert_core.train.mining import MiningSettings
from colbert_core.train.run_log import read_log
from colbert_core.train.starting import StudentSettings
from colbert_core.train.step import Objective
from colbert_core.train.trainer import StudentLearner, Trainer, TrainSettings
from colbert_core.train.tuple_set import TupleSet
from colbert_core.train.tuples import read_records

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from text_checkpoints import WORDS, plain

STEPS, EVERY = 60, 10
WAIT_S = 600.0  # a Ray Train run is many processes that start


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A random model, tuples by id, and a judged collection of the same passages."""
    plain(tmp_path / "model")
    chance, words = random.Random(0), WORDS.split()
    passages = {f"p{at}": " ".join(chance.sample(words, 6)) for at in range(40)}
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    with (
        (beir / "corpus.jsonl").open("w") as corpus,
        (beir / "queries.jsonl").open("w") as queries,
        (beir / "qrels" / "dev.tsv").open("w") as qrels,
        (tmp_path / "tuples.jsonl").open("w") as tuples,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for at, (name, text) in enumerate(passages.items()):
            query = " ".join(chance.sample(text.split(), 3))
            others = chance.sample([other for other in passages if other != name], 3)
            scored = [[name, 5.0], *([other, chance.random()] for other in others)]
            corpus.write(json.dumps({"_id": name, "text": text}) + "\n")
            queries.write(json.dumps({"_id": f"q{at}", "text": query}) + "\n")
            qrels.write(f"q{at}\t{name}\t1\n")
            tuples.write(json.dumps([f"q{at}", *scored]) + "\n")
    return tmp_path


def job(material: Path, **changes: object) -> TrainJob:
    values = {
        "tuples": (str(material / "tuples.jsonl"),),
        "corpus": str(material / "beir"),
        "queries": str(material / "beir" / "queries.jsonl"),
        "n_way": None,
        "model": str(material / "model"),
        "student": StudentSettings(dim=16, query_maxlen=12, doc_maxlen=20),
        "settings": TrainSettings(steps=STEPS, batch=8, rate=1e-3, warmup=6),
        "workers": 1,
        "chunk": None,
        "checkpoint_every": EVERY,
        "evaluate_every": STEPS,
        "data": None,
        "split": "dev",
        "max_failures": 2,
    }
    return TrainJob(**(values | changes))


def wait_for(path: Path, pattern: str) -> None:
    end = time.monotonic() + WAIT_S
    while not any(path.glob(pattern)):
        assert time.monotonic() < end, f"{path}/{pattern} did not appear in {WAIT_S:.0f} s"
        time.sleep(0.05)


def distill(material: Path, *more: str) -> list[str]:
    """The command of the same run as `job`."""
    return [
        "train", "distill", str(material / "tuples.jsonl"), "--out", str(material / "out"),
        "--corpus", str(material / "beir"), "--queries", str(material / "beir" / "queries.jsonl"),
        "--model", str(material / "model"), "--dim", "16", "--query-maxlen", "12",
        "--doc-maxlen", "20", "--steps", str(STEPS), "--rate", "1e-3", "--warmup", "6",
        "--checkpoint-every", str(EVERY), *more,
    ]  # fmt: skip


def curve_of_one_process(out: Path, judges: tuple[str, ...], batch: int) -> list[float]:
    """The losses of the same run without Ray: one process, never stopped."""
    objective = Objective(batch_teachers=judges)
    settings = TrainSettings(steps=STEPS, batch=batch, rate=1e-3, warmup=6, objective=objective)
    tuples, cpu = TupleSet(out / "tuples"), torch.device("cpu")
    teachers = BatchTeachers(judges, tuples, cpu) if judges else None
    learner = StudentLearner(out / "start", settings, cpu, teachers=teachers)
    trainer = Trainer(learner, tuples, settings)
    return [trainer.step()["loss"] for _ in range(STEPS)]


def check_curve(out: Path, judges: tuple[str, ...] = (), batch: int = 8) -> None:
    """Every step stands in the log once, with the loss that one process has."""
    rows = [row for row in read_log(out) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    losses = [row["loss"] for row in rows]
    np.testing.assert_allclose(losses, curve_of_one_process(out, judges, batch), rtol=2e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def workers_called(name: str) -> list[int]:
    """Process ids of Ray's workers with an actor of this class, of this test session alone."""
    mine = descendants(os.getpid())
    return [pid for pid, command in mine.items() if command.startswith(f"ray::{name}")]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_workers_one_of_them_killed_are_one_process(
    material: Path, ray_cluster: RaySession
) -> None:
    out = material / "out"
    killed: list[int] = []

    def kill() -> None:
        wait_for(out / "runs", "*/checkpoint_manager_snapshot.json")
        os.kill(workers_called("RayTrainWorker")[0], signal.SIGKILL)
        killed.append(len(read_log(out)))

    killer = threading.Thread(target=kill)
    killer.start()
    report = train(job(material, workers=2, data=material / "beir"), out, SilentProgress())
    killer.join()
    assert 0 < killed[0] < STEPS
    check_curve(out)
    measured = [row["step"] for row in read_log(out) if "ndcg@10" in row]
    assert measured == [0, STEPS]
    assert report.last["ndcg@10"] > report.first["ndcg@10"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert Encoder.load(report.checkpoint).dim == 16


@pytest.mark.long
def test_a_killed_driver_is_gone_on_with_by_the_same_command(material: Path) -> None:
    out = material / "out"
    command = distill(material, "--batch", "8", "--batch-teacher", "bm25:none")
    doomed = tartan(*command)
    try:
        wait_for(out / "runs", "*/checkpoint_manager_snapshot.json")
    finally:
        doomed.kill()
        doomed.wait()
    stopped_at = len(read_log(out))
    assert stopped_at < STEPS
    assert not (out / "checkpoint").exists()
    again = tartan(*command)
    printed, _ = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0
    assert f"{STEPS} steps, run distill-" in printed
    assert len(list((out / "runs").glob("distill-*"))) == 1
    check_curve(out, ("bm25:none",))
    Encoder.load(out / "checkpoint")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_node_that_leaves_is_done_without(material: Path) -> None:
    out = material / "out"
    with ray_nodes() as nodes:
        workers = str(len(ADDRESSES))
        elastic = ["--workers", workers, "--min-workers", "1", "--batch", "12"]
        running = tartan(*distill(material, *elastic), env=nodes.environment)
        wait_for(out / "runs", "*/checkpoint_manager_snapshot.json")
        lost = next(one for one in ADDRESSES[1:] if nodes.actors(one, "RayTrainWorker"))
        stopped_at = len(read_log(out))
        nodes.end(lost)
        assert running.poll() is None
        printed, _ = running.communicate(timeout=WAIT_S)
    assert running.returncode == 0
    assert f"{STEPS} steps, run distill-" in printed
    assert 0 < stopped_at < STEPS
    check_curve(out, batch=12)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_mined_tuples_are_scored_though_a_worker_is_killed(
    material: Path, ray_cluster: RaySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index is built with the model and mined; a teacher of random weights scores the pairs."""
    build_index(material / "beir", material / "index", model=str(material / "model"), dim=16)
    report = mine(
        material / "beir" / "qrels" / "dev.tsv",
        material / "mined.jsonl",
        corpus=str(material / "beir"),
        queries=str(material / "beir" / "queries.jsonl"),
        index=str(material / "index"),
        bm25=True,
        language=None,
        teacher=None,
        settings=MiningSettings(n_way=5, last=20),
        progress=SilentProgress(),
    )
    assert (report.tuples, report.left_out) == (40, 0)
    teachers = [material / "teacher-0", material / "teacher-1"]
    for seed, teacher in enumerate(teachers):
        start_teacher(str(material / "model"), teacher, seed)
    monkeypatch.setattr(train_scoring, "UNIT_PAIRS", 5)  # a unit for each tuple
    out = material / "scored.jsonl"
    killed: list[int] = []

    class Killer(SilentProgress):
        """Ends a worker with SIGKILL once a few units are done."""

        def advance(self, done: int, tokens: int = 0) -> None:
            if len(list(out.with_name("scored.jsonl.scoring").glob("*/*.npy"))) > 5 and not killed:
                killed.append(workers_called("TeacherScorer")[0])
                os.kill(killed[0], signal.SIGKILL)

    count = score_tuples(
        [str(material / "mined.jsonl")],
        out,
        [str(teacher) for teacher in teachers],
        corpus=str(material / "beir"),
        queries=str(material / "beir" / "queries.jsonl"),
        n_way=None,
        workers=2,
        progress=Killer(),
    )
    assert (count, len(killed)) == (40, 1)
    assert not out.with_name("scored.jsonl.scoring").exists()
    check_scores(material, out, teachers)


def check_scores(material: Path, out: Path, teachers: list[Path]) -> None:
    """They are what the teachers give when they are asked directly, averaged."""
    beir = material / "beir"
    texts = {d.passage.id: d.passage.text for d in read_corpus(beir / "corpus.jsonl")}
    queries = {d.passage.id: d.passage.text for d in read_corpus(beir / "queries.jsonl")}
    records = [record for record, _ in read_records(out)]
    pairs = [(queries[one.query], texts[passage]) for one in records for passage in one.passages]
    each = [CrossEncoder.load(teacher, torch.device("cpu")).score(pairs) for teacher in teachers]
    tables = [scores.reshape(-1, len(records[0].passages)) for scores in each]
    wanted = averaged(tables, [Moments().plus(table) for table in tables]).ravel()
    found = [score for one in records for score in one.scores or ()]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
