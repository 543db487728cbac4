"""Teachers by name: cross-encoders, late interaction, BM25, and what each refuses."""

import json

import numpy as np
import pytest
import torch
from text_checkpoints import plain, stanford

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text import Encoder
from colbert_core.train.bi_encoder import BiEncoder, pooling_of
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


def test_a_bi_encoder_scores_by_the_cosine_of_one_vector_a_text(tmp_path, tuples, pairs):
    model = plain(tmp_path / "model")
    scores = load_teacher(f"cosine:{model}", tuples, CPU).score(pairs)
    encoder = BiEncoder(model)
    for (query, passage), score in zip(pairs, scores, strict=True):
        wanted = encoder.queries([query])[0] @ encoder.passages([passage])[0]
        assert score == pytest.approx(wanted, abs=1e-5)
    remembered = load_teacher(f"cosine:{model}", tuples, CPU, remember=True)
    np.testing.assert_allclose(remembered.score(pairs), scores, atol=2e-3)
    np.testing.assert_allclose(remembered.score(pairs), scores, atol=2e-3)


def test_a_bi_encoder_reads_its_prompts_and_as_many_tokens_as_it_is_told(tmp_path, tuples, pairs):
    model = plain(tmp_path / "model")
    cut = load_teacher(f"cosine:{model}", tuples, CPU, passage_tokens=4).score(pairs)
    whole = load_teacher(f"cosine:{model}", tuples, CPU).score(pairs)
    assert not np.array_equal(cut, whole)
    prompts = {"prompts": {"query": "hello ", "document": "world "}}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = load_teacher(f"cosine:{model}", tuples, CPU).score(pairs)
    said = [("hello " + query, "world " + passage) for query, passage in pairs]
    (model / "config_sentence_transformers.json").unlink()
    np.testing.assert_allclose(
        prompted, load_teacher(f"cosine:{model}", tuples, CPU).score(said), atol=1e-6
    )


def pooled(folder, config, *behind):
    """A sentence-transformers model that pools so."""
    kinds = ["Transformer", "Pooling", *behind]
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling" if at == 1 else ""}
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls", "include_prompt": True}, "first"),
    ],
)
def test_a_folder_says_how_its_tokens_become_one_vector(tmp_path, config, pooling):
    model = pooled(plain(tmp_path / "model"), config, "Normalize")
    assert pooling_of(model) == pooling
    (vector,) = BiEncoder(model).queries(["hello world"])
    (Q_LD,) = Encoder.load(model, device="cpu", precision="float32").encode_queries(["hello world"])
    if pooling == "first":
        np.testing.assert_allclose(vector, Q_LD[0], atol=1e-5)
    else:
        assert not np.allclose(vector, Q_LD[0], atol=1e-2)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "behind", "message"),
    [
        ({"pooling_mode_max_tokens": True}, [], "pools by max_tokens: give a model that takes"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, [], "cls.* and mean"),
        ({}, [], "pools by nothing"),
        ({"pooling_mode": "lasttoken"}, [], "pools by lasttoken"),
        ({"pooling_mode": "mean", "include_prompt": False}, [], "by mean, without the prompt"),
        ({"pooling_mode": "mean"}, ["Dense", "Normalize"], "Dense comes behind the pooling"),
        ({"pooling_mode": 3}, [], "pooling_mode"),
    ],
)
def test_other_ways_to_pool_are_refused_before_any_text(tmp_path, config, behind, message):
    model = pooled(plain(tmp_path / "model"), config, *behind)
    with pytest.raises(ModelError, match=message):
        teacher_sha256(f"cosine:{model}")


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
    names = ["teacher", "maxsim:model", "cosine:model", "bm25", "bm25:none"]
    assert resolved("cosine@de:model") == f"cosine@de:{model}"
    assert resolved("maxsim@de:model") == f"maxsim@de:{model}"
    assert [resolved(name) for name in names] == [
        str(tmp_path / "teacher"),
        f"maxsim:{model}",
        f"cosine:{model}",
        "bm25",
        "bm25:none",
    ]
    assert len({teacher_sha256(name) for name in names}) == 5
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
    model = tmp_path / "model"
    for name in (f"maxsim:{model}", f"cosine:{model}", str(tmp_path / "teacher")):
        exact = load_teacher(name, tuples, CPU).score(pairs)
        lower = load_teacher(name, tuples, CPU, bf16=True).score(pairs)
        assert not np.array_equal(lower, exact)
        np.testing.assert_allclose(lower, exact, rtol=0.05, atol=0.02)
        assert teacher_sha256(name, bf16=True) != teacher_sha256(name)
