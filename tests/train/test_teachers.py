"""Teachers by name: cross-encoders, late interaction, BM25, and what each refuses."""

import json

import numpy as np
import pytest
import torch
from text_checkpoints import plain, stanford

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text import Encoder
from colbert_core.train.cross_encoder import CrossEncoder, start_teacher
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.teachers import load_teacher, resolved, teacher_sha256

CPU = torch.device("cpu")
TUPLES = [
    ["keep one vector", "one vector for each token", "hello world", "late passage"],
    ["hello", "hello hello world", "the passage", "one vector for each token"],
    ["zzz", "late passage", "hello world", "the passage"],
]


@pytest.fixture(scope="module")
def tuples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuples")
    rows = [json.dumps({"query": query, "documents": texts}) for query, *texts in TUPLES]
    (folder / "tuples.jsonl").write_text("\n".join(rows))
    return prepare_tuples(folder / "made", [folder / "tuples.jsonl"])


@pytest.fixture(scope="module")
def pairs(tuples):
    examples = [tuples.example(at) for at in range(len(tuples))]
    return [(one.query, passage) for one in examples for passage in one.passages]


@pytest.mark.parametrize("form", [plain, stanford])
def test_late_interaction_scores_by_its_maxsim(tmp_path, tuples, pairs, form):
    model = form(tmp_path / "model")
    scores = load_teacher(f"maxsim:{model}", tuples, CPU).score(pairs)
    encoder = Encoder.load(model, device="cpu", precision="float32")
    for (query, passage), score in zip(pairs, scores, strict=True):
        (Q_LD,) = encoder.encode_queries([query])
        X_TD = encoder.encode_passages([passage]).vectors_TD
        assert score == pytest.approx((Q_LD @ X_TD.T).max(1).sum(), abs=1e-5)


def test_bm25_counts_words_over_all_passages(tuples, pairs):
    scores = load_teacher("bm25", tuples, CPU).score(pairs).reshape(-1, 3)
    assert scores[0].argmax() == 0
    assert scores[1].argmax() == 0
    assert not scores[2].any()  # none of its words is anywhere
    with pytest.raises(InvalidInput, match="'klingon' has no stemmer"):
        load_teacher("bm25:klingon", tuples, CPU)
    assert load_teacher("bm25:none", tuples, CPU).score(pairs)[0] > 0


def test_a_path_is_a_cross_encoder(tmp_path, tuples, pairs):
    model = plain(tmp_path / "model")
    start_teacher(model, tmp_path / "teacher", seed=0)
    wanted = CrossEncoder.load(tmp_path / "teacher", CPU).score(pairs)
    found = load_teacher(str(tmp_path / "teacher"), tuples, CPU).score(pairs)
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ModelError, match="no classification head"):
        load_teacher(str(model), tuples, CPU)
    with pytest.raises(ModelError, match="no model 'nowhere/at/all'"):
        load_teacher("maxsim:nowhere/at/all", tuples, CPU)


def test_names_hold_elsewhere_and_hashes_tell_teachers_apart(tmp_path, monkeypatch):
    model = plain(tmp_path / "model")
    start_teacher(model, tmp_path / "teacher", seed=0)
    monkeypatch.chdir(tmp_path)
    names = ["teacher", "maxsim:model", "bm25", "bm25:none"]
    assert resolved("maxsim@de:model") == f"maxsim@de:{model}"
    assert [resolved(name) for name in names] == [
        str(tmp_path / "teacher"),
        f"maxsim:{model}",
        "bm25",
        "bm25:none",
    ]
    assert len({teacher_sha256(name) for name in names}) == 4
    assert teacher_sha256("maxsim:model") == teacher_sha256(f"maxsim:{model}")
    assert resolved("maxsim:minilm-untrained") == "maxsim:minilm-untrained"
    with pytest.raises(InvalidInput, match="'klingon' has no stemmer"):
        teacher_sha256("bm25:klingon")
    before = teacher_sha256("maxsim:model")
    about = model / "sentence_bert_config.json"
    about.write_text(json.dumps({"do_lower_case": True}))  # other rules, the same weights
    assert teacher_sha256("maxsim:model") != before


def test_a_teacher_in_bfloat16_scores_nearly_the_same_and_is_another(tmp_path, tuples, pairs):
    plain(tmp_path / "model")
    start_teacher(tmp_path / "model", tmp_path / "teacher", seed=0)
    for name in (f"maxsim:{tmp_path / 'model'}", str(tmp_path / "teacher")):
        exact = load_teacher(name, tuples, CPU).score(pairs)
        lower = load_teacher(name, tuples, CPU, bf16=True).score(pairs)
        assert not np.array_equal(lower, exact)
        np.testing.assert_allclose(lower, exact, rtol=0.05, atol=0.02)
        assert teacher_sha256(name, bf16=True) != teacher_sha256(name)
