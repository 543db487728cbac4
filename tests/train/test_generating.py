"""Queries by a language model, here and over HTTP: the same for a seed, gone on with, filtered."""

import json

import pytest
from text_checkpoints import WORDS, plain
from writing import KEY, causal, serving

from cluster.progress import SilentProgress
from cluster.train_generating import GenerateSettings, consistent, generate
from cluster.train_mining import mine
from colbert_core.errors import (
    IndexExists,
    InvalidInput,
    ModelError,
    NotAuthenticated,
    Overloaded,
    TrainingDataError,
    Unavailable,
)
from colbert_core.train import endpoint
from colbert_core.train.endpoint import KEY_VARIABLE, EndpointWriter
from colbert_core.train.mining import MiningSettings
from colbert_core.train.templates import Example, find_templates
from colbert_core.train.tuples import read_records
from colbert_core.train.writers import LocalWriter, Sampling

CORPUS = {f"p{at}": " ".join(WORDS.split()[at : at + 6]) for at in range(10)}
FEW = [Example("hello world", "hello?")]
SHORT = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def writer(model):
    return LocalWriter.load(model, SHORT, batch=4)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [*CORPUS.items(), ("empty", " ")]
    path.write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in rows))
    return path


@pytest.fixture
def service(model, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.0)
    with serving(model) as running:
        yield running


def generated(corpus, out, writer, *templates, **changes):
    return generate(
        str(corpus),
        out,
        writer=writer,
        templates=find_templates(templates or ("question", "claim"), FEW),
        settings=GenerateSettings(**({"top": 10} | changes)),
        progress=SilentProgress(),
    )


def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_set_for_each_template_that_mine_takes(corpus, tmp_path, writer):
    sets = generated(corpus, tmp_path / "out", writer)
    assert [one.name for one in sets] == ["question", "claim"]
    for one in sets:
        queries = [json.loads(line) for line in one.queries.read_text().splitlines()]
        assert (one.written, one.kept) == (10, len(queries))
        judged = [line.split("\t") for line in one.qrels.read_text().splitlines()[1:]]
        assert [row[0] for row in judged] == [query["_id"] for query in queries]
        assert all(row[0] == f"{one.name}-{row[1]}" and row[1] in CORPUS for row in judged)
    report = mine(
        sets[0].qrels,
        tmp_path / "mined.jsonl",
        corpus=str(corpus),
        queries=str(sets[0].queries),
        index=None,
        bm25=True,
        language=None,
        teacher=None,
        settings=MiningSettings(n_way=2, last=10),
        progress=SilentProgress(),
    )
    assert report.tuples + report.left_out == sets[0].kept
    records = [record for record, _ in read_records(tmp_path / "mined.jsonl")]
    assert records
    assert all(one.query == f"question-{one.passages[0]}" for one in records)


