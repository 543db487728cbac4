"""Hard negatives: which passages may be drawn, and the same ones for a seed."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_checkpoints import plain

from cluster.progress import SilentProgress
from cluster.train_mining import mine
from colbert_core.errors import InvalidInput, TrainingDataError
from colbert_core.train.cross_encoder import CrossEncoder, start_teacher
from colbert_core.train.mining import Bm25, MiningSettings, candidates, draw, without_false
from colbert_core.train.tuples import read_records

NAMES = [f"p{at}" for at in range(12)]
TEXTS = {
    "b1": "merging sorted lists",
    "b2": "lists of lists, nested",
    "b3": "the history of cheese",
    "b4": "a merge of companies",
    "b5": "sorting a list in place",
    "b6": "merge sort merges sorted lists",
}


@settings(max_examples=80)
@given(
    st.lists(st.permutations(NAMES), min_size=1, max_size=3),
    st.sets(st.sampled_from(NAMES), max_size=4),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_negatives_come_from_the_window_and_are_no_positives(
    rankings, positives, first, width, n_way, number
):
    chosen = MiningSettings(n_way=n_way, first=first, last=first + width)
    found = candidates(rankings, positives, chosen)
    window = {one for ranking in rankings for one in ranking[first - 1 : first + width]}
    assert set(found) == window - positives
    assert len(found) == len(set(found))
    drawn = draw(found, chosen, number)
    if len(found) < n_way - 1:
        assert drawn is None
        return
    assert len(set(drawn)) == n_way - 1
    assert drawn == [one for one in found if one in drawn]
    assert drawn == draw(found, chosen, number)


def test_draws_differ_by_tuple_and_seed():
    found = [str(at) for at in range(100)]
    draws = [draw(found, MiningSettings(seed=seed), number) for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(one) for one in draws}) == 4


def test_the_teacher_s_margin_drops_what_may_be_relevant():
    scores = np.float32([2.0, 4.5, 5.0, 7.0])
    assert without_false(["a", "b", "c", "d"], 6.0, scores, 1.0) == ["a", "b", "c"]
    assert without_false(["a", "b", "c", "d"], 6.0, scores, 2.0) == ["a"]


def test_bm25_stems_and_leaves_out_what_shares_no_word():
    search = Bm25(list(TEXTS.values()), list(TEXTS), "english").search
    found, nothing, unknown = search(["merges of sorted lists", "the of", "zebra"], 10)
    assert found[0] == "b6"
    assert set(found) == {"b1", "b2", "b4", "b5", "b6"}
    assert nothing == unknown == []
    assert len(search(["merge"], 1)[0]) == 1
    exact = Bm25(list(TEXTS.values()), list(TEXTS), None).search
    assert set(exact(["merge"], 10)[0]) == {"b4", "b6"}
    with pytest.raises(InvalidInput, match="language 'klingon'"):
        Bm25(["x"], ["y"], "klingon")


@pytest.fixture
def material(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in TEXTS.items())
    )
    (tmp_path / "queries.tsv").write_text("q1\tmerge sorted lists\nq2\tcheese\n")
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\tb6\t1\nq1\tb1\t2\nq1\tb3\t0\nq2\tb3\t1\n"
    )
    return tmp_path


def mined(material, **changes):
    values = {
        "corpus": str(material / "corpus.jsonl"),
        "queries": str(material / "queries.tsv"),
        "index": None,
        "bm25": True,
        "language": "english",
        "teacher": None,
        "settings": MiningSettings(n_way=3, last=6),
        "progress": SilentProgress(),
    }
    report = mine(material / "qrels.tsv", material / "mined.jsonl", **(values | changes))
    return report, [record for record, _ in read_records(material / "mined.jsonl")]


def test_bm25_s_negatives_of_each_pair(material):
    report, records = mined(material)
    assert (report.tuples, report.left_out) == (2, 1)  # only b3 knows cheese
    assert [(one.query, one.passages[0]) for one in records] == [("q1", "b6"), ("q1", "b1")]
    for record in records:
        assert record.scores is None
        assert set(record.passages[1:]) < {"b2", "b4", "b5"}
    assert mined(material)[1] == records


def test_a_teacher_s_false_negatives_are_left_out(material):
    start_teacher(plain(material / "model"), material / "teacher", seed=0)
    teacher = CrossEncoder.load(material / "teacher", torch.device("cpu"))
    query, others = "merge sorted lists", ("b2", "b4", "b5")
    scores = dict(zip(others, teacher.score([(query, TEXTS[one]) for one in others]), strict=True))
    (positive,) = teacher.score([(query, TEXTS["b6"])])
    worst = max(scores, key=scores.get)
    margin = float(positive - scores[worst]) + 1e-4  # just not reached by the best of them
    changes = {"n_way": 3, "last": 6, "margin": margin}
    _, records = mined(
        material, teacher=str(material / "teacher"), settings=MiningSettings(**changes)
    )
    (first,) = [record for record in records if record.passages[0] == "b6"]
    assert set(first.passages[1:]) == set(others) - {worst}


def test_bad_input(material):
    for bad, says in (
        ({"bm25": False}, "no source of negatives"),
        ({"settings": MiningSettings(n_way=1)}, "n-way 1"),
        ({"settings": MiningSettings(first=5, last=2)}, "ranks 5:2"),
        ({"settings": MiningSettings(n_way=16, first=1, last=4)}, "widen --ranks"),
        ({"settings": MiningSettings(n_way=2, margin=1.0)}, "belong together"),
        ({"settings": MiningSettings(n_way=2, first=80, last=99)}, "no pair has 1 negatives"),
    ):
        with pytest.raises(InvalidInput, match=says):
            mined(material, **bad)
    (material / "queries.tsv").write_text("q1\tmerge sorted lists\n")
    with pytest.raises(TrainingDataError, match="query 'q2' is not in --queries"):
        mined(material)
    (material / "qrels.tsv").write_text("q1\tb9\t1\n")
    with pytest.raises(TrainingDataError, match="passage 'b9' of query 'q1' is not in --corpus"):
        mined(material)
    (material / "qrels.tsv").write_text("q1\tb1\t0\n")
    with pytest.raises(TrainingDataError, match="judges nothing relevant"):
        mined(material)
