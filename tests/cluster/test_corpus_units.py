"""The read stage: units hold the corpus, duplicates are named with both places, memory is flat."""

from __future__ import annotations

import re
import subprocess
import sys

import orjson
import pytest

from cluster.corpus_units import stage_corpus
from cluster.plan import UnitBudget
from cluster.progress import SilentProgress
from colbert_core.errors import CorpusError
from workers.units import Staging


@pytest.fixture
def staging(tmp_path):
    staging = Staging(tmp_path / "staging")
    staging.create()
    return staging


def write(path, records):
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    return path


def stage(files, staging, passages=3, text_bytes=10**6):
    return stage_corpus(files, staging, UnitBudget(passages, text_bytes), SilentProgress())


def test_units_hold_the_corpus_in_order_with_places(tmp_path, staging):
    a = write(tmp_path / "a.jsonl", [{"_id": f"a{i}", "text": f"t{i}", "n": i} for i in range(5)])
    b = write(tmp_path / "b.jsonl", [{"_id": f"b{i}", "title": "T", "text": ""} for i in range(2)])
    c = write(tmp_path / "c.jsonl", [{"_id": "c", "text": "  "}])
    corpus = stage([a, b, c], staging)
    assert [unit.passages for unit in corpus.units] == [3, 3, 2]
    assert [unit.first for unit in corpus.units] == [0, 3, 6]
    assert (corpus.units[1].first_id, corpus.units[1].last_id) == ("a3", "b0")
    assert (corpus.passages, corpus.empty, corpus.text_bytes) == (8, 1, 12)
    passages = staging.passages(1)
    assert passages.ids == ["a3", "a4", "b0"]
    assert passages.texts == ["t3", "t4", "T"]
    assert [orjson.loads(m) for m in passages.metadata] == [{"n": 3}, {"n": 4}, {"title": "T"}]
    row = staging.row(1, 2)
    assert (row.file, row.line) == (1, 1)


def test_a_unit_is_closed_by_bytes_too(tmp_path, staging):
    path = write(tmp_path / "a.jsonl", [{"_id": str(i), "text": "x" * 40} for i in range(9)])
    corpus = stage([path], staging, passages=100, text_bytes=100)
    assert [unit.passages for unit in corpus.units] == [3, 3, 3]


def test_a_duplicate_id_is_named_with_both_places(tmp_path, staging):
    a = write(tmp_path / "a.jsonl", [{"_id": str(i), "text": "t"} for i in range(10)])
    b = write(tmp_path / "b.jsonl", [{"_id": "x", "text": "t"}, {"_id": "7", "text": "t"}])
    expected = f"the id '7' is given twice: at {a}:8 and at {b}:2; "
    with pytest.raises(CorpusError, match=re.escape(expected)):
        stage([a, b], staging)


def test_a_number_and_a_string_may_not_share_an_id(tmp_path, staging):
    path = write(tmp_path / "a.jsonl", [{"_id": 7, "text": "t"}, {"_id": "7", "text": "t"}])
    with pytest.raises(CorpusError, match=r"the id '7' is given twice: at .*:1 and at .*:2"):
        stage([path], staging)


def test_a_file_given_twice_says_how_many(tmp_path, staging):
    path = write(tmp_path / "a.jsonl", [{"_id": str(i), "text": "t"} for i in range(10)])
    with pytest.raises(CorpusError, match=r"the id '0'.*\(10 ids are repeated in all\)"):
        stage([path, path], staging)


def test_an_empty_corpus(tmp_path, staging):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n")
    with pytest.raises(CorpusError, match=r"corpus is empty: .*a\.jsonl hold no passage"):
        stage([path], staging)


PEAK = """
import sys, tracemalloc
from pathlib import Path
from cluster.corpus_units import stage_corpus
from cluster.plan import UnitBudget
from cluster.progress import SilentProgress
from workers.units import Staging

staging = Staging(sys.argv[2])
staging.create()
tracemalloc.start()
stage_corpus([Path(sys.argv[1])], staging, UnitBudget(500, 10**6), SilentProgress())
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Ten times the passages; what is held at most stays within the buffers' size. In a process of
    its own: threads that other tests left behind allocate too."""
    peaks = []
    for count in (3_000, 30_000):
        records = ({"_id": str(i), "text": "word " * 60} for i in range(count))
        path = write(tmp_path / f"{count}.jsonl", records)
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / str(count))]
        run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        peaks.append(int(run.stdout))
    text_bytes = 27_000 * 300
    assert peaks[1] - peaks[0] < text_bytes / 5
