"""Measuring a checkpoint on a judged collection, through an index of ours, while it is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from cluster.beir import read_judged
from cluster.evaluation import BATCH_PASSAGES, DEPTH, measures
from colbert_core.api import Index
from colbert_core.text import Encoder
from colbert_core.text.corpus import read_corpus
from colbert_core.types import F32


def evaluate_checkpoint(checkpoint: Path, *, data: Path, split: str) -> dict[str, float]:
    """Index a collection with a checkpoint, search its judged queries, and measure.

    Args:
        checkpoint: the folder of a model.
        data: a collection in BEIR's layout.
        split: name of the file under `qrels/`.

    Returns:
        nDCG@10, MRR@10 and recall@100, with the defaults of an index and of a search.
    """
    judged = read_judged(data, split)
    encoder = Encoder.load(checkpoint, precision="float32")
    ids = [document.passage.id for document in read_corpus(data)]
    with tempfile.TemporaryDirectory(prefix="tartan-eval-") as folder:
        index = Index.build(folder, _vectors(encoder, data), ids)
        found = [index.search(Q_LD, k=DEPTH) for Q_LD in encoder.encode_queries(judged.texts)]
        run = [[(hit.id, hit.score) for hit in hits] for hits in found]
    return measures(judged, run)


def _vectors(encoder: Encoder, data: Path) -> Iterator[F32]:
    """The vectors of each passage, float32 [T, D], in memory that does not grow with them."""
    texts = (document.passage.text for document in read_corpus(data))
    while batch := list(islice(texts, BATCH_PASSAGES)):
        encoded = encoder.encode_passages(batch)
        yield from np.split(encoded.vectors_TD, np.cumsum(encoded.doclens_N)[:-1])
