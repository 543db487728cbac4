"""A trainer in one process: it learns, repeats itself, goes on where it was, and saves."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from text_checkpoints import WORDS, id_of, plain, pylate, stanford

from colbert_core.errors import InvalidInput, JobFailed, ModelError
from colbert_core.text import Encoder
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.batches import padded
from colbert_core.train.maxsim import own_scores
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.run_log import RunLog, draw_curves, read_log
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.step import Objective
from colbert_core.train.student import Student
from colbert_core.train.trainer import (
    StudentLearner,
    Trainer,
    TrainSettings,
    check_settings,
)

CPU = torch.device("cpu")
SHORT = {"query_maxlen": 12, "doc_maxlen": 20}
SAMPLE = ["late interaction keep one vector", "hello world, for each token of the passage"]


@pytest.fixture(scope="module")
def tuples(tmp_path_factory):
    """A query's words stand in its positive passage, and a teacher says so."""
    folder = tmp_path_factory.mktemp("tuples")
    words, chance = WORDS.split(), random.Random(0)
    with (folder / "tuples.jsonl").open("w") as file:
        for _ in range(48):
            query = chance.sample(words, 3)
            documents = [query + chance.sample(words, 3)]
            documents += [chance.sample(words, 6) for _ in range(3)]
            scores = [6.0] + [chance.random() for _ in range(3)]
            texts = [" ".join(document) for document in documents]
            row = {"query": " ".join(query), "documents": texts, "scores": scores}
            file.write(json.dumps(row) + "\n")
    return prepare_tuples(folder / "made", [folder / "tuples.jsonl"])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    model = plain(folder / "model")
    start_student(model, folder / "start", StudentSettings(dim=16, **SHORT))
    return folder / "start"


def trainer_for(start, tuples, settings, chunk=None):
    return Trainer(StudentLearner(start, settings, CPU, chunk=chunk), tuples, settings)


def trained(trainer):
    return trainer.state()["parameters"]


def run(start, tuples, steps=None, chunk=None, **settings):
    settings = TrainSettings(**{"steps": 12, "batch": 8, "rate": 3e-3, "warmup": 2} | settings)
    trainer = trainer_for(start, tuples, settings, chunk)
    rows = [trainer.step() for _ in range(steps or settings.steps)]
    return trainer, rows


def losses(rows):
    return [row["loss"] for row in rows]


def test_it_learns_and_repeats_itself(start, tuples):
    _, rows = run(start, tuples)
    assert np.mean(losses(rows)[-3:]) < 0.8 * np.mean(losses(rows)[:3])
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[0]["loss"] == pytest.approx(rows[0]["tuples"] + rows[0]["in_batch"])
    assert losses(run(start, tuples)[1]) == losses(rows)
    assert losses(run(start, tuples, seed=1)[1]) != losses(rows)


def test_chunks_and_parts_give_the_same_curve(start, tuples):
    """Parts only without in-batch negatives: with them, a part has fewer."""
    _, rows = run(start, tuples)
    _, chunked = run(start, tuples, chunk=3)
    np.testing.assert_allclose(losses(chunked), losses(rows), atol=1e-4)
    objective = Objective(in_batch_weight=0.0)
    _, whole = run(start, tuples, objective=objective)
    _, parts = run(start, tuples, objective=objective, accumulate=4)
    np.testing.assert_allclose(losses(parts), losses(whole), atol=1e-4)


def test_teachers_of_a_batch_are_asked(start, tuples):
    objective = Objective(batch_teachers=(f"maxsim:{start}", "bm25:none"))
    settings = TrainSettings(steps=1, batch=8, objective=objective)
    teachers = BatchTeachers(objective.batch_teachers, tuples, CPU)
    learner = StudentLearner(start, settings, CPU, teachers=teachers)
    taught = Trainer(learner, tuples, settings).step()
    _, (alone,) = run(start, tuples, steps=1)
    assert taught["in_batch"] == pytest.approx(alone["in_batch"])
    assert taught["tuples"] > alone["tuples"]


