"""A corpus in a bucket: found and read as a local one is, and told apart when it is not whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import signal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import SECRET_KEY

from colbert_core.errors import CorpusError, Unavailable
from colbert_core.text.corpus import corpus_files, read_corpus


def lines(first: int, count: int) -> bytes:
    rows = [{"_id": f"d{n:04d}", "text": f"passage {n} " * 9} for n in range(first, first + count)]
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def parquet(first: int, count: int) -> bytes:
    ids = [f"d{n:04d}" for n in range(first, first + count)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"_id": ids, "text": [f"text of {i}" for i in ids]}), sink)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def corpus(s3, bucket: str) -> str:
    for name, data in {
        "a.jsonl": lines(0, 20),
        "b.jsonl.gz": gzip.compress(lines(20, 20)),
        "deep/c.tsv": b"d0040\tcells\n",
        "deep/d.parquet": parquet(41, 9),
        "deep/e.jsonl.bz2": bz2.compress(lines(50, 5)),
        "deep/f.jsonl.xz": lzma.compress(lines(55, 3)),
        "deep/g.jsonl.zst": zstd(lines(58, 2)),
        "_hidden/x.jsonl": b"no corpus",
        "notes.md": b"no corpus either",
    }.items():
        s3.put_object(Bucket=bucket, Key=f"corpus/{name}", Body=data)
    return f"s3://{bucket}/corpus"


def ids(corpus) -> list[str]:
    return [document.passage.id for document in read_corpus(corpus)]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("", 60),
        ("/", 60),
        ("/a.jsonl", 20),
        ("/*.jsonl*", 40),
        ("/deep/[c-d].*", 10),
        ("/**/*.jsonl.?z*", 28),
        ("/deep", 20),
    ],
)
def test_files_folders_and_patterns(corpus, pattern, count):
    found = ids(corpus + pattern)
    assert len(found) == count
    assert found == sorted(found)


def test_local_and_remote_files_are_one_corpus(corpus, tmp_path):
    (tmp_path / "z.jsonl").write_bytes(lines(90, 2))
    assert ids([f"{corpus}/a.jsonl", (tmp_path / "z.jsonl").as_uri()])[-3:] == [
        "d0019",
        "d0090",
        "d0091",
    ]


def test_a_beir_folder_means_its_corpus(s3, bucket):
    for name, data in {"corpus.jsonl": lines(0, 3), "queries.jsonl": b"{}", "x.tsv": b"a"}.items():
        s3.put_object(Bucket=bucket, Key=f"beir/{name}", Body=data)
    assert [str(path) for path in corpus_files(f"s3://{bucket}/beir")] == [
        f"s3://{bucket}/beir/corpus.jsonl"
    ]


def test_an_error_names_the_uri_and_the_line(s3, bucket):
    s3.put_object(Bucket=bucket, Key="bad.jsonl.gz", Body=gzip.compress(lines(0, 3) + b"{]\n"))
    with pytest.raises(CorpusError, match=rf"s3://{bucket}/bad\.jsonl\.gz:4: broken JSON"):
        ids(f"s3://{bucket}/bad.jsonl.gz")


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.parquet"])
def test_a_file_that_was_cut_short_is_an_error(s3, bucket, name):
    whole = parquet(0, 50) if name.endswith("parquet") else gzip.compress(lines(0, 50))
    s3.put_object(Bucket=bucket, Key=name, Body=whole[:-20])
    with pytest.raises(CorpusError, match=rf"s3://{bucket}/{name}: it cannot be read"):
        ids(f"s3://{bucket}/{name}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://nowhere-at-all/c.jsonl", "no bucket 'nowhere-at-all'"),
        ("s3://nowhere-at-all/*.jsonl", "no bucket 'nowhere-at-all'"),
        ("s3://{bucket}/none.jsonl", "no such object"),
        ("s3://{bucket}/*.jsonl", "matches no object"),
        ("s3:///x.jsonl", "names no bucket"),
        ("s3://id:%s@bucket/x.jsonl" % SECRET_KEY, "leave credentials out"),  # noqa: UP031
        ("http://host/x.jsonl", "scheme 'http' is not known"),
    ],
)
def test_what_cannot_be_read_is_a_corpus_error(environment, bucket, uri, message):
    with pytest.raises(CorpusError, match=message) as raised:
        ids(uri.replace("{bucket}", bucket))
    assert SECRET_KEY not in str(raised.value)


def test_a_path_object_cannot_hold_a_uri():
    with pytest.raises(CorpusError, match="give the URI as a string"):
        ids(Path("s3://bucket/c.jsonl"))


def test_a_connection_that_is_cut_loses_no_line(s3, bucket, door):
    s3.put_object(Bucket=bucket, Key="long.jsonl", Body=lines(0, 3000))
    door.start("cut", after_bytes=100_000)
    assert ids(f"s3://{bucket}/long.jsonl") == [f"d{n:04d}" for n in range(3000)]


def test_a_server_killed_while_it_is_read_is_named_with_the_line(s3, bucket, door):
    s3.put_object(Bucket=bucket, Key="long.jsonl", Body=lines(0, 3000))
    door.start("die", after_bytes=100_000)
    with pytest.raises(Unavailable, match=r"long\.jsonl: reading stopped after line \d+"):
        ids(f"s3://{bucket}/long.jsonl")


def test_a_file_replaced_while_it_is_read_is_not_mixed(s3, bucket):
    s3.put_object(Bucket=bucket, Key="long.jsonl", Body=lines(0, 40_000))
    documents = read_corpus(f"s3://{bucket}/long.jsonl")
    next(documents)
    s3.put_object(Bucket=bucket, Key="long.jsonl", Body=lines(50_000, 40_000))
    try:
        found = [document.passage.id for document in documents]
    except CorpusError as error:
        assert "replaced" in str(error)  # noqa: PT017
    else:  # one connection gave all of it
        assert found == [f"d{n:04d}" for n in range(1, 40_000)]


def test_a_server_that_hangs_is_a_time_out(s3, bucket, s3_server, environment):
    environment.setenv("TARTAN_STORAGE_TIMEOUT", "0.3")
    s3_server.send(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=rf"s3://{bucket}/.*0\.3 s"):
            ids(f"s3://{bucket}/c.jsonl")
    finally:
        s3_server.send(signal.SIGCONT)
