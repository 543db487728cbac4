"""A model with language adapters: trained in English, indexed and searched in German, on xquad."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster import add_job
from cluster.beir import Judged, read_judged
from cluster.cli import main
from cluster.index_job import build_index
from colbert_core import Index
from colbert_core.errors import InvalidInput, QueryError
from colbert_core.text.corpus import read_corpus
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.step import Objective
from colbert_core.train.trainer import StudentLearner, Trainer, TrainSettings

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
LANGUAGES = ("en_XX", "de_DE", "ru_RU")
QUESTIONS = 60


@pytest.fixture(scope="module")
def xquad() -> Path:
    folder = SHARED_DATA / "xquad"
    if not folder.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    return folder


@pytest.fixture(scope="module")
def trained(xquad: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random X-MOD, whose word pieces are those of the three languages, trained for a few
    steps on English questions of the paragraphs 120 and after: those before are searched."""
    folder = tmp_path_factory.mktemp("xmod")
    write_model(folder / "model", texts(xquad))
    judged = read_judged(xquad / "en", "test")
    passages = {one.id: one.text for one in passages_of(xquad / "en")}
    with (folder / "tuples.jsonl").open("w") as file:
        for query, text in zip(judged.ids, judged.texts, strict=True):
            (positive,) = judged.qrels[query]
            if int(positive[1:]) >= 120:
                other = f"p{120 + (int(positive[1:]) + 7) % 120}"
                documents = [passages[positive], passages[other]]
                file.write(json.dumps({"query": text, "documents": documents}) + "\n")
    tuples = prepare_tuples(folder / "tuples", [folder / "tuples.jsonl"])
    settings = StudentSettings(dim=32, markers=False, augment=False, doc_maxlen=64, language="en")
    start_student(folder / "model", folder / "start", settings)
    run = TrainSettings(steps=5, batch=8, rate=1e-4, objective=Objective(loss="v1"))
    trainer = Trainer(StudentLearner(folder / "start", run, torch.device("cpu")), tuples, run)
    for _ in range(run.steps):
        trainer.step()
    trainer.learner.save(folder / "trained")
    return folder / "trained"


def write_model(folder: Path, words: Iterator[str]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import BertTokenizerFast, XmodConfig, XmodModel

    maker = BertWordPieceTokenizer(lowercase=True)
    maker.train_from_iterator(words, vocab_size=6000, show_progress=False)
    tokenizer = Tokenizer.from_str(maker.to_str())
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = XmodConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=300,
        pad_token_id=0,
        languages=LANGUAGES,
    )
    model = XmodModel(config)
    # So that a token's vector says which word it is, which in random models it hardly does.
    model.embeddings.word_embeddings.weight.data *= 10
    model.save_pretrained(folder)


def passages_of(folder: Path) -> list:
    return [document.passage for document in read_corpus(folder / "corpus.jsonl")]


def texts(xquad: Path) -> Iterator[str]:
    for language in ("en", "de", "ru"):
        yield from (passage.text for passage in passages_of(xquad / language))


def recall_at_10(index: Index, judged: Judged, **options: object) -> float:
    found = index.search_many(list(judged.texts), k=10, exact=True, **options)
    pairs = zip(judged.ids, found, strict=True)
    return sum(bool(set(judged.qrels[query]) & set(hits.ids)) for query, hits in pairs) / len(found)


@pytest.mark.usefixtures("ray_cluster")
def test_trained_in_english_it_is_searched_in_german(
    xquad: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """240 paragraphs: by chance, one of 24 questions has its own among ten."""
    judged = read_judged(xquad / "de", "test", QUESTIONS)
    assert all(int(p[1:]) < 120 for query in judged.ids for p in judged.qrels[query])
    with pytest.raises(InvalidInput, match="give one of en_XX, de_DE, ru_RU"):
        build_index(xquad / "de", tmp_path / "index", model=trained, language="fr")
    build_index(xquad / "de", tmp_path / "index", model=trained, language="de", workers=1)
    index = Index.open(tmp_path / "index")
    assert add_job._settings(index.generation, None).language == "de_DE"
    assert index.encoder.identity.language == "de_DE"
    assert len(index) == 240
    assert recall_at_10(index, judged) > 0.5
    (query,) = judged.texts[:1]
    german, russian = (
        index.search(query, k=3, exact=True, language=one).scores[0] for one in ("de", "ru_RU")
    )
    assert index.search(query, k=3, exact=True).scores[0] == german
    assert russian != german
    with pytest.raises(QueryError, match="the query is a matrix"):
        index.search(index.encode_query(query), language="de")

    def tartan(*arguments: str) -> str:
        sys.argv = ["tartan", *arguments]
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return printed.out if end.value.code == 0 else printed.err

    assert json.loads(tartan("index", "inspect", str(index.generation.path), "--json"))[
        "language"
    ] == ("de_DE")
    asked = ("search", query, "--index", str(index.generation.path), "--exact", "--json")
    hits = json.loads(tartan(*asked, "--language", "ru"))["hits"]
    assert hits[0]["score"] == pytest.approx(float(russian))
    assert "has no adapters of that name" in tartan(*asked, "--language", "fr")