@pytest.mark.parametrize("lora", [None, 4])
def test_what_is_resumed_goes_on_as_if_nothing_had_happened(tmp_path, start, tuples, lora):
    whole, rows = run(start, tuples, lora=lora)
    half, _ = run(start, tuples, steps=5, lora=lora)
    torch.save(half.state(), tmp_path / "state.pt")
    again = trainer_for(start, tuples, half.settings)
    again.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.done == 5
    assert losses([again.step() for _ in range(7)]) == losses(rows)[5:]
    for name, tensor in trained(whole).items():
        assert torch.equal(tensor, trained(again)[name]), name


def test_low_rank_leaves_the_backbone_and_is_added_in(tmp_path, start, tuples):
    trainer, rows = run(start, tuples, lora=4)
    assert all("lora_" in name or name == "projection.weight" for name in trained(trainer))
    assert losses(rows)[-1] < losses(rows)[0]
    trainer.learner.save(tmp_path / "saved")
    before, after = (
        load_file(place / "model.safetensors") for place in (start, tmp_path / "saved")
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("attention.self.query.weight" in name for name in changed)
    assert "bert.embeddings.word_embeddings.weight" not in changed
    check_encoder(trainer, tmp_path / "saved")


@pytest.mark.parametrize("lora", [None, 4])
def test_a_blend_lies_between_start_and_end(tmp_path, start, tuples, lora):
    """Each weight where it should be, merged or not, and the additions in little too."""
    trainer, _ = run(start, tuples, lora=lora)
    student = trainer.learner.module
    shares = (0.25, 1.0)
    for share in shares:
        student.save(tmp_path / f"{share}", share)
    before, part, whole = (
        load_file(place / "model.safetensors")
        for place in (start, *(tmp_path / f"{share}" for share in shares))
    )
    moved = {name for name in before if not torch.equal(before[name], whole[name])}
    assert "linear.weight" in moved
    assert len(moved) > 8
    for name in before:
        wanted = before[name].lerp(whole[name], 0.25)
        torch.testing.assert_close(part[name], wanted, rtol=0, atol=1e-6)
    if lora is not None:
        student.save_additions(
            tmp_path / "little", str(start), read_checkpoint(start).sha256(), 0.25
        )
        little, full = (
            Encoder.load(tmp_path / name, device="cpu", precision="float32").encode_passages(SAMPLE)
            for name in ("little", "0.25")
        )
        np.testing.assert_allclose(little.vectors_TD, full.vectors_TD, atol=2e-3)


def test_half_precision_is_the_backbone_s_alone(start, tuples):
    """In bfloat16 the losses differ a little; vectors and their sums stay in float32."""
    _, whole = run(start, tuples, steps=4)
    trainer, half = run(start, tuples, steps=4, bf16=True)
    assert losses(half) != losses(whole)
    np.testing.assert_allclose(losses(half), losses(whole), rtol=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in trained(trainer).values())
    student = trainer.learner.module
    tokens = padded(student.tokenizer.passages(SAMPLE), student.tokenizer.pad_id, CPU)
    vectors = student.encode(tokens)
    assert vectors.x_BLD.dtype == own_scores(vectors, vectors).dtype == torch.float32
    lengths = torch.linalg.vector_norm(vectors.x_BLD, dim=-1)[vectors.mask_BL]
    np.testing.assert_allclose(lengths.detach(), 1, atol=1e-6)


def test_texts_of_like_length_are_encoded_together(start):
    """What is padded less gives the same vectors and gradients, in the order of the texts."""
    student = Student.load(start, CPU)
    texts = [" ".join(WORDS.split()[:size]) for size in (1, 15, 2, 15, 1, 3, 2, 14, 4)]
    tokens = padded(student.tokenizer.passages(texts), student.tokenizer.pad_id, CPU)
    groups = tokens.by_length()
    assert len(groups) > 1
    assert sorted(torch.cat(groups).tolist()) == list(range(len(texts)))
    together = student.encode(tokens)
    (together.x_BLD**3).sum().backward()
    gradient = student.projection.weight.grad.clone()
    student.zero_grad()
    for row, text in enumerate(texts):
        one = padded(student.tokenizer.passages([text]), student.tokenizer.pad_id, CPU)
        alone = student.encode(one)
        (alone.x_BLD**3).sum().backward()
        np.testing.assert_allclose(
            together.x_BLD[row][together.mask_BL[row]].detach(),
            alone.x_BLD[0][alone.mask_BL[0]].detach(),
            atol=1e-6,
        )
    np.testing.assert_allclose(student.projection.weight.grad, gradient, atol=1e-4)
    alike = padded(student.tokenizer.passages(texts[1:4:2]), student.tokenizer.pad_id, CPU)
    assert len(alike.by_length()) == 1


def test_passages_are_cut_in_training_alone(tmp_path, start, tuples):
    trainer, rows = run(start, tuples, steps=2, passage_tokens=5)
    _, whole = run(start, tuples, steps=2)
    assert losses(rows) != losses(whole)
    trainer.learner.save(tmp_path / "saved")
    for folder in (start, tmp_path / "saved"):
        assert read_checkpoint(folder).rules.doc_maxlen == SHORT["doc_maxlen"]


def check_encoder(trainer, folder):
    """Our encoder gives the vectors that were trained."""
    encoder = Encoder.load(folder, device="cpu", precision="float32")
    student = trainer.learner.module
    texts = ["keep one vector, for each", "hello"]
    tokens = padded(student.tokenizer.passages(texts), student.tokenizer.pad_id, CPU)
    with torch.no_grad():
        vectors = student.encode(tokens)
    trained_TD = vectors.x_BLD[vectors.mask_BL].numpy()
    np.testing.assert_allclose(encoder.encode_passages(texts).vectors_TD, trained_TD, atol=1e-5)


@pytest.mark.parametrize(
    ("markers", "augment", "format_"),
    [(True, True, "stanford"), (True, False, "pylate"), (False, True, "pylate")],
)
def test_a_plain_encoder_becomes_a_student(tmp_path, tuples, markers, augment, format_):
    settings = StudentSettings(dim=8, markers=markers, augment=augment, **SHORT)
    start_student(plain(tmp_path / "model"), tmp_path / "start", settings)
    trainer, _ = run(tmp_path / "start", tuples, steps=2)
    trainer.learner.save(tmp_path / "saved")
    check_encoder(trainer, tmp_path / "saved")
    identity = Encoder.load(tmp_path / "saved").identity
    assert (identity.format, identity.dim) == (format_, 8)
    assert (identity.query_maxlen, identity.doc_maxlen) == (12, 20)
    assert identity.passage_marker_id == (id_of("[unused1]") if markers else None)
    assert identity.expansion_id == (id_of("[MASK]") if augment else None)
    assert id_of(",") in identity.skip_ids


def test_a_student_starts_from_what_its_encoder_knows(tmp_path):
    """At all of its dimensions the projection is a rotation: similarities are the encoder's."""
    model = plain(tmp_path / "model")
    settings = StudentSettings(dim=24, markers=False, augment=False, **SHORT)
    start_student(model, tmp_path / "start", settings)
    before, after = (
        Encoder.load(place, precision="float32").encode_passages(["hello world"]).vectors_TD
        for place in (model, tmp_path / "start")
    )
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    start_student(model, tmp_path / "again", settings)
    weights = "1_Dense/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (
        tmp_path / "start" / weights
    ).read_bytes()


