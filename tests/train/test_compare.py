"""`tartan eval --compare`: each system ranks as it should, and says what it takes."""

import json
import random

import numpy as np
import pytest
import torch
from text_checkpoints import HIDDEN, WORDS, plain, xmod

from cluster import cli_train_compare
from cluster.cli_train_compare import Comparison, compare_command
from cluster.train_comparing import (
    Collection,
    bi_encoder_system,
    bm25_system,
    encode,
    index_system,
    reranked_system,
    timed_run,
    uncompressed_system,
)
from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text import Encoder
from colbert_core.train.bi_encoder import BiEncoder
from colbert_core.train.cross_encoder import CrossEncoder, start_teacher
from colbert_core.train.starting import StudentSettings, start_student

DIM = 16


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    chance, words = random.Random(0), WORDS.split()
    texts = [" ".join(chance.sample(words, 6)) for _ in range(60)]
    collection = Collection([f"p{at}" for at in range(60)], texts)
    model = plain(folder / "model")
    settings = StudentSettings(dim=DIM, query_maxlen=12, doc_maxlen=20)
    start_student(model, folder / "student", settings)
    start_teacher(model, folder / "teacher", seed=0)
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = zip(collection.ids, texts, strict=True)
    (beir / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in rows)
    )
    queries = {f"q{at}": " ".join(texts[at].split()[:3]) for at in range(12)}
    (beir / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in queries.items())
    )
    judged = "".join(f"q{at}\tp{at}\t1\n" for at in range(12))
    (beir / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder, collection, list(queries.values())


def test_uncompressed_is_exact_maxsim_and_two_bits_come_near(tmp_path, material):
    folder, collection, queries = material
    encoder = Encoder.load(folder / "student")
    encoded = encode(collection, str(folder / "student"), tmp_path / "vectors")
    exact = uncompressed_system("exact", collection, encoded)
    run, seconds = timed_run(exact, queries)
    assert len(seconds) == len(queries)
    passages = encoder.encode_passages(collection.texts)
    parts = np.split(passages.vectors_TD, np.cumsum(passages.doclens_N)[:-1])
    for query, found in zip(queries, run, strict=True):
        (Q_LD,) = encoder.encode_queries([query])
        scores = [float((Q_LD @ X_TD.T).max(axis=1).sum()) for X_TD in parts]
        by_name = dict(zip(collection.ids, scores, strict=True))
        assert [name for name, _ in found[:3]] == sorted(by_name, key=by_name.get)[::-1][:3]
        np.testing.assert_allclose(found[0][1], max(scores), rtol=1e-2)
    assert exact.bytes_per_passage == 2 * DIM * passages.doclens_N.mean()
    packed = index_system("2 bits", collection, encoded, 2, tmp_path / "index")
    ours, _ = timed_run(packed, queries)
    shared = [
        len({name for name, _ in one[:5]} & {name for name, _ in other[:5]})
        for one, other in zip(run, ours, strict=True)
    ]
    assert np.mean(shared) > 3


def test_a_bi_encoder_has_one_vector_a_passage(material):
    folder, collection, _ = material
    pooled = BiEncoder(folder / "model")
    vectors_NH = pooled.passages(collection.texts)
    np.testing.assert_allclose(np.linalg.norm(vectors_NH, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([pooled.passages([text]) for text in collection.texts[:8]])
    np.testing.assert_allclose(alone, vectors_NH[:8], atol=1e-5)
    system = bi_encoder_system(collection, str(folder / "model"))
    assert system.bytes_per_passage == 4 * HIDDEN
    assert system.search(collection.texts[7])[0][0] == "p7"


def test_a_cross_encoder_reorders_what_was_found(material):
    folder, collection, queries = material
    teacher = CrossEncoder.load(folder / "teacher", torch.device("cpu"))
    bm25 = bm25_system(collection, None)
    again = reranked_system(bm25, teacher, collection)
    before, after = bm25.search(queries[0]), again.search(queries[0])
    assert {name for name, _ in before} == {name for name, _ in after}
    scores = [score for _, score in after]
    assert scores == sorted(scores, reverse=True)
    text_of = dict(zip(collection.ids, collection.texts, strict=True))
    (asked,) = teacher.score([(queries[0], text_of[after[0][0]])])
    assert scores[0] == pytest.approx(float(asked), abs=1e-5)


def test_the_table_and_the_plot(tmp_path, material, capsys):
    folder, _, _ = material
    what = Comparison(
        data=folder / "beir",
        split="dev",
        model=str(folder / "student"),
        before=str(folder / "model"),
        bi_encoder=str(folder / "model"),
        teacher=str(folder / "teacher"),  # none of these has a language: each reads all alike
        stemmer=None,
        language="de",
        limit=5,
    )
    compare_command(what, plot=tmp_path / "plot.png", as_json=True)
    rows = {row["system"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [
        "BM25",
        f"bi-encoder, {folder / 'model'}",
        "before, uncompressed",
        "trained, uncompressed",
        "trained, 2 bits",
        "trained, 1 bit",
        "cross-encoder over BM25",
        "cross-encoder over trained, 2 bits",
    ]
    assert rows["BM25"]["measures"]["mrr@10"] > 0.3
    sizes = [rows[f"trained, {one}"]["bytes_per_passage"] for one in ("2 bits", "1 bit")]
    assert sizes[0] > sizes[1]
    assert all(row["latency_ms"] > 0 for row in rows.values())
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    compare_command(what, plot=None, as_json=False)
    assert "bytes a passage" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="no such folder"):
        compare_command(what, plot=tmp_path / "none" / "plot.png", as_json=True)


def test_a_teacher_that_is_none_is_refused_before_the_work(material):
    folder, _, _ = material
    what = Comparison(
        data=folder / "beir",
        split="dev",
        model="nothing at all",
        before=None,
        bi_encoder="nothing at all",
        teacher=str(folder / "model"),
        stemmer=None,
        language=None,
        limit=None,
    )
    with pytest.raises(ModelError, match="no classification head"):
        compare_command(what, plot=None, as_json=True)


@pytest.mark.parametrize("wrong", ["model", "before", "bi_encoder"])
def test_a_model_that_is_none_is_refused_before_the_work(material, monkeypatch, wrong):
    folder, _, _ = material
    monkeypatch.setattr(cli_train_compare, "bm25_system", None)  # the first thing that is measured
    models = dict.fromkeys(("model", "before", "bi_encoder"), str(folder / "model"))
    what = Comparison(
        data=folder / "beir",
        split="dev",
        **{**models, wrong: "nothing at all"},
        teacher=None,
        stemmer=None,
        language=None,
        limit=None,
    )
    with pytest.raises(ModelError, match="no model 'nothing at all'"):
        compare_command(what, plot=None, as_json=True)


def test_models_with_adapters_read_in_the_language_that_is_asked_for(tmp_path, material):
    _, collection, queries = material
    folder = xmod(tmp_path / "xmod")
    vectors = {}
    for language in ("en", "de"):
        encoded = encode(collection, str(folder), tmp_path / language, language)
        assert encoded.encoder.identity.language.startswith(language)
        vectors[language] = BiEncoder(folder, language).queries(queries)
    assert not np.allclose(vectors["en"], vectors["de"], atol=1e-3)
    assert timed_run(bi_encoder_system(collection, str(folder), "de"), queries)[0]
    for load in (BiEncoder, lambda model: bi_encoder_system(collection, str(model))):
        with pytest.raises(InvalidInput, match="say which with --language"):
            load(folder)
