"""gs:// against an emulator of Google Cloud Storage, as a real process on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3_server import START_TIMEOUT_S, free_port
from storage_sizes import DIM

from colbert_core import Index
from colbert_core.errors import (
    IndexCorrupt,
    IndexExists,
    IndexMissing,
    StorageError,
    TartanError,
    Unavailable,
)
from colbert_core.index import push, read_current
from colbert_core.storage import gcs, location, store_of
from colbert_core.storage.store import Conflict
from colbert_core.text.corpus import read_corpus

QUERY = np.random.default_rng(2).standard_normal((5, DIM), dtype=np.float32)
BUCKET = "a-bucket"


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "gcp_storage_emulator", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    process = subprocess.Popen(
        [*command, "--default-bucket", BUCKET],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None
            time.sleep(0.05)  # another process: there is nothing to wait on
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(START_TIMEOUT_S)


@pytest.fixture(autouse=True)
def environment(emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", emulator)
    monkeypatch.setenv("TARTAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TARTAN_STORAGE_TIMEOUT", "2")


def test_an_index_is_pushed_opened_and_replaced(local_index, tmp_path):
    remote = location(f"gs://{BUCKET}/some/index")
    with pytest.raises(IndexMissing):
        read_current(remote)
    manifest = push(local_index, remote, overwrite=False)
    assert Index.open(str(remote)).search(QUERY, k=9) == Index.open(local_index).search(QUERY, k=9)
    assert push(local_index, remote, overwrite=False) == manifest
    store = store_of(remote)
    names = sorted(manifest.files)
    before = [store.head(f"{remote.key}/{name}") for name in names]
    assert [item.sha256 for item in before] == [manifest.files[name].sha256 for name in names]
    store.delete(f"{remote.key}/CURRENT")  # as if it had ended before the last step
    push(local_index, remote, overwrite=False)
    assert [store.head(f"{remote.key}/{name}") for name in names] == before  # none was sent again
    vectors = [np.eye(DIM, dtype=np.float32)[:4]] * 20
    Index.build(tmp_path / "other", vectors, centroids=8)
    with pytest.raises(IndexExists):
        push(tmp_path / "other", remote, overwrite=False)
    assert push(tmp_path / "other", remote, overwrite=True).parent == manifest.generation
    assert len(Index.open(str(remote))) == 20


def test_the_pointer_is_compared_before_it_is_replaced():
    store = store_of(location(f"gs://{BUCKET}/x"))
    store.swap("x/CURRENT", b"one", None)
    with pytest.raises(Conflict):
        store.swap("x/CURRENT", b"two", None)
    store.swap("x/CURRENT", b"three", store.head("x/CURRENT").version)
    assert location(f"gs://{BUCKET}/x/CURRENT").read_bytes() == b"three"
    assert store.names("x") == ["CURRENT"]
    store.delete("x/CURRENT")
    store.delete("x/CURRENT")


def test_a_file_is_checked_on_its_way(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"as it was sent")
    store = store_of(location(f"gs://{BUCKET}"))
    with pytest.raises(IndexCorrupt, match="no longer the one it was written with"):
        store.put("file", file, "0" * 64)
    with pytest.raises(FileNotFoundError):
        store.head("file")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(gcs, "_metadata", lambda _file: {"md5Hash": "another"})
    with pytest.raises(IndexCorrupt, match="did not arrive as it was sent"):
        store.put("file", file, sha256)
    monkeypatch.setattr(gcs, "_metadata", lambda _file: {})  # none given: the bytes decide
    store.put("file", file, sha256)


def test_an_object_that_was_replaced_is_not_read_on():
    store = store_of(location(f"gs://{BUCKET}"))
    store.swap("r", b"one", None)
    old = store.head("r").version
    store.swap("r", b"two", old)
    with pytest.raises(StorageError, match="replaced while it was being read"):
        store.open("r", 0, old)


def test_a_corpus_is_read(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(b'{"_id": "a", "text": "b"}\n')
    store = store_of(location(f"gs://{BUCKET}/corpus"))
    sha256 = hashlib.sha256((tmp_path / "c.jsonl").read_bytes()).hexdigest()
    for name in ("corpus/c.jsonl", "corpus/d.jsonl"):
        store.put(name, tmp_path / "c.jsonl", sha256)
    found = [document.place.file for document in read_corpus(f"gs://{BUCKET}/corpus/*.jsonl")]
    assert found == [f"gs://{BUCKET}/corpus/c.jsonl", f"gs://{BUCKET}/corpus/d.jsonl"]


def test_a_missing_bucket_and_no_server_are_errors(monkeypatch):
    with pytest.raises(TartanError, match="gs://nowhere"):
        Index.open("gs://nowhere/index")
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=f"gs://{BUCKET}"):
        Index.open(f"gs://{BUCKET}/index")
