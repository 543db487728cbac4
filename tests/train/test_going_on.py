"""A run that is killed: how much it loses, and what is shown of the attempt that goes on."""

import json
from itertools import count
from types import SimpleNamespace

import pytest
from text_checkpoints import plain

from cluster import train_watch
from cluster.train_watch import Watch, watching
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.run_log import RunLog
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.step import Objective
from colbert_core.train.trainer import TrainSettings
from workers import train_loop
from workers.train_loop import LoopSettings


class Shown:
    """What a person would see."""

    def __init__(self):
        self.lines = []

    def start(self, _stage, total, _noun, done=0):
        self.lines.append(f"{done} of {total}")

    def advance(self, done, _tokens=0):
        self.lines.append(f"+{done}")

    def note(self, message):
        self.lines.append(message)

    def finish(self):
        self.lines.append("end")

    def new(self):
        lines, self.lines = self.lines, []
        return lines


def attempt(out, resumed_at, steps, measured=()):
    """What a run writes that goes on after a step, up to another."""
    log = RunLog(out, resumed_at)
    for step in range(resumed_at, steps + 1):
        if step > resumed_at:
            log.add({"step": step, "loss": 1.0})
        if step in measured and (step > resumed_at or step == 0):
            log.add({"step": step, "ndcg@10": step / 100})
    log.close()


def test_an_earlier_attempts_log_is_not_this_ones_progress(tmp_path):
    attempt(tmp_path, 0, 27)
    shown = Shown()
    watch = Watch(tmp_path, shown, 30)
    watch.look()
    assert shown.new() == ["0 of 30"]
    attempt(tmp_path, 0, 3)  # there was no checkpoint to go on from
    watch.look()
    assert shown.new() == ["3 of 30"]
    watch.look()
    assert shown.new() == []


def test_an_attempt_that_goes_on_shows_from_where_and_notes_nothing_twice(tmp_path):
    shown = Shown()
    watch = Watch(tmp_path, shown, 30)
    watch.look()  # before the workers have begun
    attempt(tmp_path, 0, 20, measured=(0, 10, 20))
    watch.look()
    notes = [f"step {step}: nDCG@10 {step / 100:.4f}" for step in (0, 10, 20)]
    assert shown.new() == ["0 of 30", "20 of 30", *notes]
    attempt(tmp_path, 15, 15)  # a worker was lost, and its checkpoint is of step 15
    watch.look()
    assert shown.new() == ["15 of 30"]
    log = RunLog(tmp_path, 15)
    watch.look()
    for step in (16, 17):
        log.add({"step": step, "loss": 1.0})
    watch.look()
    log.add({"step": 17, "ndcg@10": 0.17})
    watch.look()
    log.close()
    assert shown.new() == ["15 of 30", "+2", "step 17: nDCG@10 0.1700"]


def test_the_last_steps_are_shown_when_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(train_watch, "EVERY_S", 60.0)
    shown = Shown()
    with watching(tmp_path, shown, 4):
        attempt(tmp_path, 0, 4)
    assert shown.lines == ["0 of 4", "4 of 4", "end"]


@pytest.fixture
def loop(tmp_path):
    """Sixteen short steps, and a checkpoint after five hundred."""
    model, words = plain(tmp_path / "model"), ("one", "each", "vector", "token")
    start_student(
        model, tmp_path / "start", StudentSettings(dim=16, query_maxlen=12, doc_maxlen=20)
    )
    rows = [{"query": f"hello {word}", "documents": [f"{word} world", "late"]} for word in words]
    (tmp_path / "tuples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare_tuples(tmp_path / "tuples", [tmp_path / "tuples.jsonl"])
    return LoopSettings(
        kind="distill",
        start=str(tmp_path / "start"),
        tuples=str(tmp_path / "tuples"),
        out=str(tmp_path),
        settings=TrainSettings(steps=16, batch=2, objective=Objective(loss="v1")),
        chunk=None,
        blend=1.0,
        checkpoint_every=500,
        evaluate_every=500,
        evaluate=None,
        threads=1,
    )


def test_no_more_than_ten_minutes_of_work_are_unsaved(loop, monkeypatch):
    saved, looks = [], count()
    monkeypatch.setattr(train_loop.ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(
        train_loop.ray.train, "report", lambda row, checkpoint: saved.append(row["step"])
    )
    monkeypatch.setattr(train_loop, "time", SimpleNamespace(monotonic=lambda: 110.0 * next(looks)))
    train_loop.train_loop({"loop": loop})
    # The clock is looked at once a step, and once more after a checkpoint.
    assert saved == [6, 12, 16]
