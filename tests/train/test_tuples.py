"""Tuple files: both formats come back as they were written, and bad ones are refused by line."""

import json
import math
import subprocess
import sys

import pytest

from colbert_core.errors import InvalidInput, TrainingDataError
from colbert_core.text.corpus_records import Place
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.records import Record, as_json, record_from_json
from colbert_core.train.tuples import TupleWriter, read_records

PLACE = Place("tuples.jsonl", 3)
PASSAGES = {f"p{number}": f"passage number {number}" for number in range(6)}
QUERIES = {"q0": "what is nought", "q1": "what is one"}


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def texts(tmp_path):
    corpus = write_lines(
        tmp_path / "corpus.jsonl", [{"_id": i, "text": t} for i, t in PASSAGES.items()]
    )
    queries = tmp_path / "queries.tsv"
    queries.write_text("".join(f"{i}\t{t}\n" for i, t in QUERIES.items()))
    return {"corpus": str(corpus), "queries": str(queries)}


@pytest.mark.parametrize(
    "value",
    [
        ["q0", ["p1", 2.5], ["p2", -1.0]],
        ["q0", "p1", "p2", "p3"],
        {"query": "what", "documents": ["one", "two"], "scores": [1.0, 0.5]},
        {"query": "what", "documents": ["one", "two"]},
    ],
)
def test_a_record_is_written_as_it_was_read(value):
    assert as_json(record_from_json(value, PLACE)) == value


def test_numbers_are_ids_as_colbert_writes_them():
    record = record_from_json([7, [12, 1.0], [3, 0.0]], PLACE)
    assert record == Record("7", ("12", "3"), (1.0, 0.0), inline=False)


def test_pylates_ids():
    value = {"query_id": 7, "document_ids": [1, 2], "scores": [3, 4]}
    assert record_from_json(value, PLACE) == Record("7", ("1", "2"), (3.0, 4.0), inline=False)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text", "no training tuple"),
        ({"question": "x"}, "no training tuple"),
        ([], "no id"),
        (["q0", "p1"], "1 passages"),
        (["q0", ["p1", 1.0], "p2"], "or none"),
        (["q0", ["p1", 1.0], ["p2", "high"]], "no score"),
        (["q0", "p1", "p1"], "'p1' twice"),
        (["q0", True, "p1"], "True is no id"),
        ({"query": "x", "documents": ["a", "b"], "scores": [1.0]}, "1 scores for 2"),
        ({"query": "x", "documents": "a"}, "are lists"),
        ({"query": " ", "documents": ["a", "b"]}, "no text"),
    ],
)
def test_what_is_no_tuple_is_named_by_its_line(value, says):
    with pytest.raises(TrainingDataError, match=r"tuples\.jsonl:3: ") as error:
        record_from_json(value, PLACE)
    assert says in str(error.value)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "tuples.jsonl"
    record = Record("q", ("a", "b"), (1.0, 2.0), inline=False)
    with pytest.raises(ZeroDivisionError), TupleWriter(path) as writer:  # noqa: PT012
        writer.write(record)
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with TupleWriter(path) as writer:
        writer.write(record)
    assert [one for one, _ in read_records(path)] == [record]


def test_prepared_tuples_hold_texts_and_scores(tmp_path, texts):
    lines = [["q0", ["p1", 2], ["p4", 1]], ["q1", ["p0", 0.25], ["p1", 0.5]]]
    path = write_lines(tmp_path / "tuples.jsonl", lines)
    made = prepare_tuples(tmp_path / "made", [path], **texts)
    assert (len(made), made.n_way, made.scored, made.inline) == (2, 2, True, False)
    example = made.example(1)
    assert example.query == QUERIES["q1"]
    assert example.passages == (PASSAGES["p0"], PASSAGES["p1"])
    assert example.scores_W.tolist() == [0.25, 0.5]
    assert as_json(made.record(0)) == [
        "q0",
        ["p1", 2.0],
        ["p4", 1.0],
    ]


def test_texts_in_the_tuples_need_no_corpus(tmp_path):
    lines = [
        {"query": "ä", "documents": ["b", "", "c"][::2]},
        {"query": "d", "documents": ["e", "f"]},
    ]
    path = write_lines(tmp_path / "tuples.jsonl", lines)
    made = prepare_tuples(tmp_path / "made", [path])
    assert made.example(0).passages == ("b", "c")
    assert made.example(1).scores_W is None
    assert [as_json(made.record(at)) for at in range(2)] == lines


def test_n_way_takes_the_first(tmp_path, texts):
    path = write_lines(tmp_path / "t.jsonl", [["q0", "p0", "p1", "p2"], ["q1", "p3", "p4"]])
    made = prepare_tuples(tmp_path / "made", [path], n_way=2, **texts)
    assert as_json(made.record(0)) == ["q0", "p0", "p1"]
    with pytest.raises(InvalidInput, match="n-way 1"):
        prepare_tuples(tmp_path / "other", [path], n_way=1, **texts)