@pytest.mark.parametrize("make", [stanford, pylate])
def test_a_late_interaction_checkpoint_keeps_its_rules_but_for_lengths(tmp_path, tuples, make):
    (tmp_path / "model").mkdir()
    model = make(tmp_path / "model")
    start_student(model, tmp_path / "start", StudentSettings(doc_maxlen=16))
    before, after = (Encoder.load(place).identity for place in (model, tmp_path / "start"))
    assert (before.doc_maxlen, after.doc_maxlen, after.query_maxlen) == (20, 16, 12)
    assert (after.format, after.dim, after.skip_ids) == (before.format, 16, before.skip_ids)
    trainer, _ = run(tmp_path / "start", tuples, steps=3)
    trainer.learner.save(tmp_path / "saved")
    check_encoder(trainer, tmp_path / "saved")
    with pytest.raises(InvalidInput, match="dim 8"):
        start_student(model, tmp_path / "start", StudentSettings(dim=8))
    with pytest.raises(InvalidInput, match="doc_maxlen 900"):
        start_student(model, tmp_path / "start", StudentSettings(doc_maxlen=900))


def test_heads_and_vocabularies_that_cannot_be_trained(tmp_path):
    biased = pylate(tmp_path / "biased", [{"bias": True}])
    with pytest.raises(ModelError, match="one linear projection"):
        start_student(biased, tmp_path / "start", StudentSettings())
    model = plain(tmp_path / "model")
    vocabulary = json.loads((model / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"].pop("[unused1]")
    (model / "tokenizer.json").write_text(json.dumps(vocabulary))
    (model / "vocab.txt").unlink()
    with pytest.raises(ModelError, match="--no-markers"):
        start_student(model, tmp_path / "start", StudentSettings(dim=8, **SHORT))
    vocabulary["model"]["vocab"] = {
        word: at for word, at in vocabulary["model"]["vocab"].items() if not word.isalpha()
    }
    (model / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError, match="no words"):
        start_student(model, tmp_path / "start", StudentSettings(dim=8, markers=False, **SHORT))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps 0"),
        ({"batch": 7}, "batch 7 cannot be cut into 1 parts for 2 workers"),
        ({"batch": 64}, "only 48 tuples"),
        ({"rate": float("nan")}, "rate nan"),
        ({"warmup": 99}, "warmup 99"),
        ({"lora": 0}, "lora 0"),
        ({"objective": Objective(weight=0.0, in_batch_weight=0.0)}, "weights 0 and 0"),
        ({"objective": Objective(temperature=0.0)}, "temperature 0"),
        ({"objective": Objective(weight=0.0, batch_teachers=("bm25",))}, "leave out the teacher"),
    ],
)
def test_settings_are_refused_before_any_work(tuples, change, says):
    settings = TrainSettings(**{"steps": 5, "batch": 8} | change)
    with pytest.raises(InvalidInput, match=says):
        check_settings(settings, tuples, [2])


