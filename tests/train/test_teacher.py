"""Cross-encoders: they learn to tell positives, score in any order alike, and are averaged."""

import json
import random

import numpy as np
import pytest
import torch
from text_checkpoints import WORDS, plain
from torch.nn.functional import cross_entropy

from colbert_core.errors import ModelError
from colbert_core.train.averaging import Moments, averaged
from colbert_core.train.cross_encoder import CrossEncoder, TeacherLearner, start_teacher
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.trainer import Trainer, TrainSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    start_teacher(plain(folder / "model"), folder / "start", seed=0)
    return folder / "start"


def test_scores_do_not_depend_on_order_or_company(started):
    teacher = CrossEncoder.load(started, CPU)
    chance = random.Random(0)
    pairs = [
        ("hello", " ".join(chance.choices(WORDS.split(), k=chance.randint(1, 40))))
        for _ in range(30)
    ]
    scores = teacher.score(pairs)
    assert scores.dtype == np.float32
    turned = teacher.score(pairs[::-1])[::-1]
    alone = np.concatenate([teacher.score([pair]) for pair in pairs])
    np.testing.assert_allclose(turned, scores, atol=1e-5)
    np.testing.assert_allclose(alone, scores, atol=1e-5)
    assert len(set(scores.tolist())) > 20


def test_it_learns_to_tell_the_positive_and_keeps_its_head(tmp_path, started):
    """The positive passage is the one with "world" in it."""
    chance, words = random.Random(0), [word for word in WORDS.split() if word != "world"]
    with (tmp_path / "tuples.jsonl").open("w") as file:
        for _ in range(64):
            documents = [" ".join(chance.sample(words, 4)) for _ in range(3)]
            documents[0] += " world"
            file.write(json.dumps({"query": "hello", "documents": documents}) + "\n")
    tuples = prepare_tuples(tmp_path / "made", [tmp_path / "tuples.jsonl"])
    settings = TrainSettings(steps=40, batch=16, rate=5e-3)
    trainer = Trainer(TeacherLearner(started, settings, CPU), tuples, settings)
    rows = [trainer.step() for _ in range(settings.steps)]
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.5 * rows[0]["loss"]
    trainer.learner.save(tmp_path / "saved")
    saved = CrossEncoder.load(tmp_path / "saved", CPU)
    scores = saved.score([("hello", "keep one world"), ("hello", "keep one vector")])
    assert scores[0] > scores[1]
    # A trained one is gone on with: its head is kept.
    assert start_teacher(tmp_path / "saved", tmp_path / "again", seed=5)
    again = CrossEncoder.load(tmp_path / "again", CPU)
    np.testing.assert_array_equal(
        again.score([("hello", "one world")]), saved.score([("hello", "one world")])
    )


def test_its_loss_is_the_cross_entropy_of_the_first(started):
    from colbert_core.train.tuple_set import Example

    learner = TeacherLearner(started, TrainSettings(steps=1, batch=1), CPU)
    examples = [
        Example("hello", ("hello world", "one token", "the passage"), None),
        Example("vector", ("one vector", "late", "un"), None),
    ]
    total, _, in_batch = learner.add_gradients(examples, 0.5).tolist()
    found = {name: p.grad.clone() for name, p in learner.module.named_parameters()}
    learner.module.zero_grad()
    scores = torch.stack(
        [
            torch.stack(
                [CrossEncoder.load(started, CPU).logits([(one.query, p)])[0] for p in one.passages]
            )
            for one in examples
        ]
    )
    assert total == pytest.approx(cross_entropy(scores, torch.tensor([0, 0])).item(), abs=1e-5)
    assert in_batch == 0.0
    assert found["classifier.weight"].abs().max() > 0


def test_a_teacher_gives_one_score(tmp_path, started):
    plain(tmp_path / "model")
    with pytest.raises(ModelError, match="no classification head"):
        CrossEncoder.load(tmp_path / "model", CPU)
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(tmp_path / "model", num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="a head of 3 labels"):
        CrossEncoder.load(tmp_path / "model", CPU)
    with pytest.raises(ModelError, match="one label"):
        start_teacher(tmp_path / "model", tmp_path / "start", seed=0)
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded as a cross-encoder"):
        CrossEncoder.load(tmp_path / "model", CPU)


def test_scores_that_are_not_finite_are_named(tmp_path, started):
    teacher = CrossEncoder.load(started, CPU)
    teacher.model.classifier.bias.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="no finite score for query 'hello' and passage 'world'"):
        teacher.score([("hello", "world")])


def test_teachers_are_averaged_after_normalisation():
    chance = np.random.default_rng(0)
    truth = chance.normal(size=(50, 4)).astype(np.float32)
    narrow, wide = truth * 0.1 + 7, truth * 30 - 100
    moments = [Moments().plus(part[:20]).plus(part[20:]) for part in (narrow, wide)]
    assert moments[1].mean == pytest.approx(wide.mean(), rel=1e-4)
    within = wide - wide.mean(1, keepdims=True)
    assert moments[1].deviation == pytest.approx(within.std(), rel=1e-4)
    together = averaged([narrow, wide], moments)
    assert together.dtype == np.float32
    assert np.corrcoef(together.ravel(), truth.ravel())[0, 1] > 0.9999
    assert together.std() == pytest.approx(narrow.std(), rel=1e-3)
    shifted = wide + 100 * np.arange(50, dtype=np.float32)[:, None]  # longer queries score higher
    assert Moments().plus(shifted).deviation == pytest.approx(moments[1].deviation, rel=1e-3)
    assert averaged([narrow], moments[:1]) is narrow
    with pytest.raises(ModelError, match=r"teacher 2 of 2 gives all .* the same score, 3"):
        averaged([narrow, narrow], [moments[0], Moments().plus(np.full((5, 5), 3, np.float32))])
