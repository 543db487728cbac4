"""Training in one language: embeddings and adapters stay, and the others are read with the rest."""

import numpy as np
import pytest
import text_checkpoints as tiny
import torch
from safetensors.torch import load_file

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text import Encoder
from colbert_core.train.cross_encoder import CrossEncoder, start_teacher
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.teachers import load_teacher, teacher_sha256
from colbert_core.train.trainer import StudentLearner, Trainer, TrainSettings

LINE = '{"query": "hello", "documents": ["hello world", "one vector"], "scores": [2.0, 0.5]}\n'
FROZEN = ("embeddings", "adapter_modules", "adapter_layer_norm")


def trained(folder, *, lora=None):
    start_student(tiny.xmod(folder / "model"), folder / "start", StudentSettings(language="en"))
    (folder / "tuples.jsonl").write_text(LINE * 4)
    tuples = prepare_tuples(folder / "tuples", [folder / "tuples.jsonl"])
    run = TrainSettings(steps=2, batch=4, rate=0.01, lora=lora)
    trainer = Trainer(StudentLearner(folder / "start", run, torch.device("cpu")), tuples, run)
    trainer.step()
    trainer.step()
    trainer.learner.save(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("lora", [None, 2])
def test_embeddings_and_adapters_stay_as_they_are(tmp_path, lora):
    saved = trained(tmp_path, lora=lora)
    before = load_file(tmp_path / "start" / "model.safetensors")
    after = load_file(saved / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if set(name.split(".")) & set(FROZEN)}
    assert frozen
    assert not changed & frozen
    assert "linear.weight" in changed
    assert any("attention" in name for name in changed)


def test_the_student_s_language_is_its_default_and_others_are_read_too(tmp_path):
    saved = trained(tmp_path)
    assert Encoder.load(saved).identity.language == "en_XX"
    german, before = (
        Encoder.load(place, language="de", precision="float32").encode_queries(["hello world"])[0]
        for place in (saved, tmp_path / "start")
    )
    assert np.isfinite(german).all()
    assert not np.allclose(german, before, atol=1e-3)  # what was learnt in English


def test_a_language_is_asked_for_before_anything_is_written(tmp_path):
    folder = tiny.xmod(tmp_path / "model")
    for language, says in ((None, "say which"), ("fr", "language 'fr'")):
        with pytest.raises(InvalidInput, match=says):
            start_student(folder, tmp_path / "start", StudentSettings(language=language))
    assert not (tmp_path / "start").exists()


def test_a_teacher_reads_in_its_default_language(tmp_path):
    folder = tiny.xmod(tmp_path / "model")
    with pytest.raises(ModelError, match="names no default_language"):
        start_teacher(folder, tmp_path / "teacher", seed=0)
    tiny.edit(folder / "config.json", default_language="en_XX")
    start_teacher(folder, tmp_path / "teacher", seed=0)
    teacher = CrossEncoder.load(tmp_path / "teacher", torch.device("cpu"))
    assert teacher.score([("hello", "world")]).shape == (1,)


def test_late_interaction_teaches_in_the_language_that_its_name_says(tmp_path):
    folder = tiny.xmod(tmp_path / "model")
    (tmp_path / "tuples.jsonl").write_text(LINE)
    tuples = prepare_tuples(tmp_path / "tuples", [tmp_path / "tuples.jsonl"])
    pair = ("hello", "hello world")
    scores = {}
    for language in ("en", "de"):
        name = f"maxsim@{language}:{folder}"
        scores[language] = load_teacher(name, tuples, torch.device("cpu")).score([pair])[0]
        reader = Encoder.load(folder, language=language, precision="float32")
        query, passage = reader.encode_queries([pair[0]])[0], reader.encode_passages([pair[1]])
        expected = (query @ passage.vectors_TD.T).max(1).sum()
        np.testing.assert_allclose(scores[language], expected, rtol=1e-5)
    assert scores["en"] != scores["de"]
    assert teacher_sha256(f"maxsim@en:{folder}") != teacher_sha256(f"maxsim@de:{folder}")
    with pytest.raises(InvalidInput, match="language 'fr'"):
        teacher_sha256(f"maxsim@fr:{folder}")
    with pytest.raises(InvalidInput, match="say which"):
        teacher_sha256(f"maxsim:{folder}")
