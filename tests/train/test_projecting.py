"""The projection alone: equal to plain steps that encode everything anew, and written once."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from text_checkpoints import WORDS, plain

from cluster.progress import SilentProgress
from cluster.train_job import TrainJob, train
from cluster.train_start import Beginning, check_passage_tokens, start_run
from colbert_core.errors import InvalidInput
from colbert_core.train import losses, projecting
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.batches import collate
from colbert_core.train.maxsim import all_scores
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.projecting import HiddenVectors, fit_projection
from colbert_core.train.schedule import batch_ordinals, learning_rate
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.student import Student
from colbert_core.train.teachers import load_teacher
from colbert_core.train.trainer import TrainSettings

CPU = torch.device("cpu")
FORM = StudentSettings(dim=4, query_maxlen=12, doc_maxlen=20)
STEPS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(plain(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def tuples(tmp_path_factory):
    """Passages of several lengths, some of which stand in several tuples, also as a query."""
    folder = tmp_path_factory.mktemp("tuples")
    words, chance = WORDS.split(), random.Random(0)
    texts = [" ".join(chance.sample(words, length)) for length in (1, 2, 3, 6, 8) * 6]
    with (folder / "tuples.jsonl").open("w") as file:
        for at in range(20):
            row = {"query": texts[at], "documents": chance.sample(texts, 3), "scores": [2, 1, 0]}
            file.write(json.dumps(row) + "\n")
    return prepare_tuples(folder / "made", [folder / "tuples.jsonl"])


@pytest.fixture
def begin(tmp_path, model, monkeypatch):
    """A student as a run starts from it, with batches of eight."""
    monkeypatch.setattr(projecting, "BATCH", 8)
    start_student(model, tmp_path / "start", FORM)
    return lambda: Student.load(tmp_path / "start", CPU)


def judges(model, tuples, *, remember=True):
    return BatchTeachers((f"maxsim:{model}", "bm25:none"), tuples, CPU, remember=remember)


def plainly(student, model, tuples):
    """The same by the definition; returns the losses."""
    optimizer = torch.optim.Adam([student.projection.weight], lr=projecting.RATE)
    pool = np.random.default_rng(3).permutation(len(tuples))
    teachers, said = judges(model, tuples, remember=False), []
    for step in range(STEPS):
        ordinals = pool[batch_ordinals(step, tuples=len(pool), batch=8, seed=3)]
        examples = [tuples.example(int(ordinal)) for ordinal in ordinals]
        batch = collate(examples, student.tokenizer, CPU)
        scores_BM = all_scores(student.encode(batch.queries), student.encode(batch.passages))
        loss = losses.batch_distillation(scores_BM, teachers.scores(examples), batch.keys_M)
        optimizer.param_groups[0]["lr"] = learning_rate(
            step, peak=projecting.RATE, steps=STEPS, warmup=0
        )
        student.zero_grad()
        loss.backward()
        optimizer.step()
        said.append(loss.item())
    return said


def test_it_is_what_plain_steps_give(begin, model, tuples):
    fitted, expected, start = begin(), begin(), begin()
    advanced = []
    fit_projection(
        fitted, tuples, judges(model, tuples), steps=STEPS, seed=3, advance=advanced.append
    )
    said = plainly(expected, model, tuples)
    assert said[-1] < said[0]
    assert advanced == [1] * STEPS
    moved = (expected.projection.weight - start.projection.weight).norm()
    apart = (fitted.projection.weight - expected.projection.weight).norm()
    assert apart < 0.05 * moved  # hidden vectors are kept in half precision
    for name, tensor in fitted.backbone.state_dict().items():
        assert torch.equal(tensor, start.backbone.state_dict()[name]), name
    again = begin()
    fit_projection(again, tuples, judges(model, tuples), steps=STEPS, seed=3)
    assert torch.equal(again.projection.weight, fitted.projection.weight)


def test_hidden_vectors_give_what_the_student_gives(begin, tuples):
    student = begin()
    hidden = HiddenVectors(student)
    for ordinals in (range(8), range(4, 12)):  # some texts are known the second time
        examples = [tuples.example(ordinal) for ordinal in ordinals]
        texts = [passage for example in examples for passage in example.passages]
        tokens = collate(examples, student.tokenizer, CPU).passages
        with torch.no_grad():
            given, expected = hidden.projected(texts, tokens), student.encode(tokens)
        assert torch.equal(given.mask_BL, expected.mask_BL)
        torch.testing.assert_close(given.x_BLD, expected.x_BLD, atol=2e-3, rtol=0)


def test_a_teacher_that_remembers_says_the_same(model, tuples):
    forgetful, mindful = (
        load_teacher(f"maxsim:{model}", tuples, CPU, remember=remember)
        for remember in (False, True)
    )
    for ordinals in (range(8), range(4, 12)):
        examples = [tuples.example(ordinal) for ordinal in ordinals]
        pairs = [(one.query, passage) for one in examples for passage in one.passages]
        np.testing.assert_allclose(mindful.score(pairs), forgetful.score(pairs), atol=1e-2)


def test_a_run_s_start_is_fitted_once(tmp_path, model, tuples, monkeypatch):
    names = (f"maxsim:{model}", "bm25:none")
    settings = TrainSettings(steps=1, batch=4, passage_tokens=9)

    def start(out, steps, settings=settings):
        begin = Beginning(fit_steps=steps, fit_teachers=names)
        return start_run(tmp_path / out, model, FORM, settings, tuples, begin, SilentProgress())

    def weights(out):
        folder = tmp_path / out / "start"
        return {k: v for file in folder.rglob("*.safetensors") for k, v in load_file(file).items()}

    plainly, fitted = start("plain", 0), start("fitted", 3)
    assert plainly != fitted
    before, after = weights("plain"), weights("fitted")
    assert [k for k in before if not torch.equal(before[k], after[k])] == ["linear.weight"]
    with monkeypatch.context() as patch:
        patch.setattr("cluster.train_start.fit_projection", lambda *_, **__: pytest.fail("again"))
        assert start("fitted", 3) == fitted
    assert start("fitted", 3, replace(settings, seed=1)) != fitted


def test_more_passage_tokens_than_the_model_reads_are_refused(model):
    check_passage_tokens(None, model)
    check_passage_tokens(9, model)
    with pytest.raises(InvalidInput, match="passage-tokens 9999: doc_maxlen 9999 is outside"):
        check_passage_tokens(9999, model)


@pytest.mark.parametrize(
    ("steps", "teachers", "says"),
    [
        (-1, (), "fit-projection -1"),
        (5, (), "fit-projection 5: .*--fit-teacher"),
        (0, ("bm25",), "fit-teacher bm25: .*--fit-projection"),
    ],
)
def test_what_cannot_be_fitted_is_refused_first(tmp_path, model, steps, teachers, says):
    job = TrainJob(
        tuples=("nowhere.jsonl",),
        corpus=None,
        queries=None,
        n_way=None,
        model=model,
        student=FORM,
        settings=TrainSettings(steps=1, batch=4),
        workers=1,
        chunk=None,
        checkpoint_every=1,
        evaluate_every=1,
        data=None,
        split="dev",
        max_failures=0,
        beginning=Beginning(fit_steps=steps, fit_teachers=teachers),
    )
    with pytest.raises(InvalidInput, match=says):
        train(job, tmp_path / "out", SilentProgress())
    assert not (tmp_path / "out").exists()