def test_a_filter_that_leaves_nothing_may_be_given_anew(corpus, tmp_path, writer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cluster.train_generating.consistent", lambda pairs, ranks, top: [])
        with pytest.raises(TrainingDataError, match="10 are queries, and none finds its passage"):
            generated(corpus, tmp_path / "out", writer, "question", top=1)

    class Silent:
        identity = writer.identity
        check = writer.check

        def write(self, prompts, seed):
            raise AssertionError("what was answered is asked again")

    assert generated(corpus, tmp_path / "out", Silent(), "question", top=5)[0].kept


def test_the_same_for_a_seed_also_where_it_was_stopped(corpus, tmp_path, model, monkeypatch):
    monkeypatch.setattr("cluster.train_generating.UNIT", 3)
    whole, stopped = LocalWriter.load(model, SHORT, 2), LocalWriter.load(model, SHORT, 2)
    generated(corpus, tmp_path / "whole", whole)
    calls = []

    class Stops:
        identity = stopped.identity
        check = stopped.check

        def write(self, prompts, seed):
            calls.append(len(prompts))
            if len(calls) == 6:
                raise Unavailable("it went away")
            return stopped.write(prompts, seed)

    with pytest.raises(Unavailable):
        generated(corpus, tmp_path / "stopped", Stops())
    assert len(list((tmp_path / "stopped" / "answers").glob("*.json"))) == 5
    generated(corpus, tmp_path / "stopped", Stops())
    assert sum(calls) == 20 + 3  # what had been answered was not asked again
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")
    generated(corpus, tmp_path / "stopped", Stops())
    assert sum(calls) == 20 + 3  # and nothing is, where all is done
    generated(corpus, tmp_path / "other", whole, seed=1)
    assert files(tmp_path / "whole") != files(tmp_path / "other")


def test_other_settings_are_refused_and_named(corpus, tmp_path, writer):
    out = tmp_path / "out"
    generated(corpus, out, writer, "question")
    before = files(out)
    for changes, says in (
        ({"seed": 3}, "seed was 0, now 3"),
        ({"index": "i"}, "index was not given, now i"),
        ({"top": 9}, "top was 10, now 9"),
        ({"passages": 4}, "passages was 10, now 4"),
    ):
        with pytest.raises(IndexExists, match=says):
            generated(corpus, out, writer, "question", **changes)
    with pytest.raises(IndexExists, match="templates was"):
        generated(corpus, out, writer, "claim")
    lines = corpus.read_text()
    corpus.write_text(lines.replace("hello", "bye"))
    with pytest.raises(IndexExists, match="corpus was 11 passages, sha256"):
        generated(corpus, out, writer, "question")
    corpus.write_text(lines)
    assert files(out) == before
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    with pytest.raises(IndexExists, match="not empty"):
        generated(corpus, tmp_path / "taken", writer)


def test_a_query_is_kept_where_its_passage_is_found():
    def first(queries, depth):
        return [[query.upper(), "X", "Y"][:depth] for query in queries]

    def never(queries, depth):
        return [[] for _ in queries]

    pairs = [("a", "A"), ("b", "X"), ("c", "Z")]
    assert consistent(pairs, [first], 1) == [("a", "A")]
    assert consistent(pairs, [never, first], 2) == [("a", "A"), ("b", "X")]
    assert consistent(pairs, [never], 5) == []
    assert consistent(pairs, [], 0) == pairs


def test_an_index_of_ours_filters_too(corpus, tmp_path, writer, monkeypatch):
    from cluster import train_ranking
    from colbert_core import Index
    from colbert_core.text import Encoder

    encoder = Encoder.load(plain(tmp_path / "encoder"), precision="float32")
    encoded = encoder.encode_passages(list(CORPUS.values()))
    index = Index.build(
        tmp_path / "index", encoded.vectors_TD, list(CORPUS), doclens=encoded.doclens_N
    )
    # The index was built from vectors; what it says of its model is the encoder that gave them.
    index.__dict__["encoder"] = encoder
    monkeypatch.setattr(train_ranking.Index, "open", lambda path: index)
    settings = {"index": str(tmp_path / "index"), "bm25": False}
    (narrow,) = generated(corpus, tmp_path / "narrow", writer, "question", top=3, **settings)
    (all_of_them,) = generated(corpus, tmp_path / "all", writer, "question", top=10, **settings)
    kept = set(narrow.queries.read_text().splitlines())
    every = set(all_of_them.queries.read_text().splitlines())
    assert kept < every
    for row in map(json.loads, every):
        best = {f"question-{one}" for one in index.search(row["text"], k=3).ids}
        assert (json.dumps(row, ensure_ascii=False) in kept) == (row["_id"] in best)


def test_bad_input_is_refused_before_any_word_is_written(corpus, tmp_path, writer):
    for changes, says in (
        ({"passages": -1}, "passages -1"),
        ({"bm25": False}, "no filter"),
        ({"language": "klingon"}, "language 'klingon'"),
    ):
        with pytest.raises(InvalidInput, match=says):
            generated(corpus, tmp_path / "out", writer, **changes)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="taken twice"):
        generated(corpus, tmp_path / "out", writer, "claim", "claim")
    corpus.write_text('{"_id": "a", "text": " "}\n')
    with pytest.raises(TrainingDataError, match="no passage with words"):
        generated(corpus, tmp_path / "out", writer)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_write_is_refused(corpus, tmp_path, model):
    with pytest.raises(ModelError, match="causal language model"):
        LocalWriter.load(plain(tmp_path / "encoder"), SHORT, 1)
    with pytest.raises(InvalidInput, match="the model reads 600"):
        generated(corpus, tmp_path / "out", LocalWriter.load(model, Sampling(max_tokens=590), 1))
    for sampling, says in (
        (Sampling(temperature=-1), "temperature -1"),
        (Sampling(max_tokens=0), "max-tokens 0"),
    ):
        with pytest.raises(InvalidInput, match=says):
            LocalWriter.load(model, sampling, 1)
    for batch in (0, 33):
        with pytest.raises(InvalidInput, match=f"batch {batch}: give 1 to 32"):
            LocalWriter.load(model, SHORT, batch)