def test_a_batch_must_fit_every_number_of_workers(tuples):
    settings = TrainSettings(steps=5, batch=8)
    check_settings(settings, tuples, range(1, 3))
    with pytest.raises(InvalidInput, match="batch 8 cannot be cut into 1 parts for 3 workers"):
        check_settings(settings, tuples, range(1, 5))


def test_a_teacher_is_needed_to_distil(tmp_path):
    path = tmp_path / "tuples.jsonl"
    path.write_text('{"query": "hello", "documents": ["one", "each"]}\n' * 8)
    unscored = prepare_tuples(tmp_path / "made", [path])
    with pytest.raises(InvalidInput, match="tartan train score"):
        check_settings(TrainSettings(steps=1, batch=4), unscored, [1])
    check_settings(TrainSettings(steps=1, batch=4, objective=Objective(loss="v1")), unscored, [1])


def test_a_loss_that_is_not_finite_ends_the_run(start, tuples):
    trainer = trainer_for(start, tuples, TrainSettings(steps=4, batch=8))
    trainer.learner.module.projection.weight.data.fill_(torch.nan)
    with pytest.raises(JobFailed, match="nan at step 1"):
        trainer.step()


def test_a_log_forgets_what_a_lost_attempt_wrote_after_its_checkpoint(tmp_path):
    row = {"loss": 1.0, "tuples": 0.5, "in_batch": 0.5}
    log = RunLog(tmp_path, 0)
    for step in range(1, 6):
        log.add({"step": step, **row})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    log = RunLog(tmp_path, 3)
    log.add({"step": 4, **row, "ndcg@10": 0.5, "mrr@10": 0.5, "recall@100": 1.0})
    log.close()
    assert [one["step"] for one in read_log(tmp_path)] == [1, 2, 3, 4]
    assert draw_curves(tmp_path).read_bytes().startswith(b"\x89PNG")
    assert any(Path(tmp_path, "tensorboard").iterdir())
    RunLog(tmp_path, 0).close()
    assert read_log(tmp_path) == []
