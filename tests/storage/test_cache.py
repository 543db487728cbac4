"""The cache: bounded, never evicting what is open, shared by processes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from storage_sizes import DIM

from colbert_core import Index
from colbert_core.errors import InvalidInput, Unavailable
from colbert_core.index import push
from colbert_core.index.cache import CachedFolder, cache_folder, make_room
from colbert_core.storage import location

QUERY = np.random.default_rng(2).standard_normal((5, DIM), dtype=np.float32)


def put(cache: Path, digest: str, size: int, used: float) -> None:
    folder = cache / "content" / digest
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(size))
    lock = folder.with_name(f"{digest}.lock")
    lock.touch()
    os.utime(lock, (used, used))


def held(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "content").iterdir() if path.is_dir())


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of at most 100 bytes that holds 90, in three folders."""
    monkeypatch.setenv("TARTAN_CACHE_GB", "1e-7")
    for digest, used in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        put(tmp_path, digest, 30, used)
    return tmp_path


def test_what_was_unused_for_longest_goes_first(limited):
    make_room(limited, 10)
    assert held(limited) == ["a", "b", "c"]
    make_room(limited, 40)
    assert held(limited) == ["b", "c"]


def test_what_is_open_stays(limited):
    lock = CachedFolder(limited, "a").lock(patience_s=1.0)
    make_room(limited, 100)
    assert held(limited) == ["a"]
    lock.close()
    make_room(limited, 100)
    assert held(limited) == []


def test_more_than_the_disk_holds_is_refused(limited):
    with pytest.raises(InvalidInput, match=r"bytes are to be fetched and .* are free"):
        make_room(limited, 1 << 60)


@pytest.mark.parametrize("text", ["x", "-1", "nan"])
def test_a_limit_must_be_a_number(tmp_path, monkeypatch, text):
    monkeypatch.setenv("TARTAN_CACHE_GB", text)
    with pytest.raises(InvalidInput, match="TARTAN_CACHE_GB"):
        make_room(tmp_path, 1)


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("TARTAN_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TARTAN_CACHE")
    assert cache_folder() == Path("/other/tartan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tartan"


def test_waiting_for_another_fetch_ends(tmp_path):
    first = CachedFolder(tmp_path, "d").lock(patience_s=1.0)
    with pytest.raises(Unavailable, match="waited 0 s for another process that fetches it"):
        CachedFolder(tmp_path, "d").lock(patience_s=0.2)
    first.close()


def test_an_index_larger_than_the_limit_is_served_and_another_evicts_it(
    remote_index, s3, bucket, local_index, monkeypatch, tmp_path
):
    monkeypatch.setenv("TARTAN_CACHE_GB", "0")
    opened = Index.open(remote_index)
    assert len(held(tmp_path / "cache")) == 4
    wanted = opened.search(QUERY, k=5)
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal((4, DIM), dtype=np.float32) for _ in range(30)]
    Index.build(tmp_path / "small", vectors, centroids=16, normalize=True)
    push(tmp_path / "small", location(f"s3://{bucket}/small"), overwrite=False)
    Index.open(f"s3://{bucket}/small")
    assert len(held(tmp_path / "cache")) >= 4  # what is open
    assert opened.search(QUERY, k=5) == wanted
    del opened
    Index.open(remote_index)


def test_many_opens_at_once_fetch_once(remote_index, tmp_path):
    fetched: list[int] = []
    found: list[int] = []

    def open_it() -> None:
        index = Index.open(remote_index, on_fetch=lambda done, total: fetched.append(done == total))
        found.append(len(index.search(QUERY, k=5)))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [5] * 4
    assert sum(fetched) == 4  # each of the four folders was completed once
