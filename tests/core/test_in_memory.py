"""What is searched, copied into memory: the same answers, only where there is room."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from colbert_core import hardware
from colbert_core.api import Index
from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.index import in_memory, open_generation
from colbert_core.index.in_memory import copied, keep_in_memory
from colbert_core.index.reader import SEARCHED


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """An index of 400 passages in two shards."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 40, 400)
    tokens = rng.standard_normal((lengths.sum(), 32)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    folder = tmp_path_factory.mktemp("in_memory") / "index"
    Index.build(folder, tokens, doclens=lengths, shards=2)
    return folder


def kept_in_memory(index: Index) -> list[bool]:
    return [shard.copied_bytes > 0 for shard in index._generation.shards]


def test_answers_are_those_of_the_mapped_files(path):
    copy, mapped = Index.open(path, in_memory=True), Index.open(path, in_memory=False)
    assert kept_in_memory(copy) == [True, True]
    assert kept_in_memory(mapped) == [False, False]
    rng = np.random.default_rng(6)
    for length in (1, 7, 32):
        query = rng.standard_normal((length, 32)).astype(np.float32)
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        for options in ({"k": 5}, {"k": 400}, {"exact": True}):
            assert list(copy.search(query, **options)) == list(mapped.search(query, **options))


def test_the_copy_is_the_files_byte_for_byte_and_cannot_be_written(path):
    for shard in open_generation(path).shards:
        copy = copied(shard.arrays)
        for name in SEARCHED:
            wanted, got = getattr(shard.arrays, name), getattr(copy, name)
            if wanted is None:
                assert got is None
                continue
            assert got.shape == wanted.shape
            assert got.tobytes() == wanted.tobytes()
            assert got.ctypes.data % 64 == 0
            assert not got.flags.writeable


def test_unasked_only_where_half_of_what_is_available_is_enough(path, monkeypatch):
    size = sum(shard.searched_bytes for shard in open_generation(path).shards)
    for available, expected in ((None, False), (size, False), (4 * size, True)):
        monkeypatch.setattr(hardware, "available_memory", lambda available=available: available)
        assert kept_in_memory(Index.open(path)) == [expected] * 2


def test_what_does_not_fit_is_refused_with_the_remedy(path, monkeypatch):
    monkeypatch.setattr(hardware, "available_memory", lambda: 999)
    with pytest.raises(
        InvalidInput, match=r"takes [\d,]+ bytes, and 999 bytes are available; leave"
    ):
        Index.open(path, in_memory=True)
    assert kept_in_memory(Index.open(path, in_memory=False)) == [False, False]


def test_nothing_is_copied_unasked_while_another_process_is_at_it(path, monkeypatch):
    monkeypatch.setattr(in_memory, "_WAIT_S", 0.2)
    shards = open_generation(path).shards
    with in_memory._turn() as mine:
        assert mine
        assert not keep_in_memory(shards, None)
        assert keep_in_memory(shards, True)
    assert keep_in_memory(shards, None)


def test_without_a_place_for_turns_a_process_takes_its_own(path, tmp_path, monkeypatch):
    monkeypatch.setattr(in_memory.tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    assert keep_in_memory(open_generation(path).shards, None)
    (tmp_path / "none").mkdir()
    somewhere = tmp_path / "somewhere"
    (tmp_path / "none" / f"tartan-memory-{os.getuid()}.lock").symlink_to(somewhere)
    assert keep_in_memory(open_generation(path).shards, None)
    assert not somewhere.exists()


def test_a_search_under_way_keeps_its_arrays(path):
    shard = open_generation(path).shards[0]
    before = shard.kernel
    shard.into_memory()
    assert shard.kernel is not before
    assert shard.copied_bytes == shard.searched_bytes > 0


def test_what_was_changed_is_opened_as_before(path, tmp_path):
    for copy in (True, False):
        index = Index.build(tmp_path / str(copy), [np.eye(8, dtype=np.float32)] * 20)
        index = Index.open(tmp_path / str(copy), in_memory=copy).delete(["3"])
        assert kept_in_memory(index) == [copy]


def test_a_file_that_has_become_shorter_is_corrupt(tmp_path):
    Index.build(tmp_path / "index", [np.eye(8, dtype=np.float32)] * 20)
    shard = open_generation(tmp_path / "index").shards[0]
    residuals = shard.folder / "residuals.npy"
    whole = residuals.read_bytes()
    residuals.unlink()  # the mapping keeps the old file
    residuals.write_bytes(whole[:-3])
    with pytest.raises(IndexCorrupt, match=r"residuals\.npy: it ends after [\d,]+ of [\d,]+ bytes"):
        copied(shard.arrays)


def test_where_the_system_gives_no_more_the_files_stay_mapped(path, monkeypatch):
    def no_more(*_args, **_kwargs):
        raise OSError(12, "Cannot allocate memory")

    system = SimpleNamespace(mmap=no_more, MAP_PRIVATE=2, MAP_ANONYMOUS=32)
    monkeypatch.setattr(in_memory, "mmap", system)
    assert kept_in_memory(Index.open(path)) == [False, False]
    with pytest.raises(InvalidInput, match=r"in_memory is True: .* Cannot allocate memory; leave"):
        Index.open(path, in_memory=True)
