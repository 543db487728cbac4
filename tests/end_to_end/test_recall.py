"""The recall knob keeps its word, on real text and queries that calibration never saw."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cluster.demo_corpus import documents
from colbert_core import Index
from colbert_core.text import Encoder
from colbert_core.text.aliases import DEFAULT_MODEL
from colbert_core.types import F32

PASSAGES, QUERIES = 1000, 600
K = 10
TOLERANCE = 0.05  # two standard errors of so many queries, .01, and what this collection is off by


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, list[F32]]:
    """Documentation of Python's library, cut short; queries are first sentences of the rest."""
    texts = [text for _, _, text in documents()]
    random.Random(0).shuffle(texts)
    encoder = Encoder.load(DEFAULT_MODEL, doc_maxlen=40)
    encoded = encoder.encode_passages(texts[:PASSAGES])
    passages = np.split(encoded.vectors_TD, np.cumsum(encoded.doclens_N)[:-1])
    asked = [text.partition("\n")[2].partition("\n")[0] for text in texts[PASSAGES:]]
    queries = encoder.encode_queries([text for text in asked if text][:QUERIES])
    assert len(queries) == QUERIES
    return Index.build(tmp_path_factory.mktemp("recall") / "ix", passages), queries


@pytest.fixture(scope="module")
def truth(built: tuple[Index, list[F32]]) -> list[set[str]]:
    """What exhaustive search finds."""
    index, queries = built
    return [set(index.search(query, k=K, exact=True).ids) for query in queries]


@pytest.mark.parametrize("recall", [0.90, 0.95, 0.98, 0.99])
def test_what_is_asked_is_what_is_found(
    built: tuple[Index, list[F32]], truth: list[set[str]], recall: float
) -> None:
    index, queries = built
    found = [set(index.search(query, K, recall).ids) for query in queries]
    overlap = np.mean([len(a & b) / K for a, b in zip(found, truth, strict=True)])
    assert overlap == pytest.approx(recall, abs=TOLERANCE)


def test_less_recall_is_less_work(built: tuple[Index, list[F32]]) -> None:
    by_recall = {preset.recall: preset for preset in built[0].manifest.presets if preset.k == K}
    assert by_recall[0.8].scored < by_recall[0.95].scored < by_recall[0.99].scored < PASSAGES / 4
