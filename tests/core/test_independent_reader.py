"""`docs/formats.md` is enough to read an index by: a reader written from it agrees with ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from independent_reader import Reader

from colbert_core import Index

FIXTURES = Path(__file__).parents[1] / "fixtures"
FROZEN = sorted(FIXTURES.glob("index_v*/*"))


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def agree(path: Path) -> Reader:
    reader, index = Reader(path), Index.open(path)
    assert len(reader.shards) == len(index.generation.shards)
    for deleted, ours in zip(reader.deleted, index.generation.shards, strict=True):
        live_N = np.ones(ours.passages) if ours.live_N is None else ours.live_N
        assert deleted == np.flatnonzero(live_N == 0).tolist()
    for theirs, ours in zip(reader.shards, index.generation.shards, strict=True):
        assert theirs.ids == ours.ids()
        for pid in range(ours.passages):
            stored = ours.stored(pid)
            assert (theirs.texts[pid], theirs.metadata[pid]) == (stored.text, stored.metadata)
        codes = ours.codes.read(0, ours.tokens)
        assert theirs.codes == codes.tolist()
        assert theirs.offsets == ours.offsets.read(0, ours.passages + 1).tolist()
        decoded = ours.codec.decode(*ours.compressed(0, ours.passages))
        np.testing.assert_allclose(reader.decode(theirs), decoded, rtol=0, atol=1e-5)
        owner = np.repeat(np.arange(ours.passages), np.diff(theirs.offsets))
        for centroid in range(reader.codec["centroids"]):
            here = sorted(set(owner[codes == centroid].tolist()))
            assert theirs.postings(centroid) == here
    return reader


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_it_reads_the_frozen_indexes(case: Path) -> None:
    agree(case / "index")


@pytest.mark.parametrize("codec", ["tartan", "colbertv2"])
def test_it_reads_what_is_written_today(codec: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = [unit(rng, int(rng.integers(1, 5)), 24) for _ in range(70)]
    Index.build(tmp_path / "ix", vectors, codec=codec, bits=2, centroids=5, shards=3)
    reader = agree(tmp_path / "ix")
    # Its vectors are those that were given, as far as two bits go.
    decoded = np.concatenate([reader.decode(shard) for shard in reader.shards])
    assert float((decoded * np.concatenate(vectors)).sum(axis=1).mean()) > 0.9


def test_it_is_independent() -> None:
    source = (Path(__file__).parent / "independent_reader.py").read_text()
    assert "colbert_core" not in source