def test_nothing_is_written_behind_the_first_line(tmp_path):
    folder = causal(tmp_path)
    tokenizer = folder / "tokenizer.json"
    told = json.loads(tokenizer.read_text())
    vocabulary = told["model"]["vocab"]
    vocabulary["\n"] = vocabulary.pop("world")
    tokenizer.write_text(json.dumps(told))
    writer = LocalWriter.load(folder, Sampling(temperature=1.0, max_tokens=400), batch=2)
    answers = writer.write(["hello", "hello the", "the", "the the hello"], seed=0)
    lines = [answer.strip().splitlines() for answer in answers]
    # A batch goes on until its last answer has a line.
    assert min(map(len, lines[:2])) == 1
    assert min(map(len, lines[2:])) == 1
    assert max(len(answer.split()) for answer in answers) < 200


def test_an_endpoint_writes_the_same_way(corpus, tmp_path, service):
    writer = EndpointWriter(service.url, "tiny", SHORT, calls=3)
    service.troubles = [
        (429, {"Retry-After": "0"}, b"slow down"),
        (503, {}, b"starting"),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
    ]
    sets = generated(corpus, tmp_path / "out", writer, "question")
    assert sets[0].kept > 0
    bodies = service.asked
    assert len(bodies) == 10  # one was answered with nothing, and one asked to see that it answers
    assert {body["model"] for body in bodies} == {"tiny"}
    assert {(body["max_tokens"], body["temperature"]) for body in bodies} == {(8, 0.7)}
    (template,) = find_templates(["question"], FEW)
    prompts = {template.prompt(text) for text in CORPUS.values()}
    assert {body["messages"][0]["content"] for body in bodies} <= prompts
    again = generated(corpus, tmp_path / "again", writer, "question")
    assert again[0].queries.read_bytes() == sets[0].queries.read_bytes()
    assert all(KEY.encode() not in data for data in files(tmp_path).values())


@pytest.mark.parametrize(
    ("trouble", "error", "says"),
    [
        ((429, {"Retry-After": "0"}, b"too many"), Overloaded, "429 each time: too many"),
        ((500, {}, f"broken {KEY}".encode()), Unavailable, r"500 each time: broken \*\*\*"),
        ((404, {}, b"no model"), InvalidInput, "refuses the request for model 'tiny' with 404"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), InvalidInput, "with 302"),
        ((200, {}, b"<html>hello"), ModelError, "no chat completion: '<html>hello'"),
        ((200, {}, b'{"choices": []}'), ModelError, "no chat completion"),
        ((200, {}, b'{"choices": [{"message": {"content": 3}}]}'), ModelError, "no chat comp"),
    ],
)
def test_what_an_endpoint_says_is_told(corpus, tmp_path, service, trouble, error, says):
    service.troubles = [trouble] * endpoint.CHECK_TRIES
    with pytest.raises(error, match=says) as raised:
        generated(corpus, tmp_path / "out", EndpointWriter(service.url, "tiny", SHORT, calls=1))
    assert KEY not in str(raised.value)
    assert not service.asked


def test_a_wrong_key_is_not_shown(corpus, tmp_path, service, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-another-secret")
    with pytest.raises(NotAuthenticated, match=f"it does not take the key in {KEY_VARIABLE}") as no:
        generated(corpus, tmp_path / "out", EndpointWriter(service.url, "tiny", SHORT, calls=1))
    assert "sk-another" not in str(no.value)
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(NotAuthenticated, match=f"there is no key in {KEY_VARIABLE}"):
        generated(corpus, tmp_path / "out", EndpointWriter(service.url, "tiny", SHORT, calls=1))


def test_where_nobody_listens(corpus, tmp_path, service):
    url = service.url
    service.shutdown()
    service.server_close()
    with pytest.raises(Unavailable, match="does not answer"):
        generated(corpus, tmp_path / "out", EndpointWriter(url, "tiny", SHORT, calls=1))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:8000", "give the base URL"),
        ("ftp://host/v1", "give the base URL"),
        ("https://user:pass@host/v1", "the key goes into"),
        ("http://example.org/v1", "sent in the clear"),
    ],
)
def test_urls_that_are_none(monkeypatch, url, says):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with pytest.raises(InvalidInput, match=says) as error:
        EndpointWriter(url, "m", SHORT, calls=1)
    assert "pass@" not in str(error.value)