GOOD = ["q0", ["p0", 1.0], ["p1", 0.0]]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (["q0", ["p0", 1.0], ["p9", 0.0]], "passage 'p9' is not in --corpus"),
        (["q9", ["p0", 1.0], ["p1", 0.0]], "query 'q9' is not in --queries"),
        (["q0", ["p0", math.nan], ["p1", 0.0]], "the score nan"),
        (["q0", ["p0", None], ["p1", 0.0]], "the score nan"),
        (["q0", ["p0", math.inf], ["p1", 0.0]], "the score inf"),
        (["q0", ["p0", 0.5], ["p1", 0.5]], "all 2 passages the score 0.5"),
        (["q0", "p0", "p1"], "has none, and others have"),
        (["q0", ["p0", 1.0], ["p1", 0.0], ["p2", 0.0]], None),
        (["q1", ["p0", 1.0]], "1 passages"),
        ({"query": "x", "documents": ["a", "b"], "scores": [1, 2]}, "are mixed"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_any_work(tmp_path, texts, bad, says):
    path = write_lines(tmp_path / "tuples.jsonl", [GOOD, bad])
    if says is None:  # longer tuples than the first are cut
        assert len(prepare_tuples(tmp_path / "made", [path], **texts)) == 2
        return
    with pytest.raises(TrainingDataError) as error:
        prepare_tuples(tmp_path / "made", [path], **texts)
    assert f"{path}:2: " in str(error.value)
    assert says in str(error.value)
    assert not (tmp_path / "made" / "about.json").exists()


def test_shorter_tuples_than_the_first_are_refused(tmp_path, texts):
    path = write_lines(tmp_path / "t.jsonl", [["q0", "p0", "p1", "p2"], ["q1", "p3", "p4"]])
    with pytest.raises(TrainingDataError, match=r"t\.jsonl:2: query 'q1' has 2 passages where 3"):
        prepare_tuples(tmp_path / "made", [path], **texts)


def test_ids_without_texts_broken_lines_and_duplicates(tmp_path, texts):
    path = write_lines(tmp_path / "t.jsonl", [GOOD])
    with pytest.raises(TrainingDataError, match="give --corpus"):
        prepare_tuples(tmp_path / "made", [path], queries=texts["queries"])
    path.write_text('["q0", "p0"\n')
    with pytest.raises(TrainingDataError, match=r"t\.jsonl:1: broken JSON"):
        prepare_tuples(tmp_path / "made", [path], **texts)
    path.write_text("\n")
    with pytest.raises(TrainingDataError, match="no tuple in it"):
        prepare_tuples(tmp_path / "made", [path], **texts)
    with pytest.raises(TrainingDataError, match="cannot be read"):
        prepare_tuples(tmp_path / "made", [tmp_path / "none.jsonl"], **texts)
    twice = write_lines(tmp_path / "twice.jsonl", [{"_id": "p0", "text": "x"}] * 2)
    write_lines(path, [GOOD])
    with pytest.raises(TrainingDataError, match="'p0' stands for two texts"):
        prepare_tuples(tmp_path / "made", [path], corpus=twice, queries=texts["queries"])


def test_the_same_is_not_prepared_twice_and_a_change_is_seen(tmp_path, texts):
    path = write_lines(tmp_path / "tuples.jsonl", [GOOD])
    first = prepare_tuples(tmp_path / "made", [path], **texts)
    written = (tmp_path / "made" / "about.json").stat().st_mtime_ns
    again = prepare_tuples(tmp_path / "made", [path], **texts)
    assert again.sha256 == first.sha256
    assert (tmp_path / "made" / "about.json").stat().st_mtime_ns == written
    write_lines(path, [GOOD, ["q1", ["p0", 1.0], ["p1", 3.0]]])
    changed = prepare_tuples(tmp_path / "made", [path], **texts)
    assert (len(changed), changed.sha256 == first.sha256) == (2, False)


def test_memory_does_not_grow_with_the_data(tmp_path):
    """90 MB of texts are prepared and read in a process that may not map as much anonymously."""
    path = tmp_path / "tuples.jsonl"
    with path.open("w") as file:
        for number in range(3000):
            texts = [f"{number} {side} " + "word " * 2000 for side in range(3)]
            file.write(json.dumps({"query": f"query {number}", "documents": texts}) + "\n")
    assert path.stat().st_size > 85e6
    code = (
        "import sys, resource; from pathlib import Path\n"
        "from colbert_core.train.preparing import prepare_tuples\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "made = prepare_tuples(Path(sys.argv[2]), [sys.argv[1]])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert made.example(2999).passages[2].startswith('2999 2 word')\n"
        "print(after - before)"
    )
    grown_kib = int(
        subprocess.run(
            [sys.executable, "-c", code, str(path), str(tmp_path / "made")],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    )
    assert grown_kib < 40_000
