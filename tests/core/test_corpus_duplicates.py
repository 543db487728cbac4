"""Duplicate ids are all found, and hash collisions are never taken for them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_core.text import corpus_duplicates
from colbert_core.text.corpus_duplicates import DuplicateFinder


def find(ids):
    with tempfile.TemporaryDirectory() as folder:
        finder = DuplicateFinder(Path(folder))
        for passage_id in ids:
            finder.add(passage_id)
        found = finder.find(ids.__getitem__)
        assert not list(Path(folder).iterdir())
    return found


def first_repeat(ids):
    seen = {}
    for ordinal, passage_id in enumerate(ids):
        if passage_id in seen:
            return seen[passage_id], ordinal
        seen[passage_id] = ordinal
    return None


@given(st.lists(st.text(alphabet="abc", max_size=3), max_size=40))
def test_the_first_repetition_is_named(ids):
    found = find(ids)
    assert (found and (found.first, found.second)) == first_repeat(ids)
    if found:
        assert found.total == len(ids) - len(set(ids))


@pytest.fixture
def one_hash(monkeypatch):
    class Same:
        def __init__(self, *args, **kwargs): ...
        def digest(self):
            return b"\x00" * 8

    monkeypatch.setattr(corpus_duplicates.hashlib, "blake2b", Same)


def test_colliding_hashes_are_compared_by_id(one_hash):
    assert find(["a", "b", "c"]) is None
    found = find(["a", "b", "a"])
    assert (found.first, found.second) == (0, 2)


def test_more_ids_than_are_held_in_memory(monkeypatch):
    monkeypatch.setattr(corpus_duplicates, "FLUSH_ENTRIES", 8)
    ids = [str(i) for i in range(5000)] + ["4321", "17"]
    found = find(ids)
    assert (found.first, found.second, found.total) == (4321, 5000, 2)
