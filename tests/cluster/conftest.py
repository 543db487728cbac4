"""One small index of three shards, built once, and one cluster that only reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from local_cluster import LocalCluster, unit_vectors

from colbert_core.api import Index

PASSAGES = 150


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 passages of 3 to 12 tokens, 32 dimensions, 3 shards; built from vectors."""
    rng = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("serving") / "index"
    Index.build(
        path,
        [unit_vectors(rng, int(rng.integers(3, 13))) for _ in range(PASSAGES)],
        ids=[f"p{number}" for number in range(PASSAGES)],
        texts=[f"text of {number}" if number % 10 else "" for number in range(PASSAGES)],
        metadata=[{"number": number, "big": 2**53 + number} for number in range(PASSAGES)],
        shards=3,
        centroids=32,
    )
    return path


@pytest.fixture(scope="session")
def serving(small_index: Path) -> Iterator[LocalCluster]:
    """A cluster over `small_index` for tests that change nothing."""
    with LocalCluster(small_index) as cluster:
        yield cluster
