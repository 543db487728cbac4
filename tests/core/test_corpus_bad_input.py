"""What bad input gets: one clear `CorpusError` that names the file, the line and the remedy."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from colbert_core.errors import CorpusError
from colbert_core.text import corpus_formats, corpus_records
from colbert_core.text.corpus import read_corpus
from colbert_core.text.corpus_records import encode_metadata

GOOD = b'{"_id": "a", "text": "fine"}\n'

# file name, bytes, what the message must hold besides the file's name
BAD_FILES = {
    "broken JSON": ("c.jsonl", GOOD + b'{"_id": "b", "text": ', [":2:", "broken JSON", "column"]),
    "a JSON array": ("c.jsonl", b'[{"_id": "b",\n "text": "t"}]', [":1:", "JSON array"]),
    "an array line": ("c.jsonl", GOOD + b"[1]\n", [":2:", "a list", "object"]),
    "a string line": ("c.jsonl", GOOD + b'"text"\n', [":2:", "a string", "object"]),
    "invalid UTF-8": ("c.jsonl", GOOD + b'{"_id": "\xff"}\n', [":2:", "UTF-8", "byte 10"]),
    "a lone surrogate": ("c.jsonl", b'{"_id": "a", "text": "\\ud800"}', [":1:", "surrogate"]),
    "missing id": ("c.jsonl", GOOD + b'{"text": "t"}\n', [":2:", "id is missing", "`_id`"]),
    "empty id": ("c.jsonl", b'{"_id": " ", "text": "t"}\n', [":1:", "id is missing or empty"]),
    "null id": ("c.jsonl", b'{"_id": null, "text": "t"}\n', [":1:", "id is missing"]),
    "fractional id": ("c.jsonl", b'{"_id": 1.5, "text": "t"}\n', [":1:", "1.5", "quotes"]),
    "boolean id": ("c.jsonl", b'{"_id": true, "text": "t"}\n', [":1:", "a boolean"]),
    "list id": ("c.jsonl", b'{"_id": ["x"], "text": "t"}\n', [":1:", "a list"]),
    "long id": (
        "c.jsonl",
        b'{"_id": "%s", "text": "t"}' % (b"x" * 1025),
        [":1:", "1,025", "1,024"],
    ),
    "missing text": ("c.jsonl", b'{"_id": "b", "body": "t"}\n', [":1", "'b'", "`text`"]),
    "null text": ("c.jsonl", b'{"_id": "b", "text": null}\n', [":1", "'b'", "null", "string"]),
    "list text": ("c.jsonl", b'{"_id": "b", "text": ["t"]}\n', [":1", "'b'", "a list", "string"]),
    "number text": ("c.jsonl", b'{"_id": "b", "text": 3}\n', [":1", "'b'", "a number", "string"]),
    "number title": ("c.jsonl", b'{"_id": "b", "text": "", "title": 3}', [":1", "'b'", "title"]),
    "metadata twice": (
        "c.jsonl",
        b'{"_id": "b", "text": "t", "year": 1, "metadata": {"year": 2}}',
        [":1", "'b'", "`year`"],
    ),
    "too few columns": ("c.tsv", b"1\tone\nalone\n", [":2:", "1 tab-separated", "2"]),
    "too many columns": ("c.tsv", b"1\tone\ttwo\n", [":1:", "3 tab-separated", "header", "JSONL"]),
    "TSV without id": ("c.tsv", b"\ttext\n", [":1:", "id is missing"]),
    "TSV invalid UTF-8": ("c.tsv", b"1\tone\n2\t\xe4\n", [":2:", "UTF-8", "byte 3"]),
    "truncated gzip": ("c.jsonl.gz", gzip.compress(GOOD * 9)[:-12], ["after line", "complete"]),
    "not gzip": ("c.jsonl.gz", GOOD, ["after line 0", "complete"]),
    "not zstd": ("c.jsonl.zst", GOOD, ["after line 0", "complete"]),
    "not Parquet": ("c.parquet", GOOD, ["Parquet", "row 0"]),
    "unknown suffix": ("c.pdf", GOOD, ["unknown format", ".jsonl", ".parquet"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_named_with_line_and_remedy(tmp_path, case):
    name, data, parts = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CorpusError) as caught:
        list(read_corpus(path))
    for part in [str(path), *parts]:
        assert part in str(caught.value)
    assert caught.value.exit_code == 3


def test_good_passages_before_the_bad_one_are_still_given(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + b"{")
    documents = read_corpus(path)
    assert next(documents).passage.id == "a"
    with pytest.raises(CorpusError):
        next(documents)


def test_parquet_with_invalid_utf8_names_the_row(tmp_path):
    texts = pa.array([b"ok"] * 300 + [b"\xff"], pa.binary()).cast(pa.string(), safe=False)
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(301)], "text": texts}), path)
    with pytest.raises(CorpusError, match=r"c\.parquet:301: invalid UTF-8"):
        list(read_corpus(path))


def test_parquet_without_the_columns_names_what_is_missing(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"passage": ["t"]}), path)
    with pytest.raises(CorpusError, match=r"c\.parquet:1: the id is missing"):
        list(read_corpus(path))


def test_binary_metadata_is_refused():
    with pytest.raises(CorpusError, match=r"here: its metadata cannot be kept as JSON.*bytes"):
        encode_metadata({"image": b"\x00"}, "here")


def test_lines_and_texts_have_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + b'{"_id": "b", "text": "%s"}\n' % (b"x" * 100))
    monkeypatch.setattr(corpus_records, "MAX_TEXT_BYTES", 99)
    with pytest.raises(CorpusError, match=r"c\.jsonl:2 \(id 'b'\): its text has 100 bytes.*99"):
        list(read_corpus(path))
    monkeypatch.setattr(corpus_formats, "MAX_LINE_BYTES", 64)
    with pytest.raises(CorpusError, match=r"c\.jsonl:2: the line is longer than 64 bytes"):
        list(read_corpus(path))


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("missing.jsonl", "no such file"),
        ("*.jsonl", "matches no file"),
        ("ftp://host/corpus.jsonl", "the scheme .ftp. is not known"),
        ([], "names no file"),
        (".", "no file of a known format"),
    ],
)
def test_bad_paths(tmp_path, monkeypatch, corpus, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=message):
        list(read_corpus(corpus))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    with pytest.raises(CorpusError, match="cannot be read"):
        list(read_corpus(path))


def test_a_path_through_a_file_cannot_be_read(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"cannot be read|no such file"):
        list(read_corpus(Path(tmp_path, "file", "c.jsonl")))
