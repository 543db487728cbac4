"""`tartan train adapt` up to where Ray is needed: what it refuses first, and what it keeps."""

import json
import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
from text_checkpoints import WORDS, plain, xmod
from typer.testing import CliRunner
from writing import causal

from cluster import train_adapting
from cluster.cli import app
from cluster.progress import SilentProgress
from cluster.train_adapting import AdaptJob, adapt
from cluster.train_generating import GenerateSettings
from colbert_core.errors import CorpusError, IndexExists, InvalidInput, ModelError, Unavailable
from colbert_core.train.mining import MiningSettings
from colbert_core.train.starting import StudentSettings
from colbert_core.train.step import Objective
from colbert_core.train.templates import Template, find_templates
from colbert_core.train.trainer import TrainSettings
from colbert_core.train.tuples import read_records
from colbert_core.train.writers import LocalWriter, Sampling


class Counting:
    """Asks a writer, and counts its answers."""

    def __init__(self, writer):
        self.identity, self.check, self._writer, self.asked = (
            writer.identity,
            writer.check,
            writer,
            0,
        )

    def write(self, prompts, seed):
        self.asked += len(prompts)
        return self._writer.write(prompts, seed)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapting")
    chance, words = random.Random(0), WORDS.split()
    rows = [{"_id": f"p{at}", "text": " ".join(chance.sample(words, 6))} for at in range(30)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(plain(folder / "model"))
    writer = LocalWriter.load(causal(folder / "causal"), Sampling(max_tokens=6), batch=16)
    training = TrainSettings(steps=0, batch=4, rate=1e-3, warmup=-1)
    return AdaptJob(
        corpus=str(folder / "corpus.jsonl"),
        writer=Counting(writer),
        templates=find_templates(["question", "claim"], []),
        generating=GenerateSettings(top=20, language=None),
        more=0,
        mining=MiningSettings(n_way=3, first=1, last=20),
        teachers=(),
        teacher_model=model,
        teacher=replace(training, objective=Objective(loss="v1", in_batch_weight=0.0)),
        model=model,
        student=StudentSettings(dim=16),
        distilling=training,
        weigh_queries=True,
        blend=0.5,
        workers=1,
        chunk=None,
        checkpoint_every=10,
        evaluate_every=10,
        max_failures=0,
        data=None,
        split="dev",
    )


def test_what_a_later_step_would_refuse_is_refused_first(job, tmp_path):
    def bad(**changes):
        return replace(job, **changes)

    twin = Template("question-more", "{passage}?")
    for wrong, error, says in (
        (bad(mining=MiningSettings(n_way=1)), InvalidInput, "n-way 1"),
        (bad(generating=GenerateSettings(top=0, bm25=False)), InvalidInput, "no source of neg"),
        (bad(teacher=replace(job.teacher, batch=0)), InvalidInput, "batch 0"),
        (bad(distilling=replace(job.distilling, rate=-1.0)), InvalidInput, "rate -1"),
        (bad(distilling=replace(job.distilling, batch=3), workers=2), InvalidInput, "batch 3"),
        (bad(model="/no/such/model"), ModelError, "no such folder"),
        (bad(teacher_model="/no/such/model"), ModelError, "no such folder"),
        (bad(teachers=["maxsim:/no/such/model"]), ModelError, "no such folder"),
        (bad(teachers=["bm25:latin"]), InvalidInput, "latin"),
        (bad(data=tmp_path), CorpusError, "cannot be read"),
        (bad(student=StudentSettings(language="de")), InvalidInput, "no adapters"),
        (bad(blend=0.0), InvalidInput, "blend 0"),
        (bad(more=-1), InvalidInput, "more -1"),
        (bad(more=5, templates=[job.templates[0], twin]), InvalidInput, "'question-more': the sec"),
    ):
        with pytest.raises(error, match=says):
            adapt(wrong, tmp_path / "out", SilentProgress())
        assert not (tmp_path / "out").exists()
    assert job.writer.asked == 0


def test_what_was_done_before_ray_failed_is_kept(job, tmp_path, monkeypatch):
    def fails(*, purpose):
        raise Unavailable(f"no Ray for {purpose}")

    monkeypatch.setattr(train_adapting, "ray_session", fails)
    out = tmp_path / "out"
    before = job.writer.asked
    for _ in range(2):
        with pytest.raises(Unavailable, match="no Ray for train adapt"):
            adapt(job, out, SilentProgress())
        assert job.writer.asked - before == 60
    for name in ("question", "claim"):
        records = [record for record, _ in read_records(out / "sets" / name / "mined.jsonl")]
        assert records
        assert all(len(one.passages) == 3 for one in records)
        assert all(one.query == f"{name}-{one.passages[0]}" for one in records)
    seeded = replace(job, mining=replace(job.mining, seed=1))
    with pytest.raises(IndexExists, match="seed was 0, now 1"):
        adapt(seeded, out, SilentProgress())
    wider = replace(job, generating=replace(job.generating, top=25))
    with pytest.raises(IndexExists, match="top was 20, now 25"):
        adapt(wider, out, SilentProgress())
    # A step that was not begun takes what it is given now.
    with pytest.raises(Unavailable):
        adapt(replace(job, distilling=replace(job.distilling, rate=1e-4)), out, SilentProgress())


def test_a_second_round_shows_the_first_as_examples(job, tmp_path, monkeypatch):
    def fails(*, purpose):
        raise Unavailable("no Ray")

    monkeypatch.setattr(train_adapting, "ray_session", fails)
    out = tmp_path / "out"
    prompts = []

    class Listening(Counting):
        def write(self, given, seed):
            prompts.extend(given)
            return super().write(given, seed)

    with pytest.raises(Unavailable):
        adapt(replace(job, writer=Listening(job.writer), more=10), out, SilentProgress())
    first, second = prompts[:60], prompts[60:]
    assert len(second) == 20
    kept = (out / "generated" / "question" / "queries.jsonl").read_text().splitlines()
    shown = [json.loads(line)["text"] for line in kept[:4]]
    assert all(f"Question: {text}\n\n" in prompt for text in shown for prompt in second[:10])
    assert not any(f"Question: {text}\n\n" in prompt for text in shown for prompt in first)
    names = {path.parent.name for path in out.glob("sets/*/mined.jsonl")}
    assert names == {"question", "claim", "question-more", "claim-more"}
    records = [one for one, _ in read_records(out / "sets" / "claim-more" / "mined.jsonl")]
    assert all(one.query == f"claim-more-{one.passages[0]}" for one in records)


def test_given_teachers_judge_instead_of_cross_encoders(job, tmp_path, monkeypatch):
    scored, trained = [], []
    monkeypatch.setattr(train_adapting, "ray_session", lambda purpose: nullcontext())
    monkeypatch.setattr(train_adapting, "train", lambda _, place, __: trained.append(place))
    monkeypatch.setattr(train_adapting, "measured", lambda _: ({}, {}))

    def score(tuples, out, teachers, **_):
        scored.append((len(tuples), out, teachers))

    monkeypatch.setattr(train_adapting, "score_tuples", score)
    out = tmp_path / "out"
    teachers = ["bm25", f"maxsim:{job.model}"]
    for _ in range(2):  # the second time all of it is done
        adapt(replace(job, teachers=teachers), out, SilentProgress())
    assert scored == [(2, out / "scored" / "scored.jsonl", teachers)]
    assert trained == [out / "student"]
    for others in ((), ("bm25",)):
        with pytest.raises(IndexExists, match="teachers was"):
            adapt(replace(job, teachers=others), out, SilentProgress())


def test_teachers_and_what_trains_some_exclude_each_other(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "p", "text": "hello"}\n')
    command = ["train", "adapt", str(corpus), "--out", str(tmp_path / "out"), "--teacher", "bm25"]
    for more in (["--teacher-steps", "5"], ["--teacher-model", "/a/model"]):
        run = CliRunner().invoke(app, [*command, *more])
        assert isinstance(run.exception, InvalidInput)
        assert "no cross-encoder is trained" in str(run.exception)


@pytest.mark.parametrize(("language", "says"), [((), "say which"), (("--language", "fr"), "'fr'")])
def test_the_student_s_language_is_asked_for_first(tmp_path, language, says):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "p", "text": "hello"}\n')
    model, writer = xmod(tmp_path / "model"), causal(tmp_path / "causal")
    options = ["--out", tmp_path / "out", "--writer", writer, "--model", model, *language]
    run = CliRunner().invoke(app, ["train", "adapt", str(corpus), *map(str, options)])
    assert isinstance(run.exception, InvalidInput)
    assert says in str(run.exception)
    assert not (tmp_path / "out").exists()
