"""What a corpus may look like: formats, compression, folders, globs, titles, metadata."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from colbert_core.errors import CorpusError
from colbert_core.text.corpus import corpus_files, read_corpus
from colbert_core.text.corpus_records import encode_metadata

JSONL = (
    b'{"_id": "a", "title": "T", "text": "body", "year": 2020}\n'
    b"\n"
    b'{"id": 7, "text": " \xc3\xbcber ", "tags": ["x", null]}\n'
    b'{"_id": "c", "title": "only a title", "text": ""}\n'
)
EXPECTED = [
    ("a", "T body", {"year": 2020, "title": "T"}, 1),
    ("7", "über", {"tags": ["x", None]}, 3),
    ("c", "only a title", {"title": "only a title"}, 4),
]


def rows(corpus):
    return [
        (d.passage.id, d.passage.text, dict(d.passage.metadata), d.place.line)
        for d in read_corpus(corpus)
    ]


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return pa.compress(data, codec="zstd", asbytes=True)
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](
        data
    )


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_jsonl_in_every_compression(tmp_path, suffix, compression):
    path = tmp_path / f"corpus{suffix}{compression}"
    path.write_bytes(compress(JSONL, compression))
    assert rows(path) == EXPECTED


def test_a_compressed_file_of_many_lines_keeps_them_all(tmp_path):
    """The zstd reader has a line buffer of its own; lines cross its chunks."""
    lines = [orjson.dumps({"_id": str(i), "text": "x" * (i % 977)}) for i in range(6000)]
    path = tmp_path / "corpus.jsonl.zst"
    path.write_bytes(compress(b"\n".join(lines), ".zst"))
    assert [d.passage.id for d in read_corpus(path)] == [str(i) for i in range(6000)]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n"))
    assert rows(path) == EXPECTED


def test_tsv_without_and_with_header(tmp_path):
    plain = tmp_path / "plain.tsv"
    plain.write_text('1\tfirst "text"\n2\tsecond\n')
    assert rows(plain) == [("1", 'first "text"', {}, 1), ("2", "second", {}, 2)]
    named = tmp_path / "named.tsv"
    named.write_text("id\ttext\ttitle\tlang\n1\tbody\tT\ten\n")
    assert rows(named) == [("1", "T body", {"lang": "en", "title": "T"}, 2)]


def test_parquet_with_its_own_types(tmp_path):
    path = tmp_path / "corpus.parquet"
    table = pa.table(
        {
            "_id": pa.array([1, 2], pa.int64()),
            "title": pa.array(["T", None]),
            "text": pa.array(["body", "second"], pa.large_string()),
            "day": pa.array([date(2020, 1, 2), None]),
            "price": pa.array([Decimal("1.50"), None]),
        }
    )
    pq.write_table(table, path)
    documents = list(read_corpus(path))
    assert [(d.passage.id, d.passage.text) for d in documents] == [("1", "T body"), ("2", "second")]
    written = orjson.loads(encode_metadata(documents[0].passage.metadata, "here"))
    assert written == {"day": "2020-01-02", "price": "1.50", "title": "T"}


def test_parquet_rows_are_numbered_across_batches(tmp_path):
    path = tmp_path / "corpus.parquet"
    ids = [str(i) for i in range(1000)]
    pq.write_table(pa.table({"id": ids, "text": ids}), path, row_group_size=300)
    assert [d.place.line for d in read_corpus(path)] == list(range(1, 1001))


def test_beir_metadata_object_is_laid_open(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "text": "t", "metadata": {"url": "u"}, "lang": "de"}')
    assert rows(path) == [("a", "t", {"lang": "de", "url": "u"}, 1)]


def test_folder_glob_and_list_are_read_in_sorted_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "_temporary/d.jsonl", ".hidden.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(orjson.dumps({"_id": name, "text": "t"}).decode())
    (tmp_path / "README.md").write_text("not a passage")
    assert [row[0] for row in rows(tmp_path)] == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert [row[0] for row in rows(str(tmp_path / "*.jsonl"))] == ["a.jsonl", "b.jsonl"]
    assert [row[0] for row in rows(str(tmp_path / "**" / "c.jsonl"))] == ["sub/c.jsonl"]
    chosen = [tmp_path / "b.jsonl", str(tmp_path / "a.jsonl")]
    assert [row[0] for row in rows(chosen)] == ["b.jsonl", "a.jsonl"]


def test_a_beir_folder_means_its_corpus_alone(tmp_path):
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(JSONL))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "not a passage"}')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    assert rows(tmp_path) == EXPECTED


def test_a_name_with_glob_characters_is_a_name_first(tmp_path):
    path = tmp_path / "part[1].jsonl"
    path.write_bytes(JSONL)
    assert corpus_files(path) == [path]


def test_an_empty_file_has_no_passages_and_a_missing_one_is_an_error(tmp_path):
    (tmp_path / "corpus.jsonl").write_bytes(b"\n \n")
    assert rows(tmp_path / "corpus.jsonl") == []
    with pytest.raises(CorpusError, match="no such file"):
        corpus_files(tmp_path / "other.jsonl")


def test_reading_a_corpus_needs_neither_torch_nor_transformers():
    code = (
        "import sys, colbert_core.text.corpus; "
        "sys.exit(str(sorted({'torch', 'transformers', 'ray'} & set(sys.modules))) "
        "if {'torch', 'transformers', 'ray'} & set(sys.modules) else 0)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
