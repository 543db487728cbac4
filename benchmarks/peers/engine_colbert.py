"""colbert-ai 0.2.22 (Stanford ColBERT, PLAID) under the benchmark.

Building goes through its own `CollectionIndexer`, with a stub in the place of its encoder that
hands out ready-made vectors. Searching goes through its own `IndexScorer`, as `Searcher` calls it;
ncells, threshold and ndocs are given per run, because `Searcher` would freeze those of the first k.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from adapter import Engine, Vectors, run
from colbert.data.collection import Collection
from colbert.indexing.collection_indexer import CollectionIndexer
from colbert.indexing.index_saver import IndexSaver
from colbert.infra import ColBERTConfig
from colbert.modeling.colbert import ColBERT
from colbert.search.index_storage import IndexScorer

# What `Searcher.dense_search` uses where the user sets nothing: (largest k, settings).
DEFAULTS: list[tuple[int, dict[str, Any]]] = [
    (10, {"ncells": 1, "centroid_score_threshold": 0.5, "ndocs": 256}),
    (100, {"ncells": 2, "centroid_score_threshold": 0.45, "ndocs": 1024}),
    (10**9, {"ncells": 4, "centroid_score_threshold": 0.4, "ndocs": 4096}),
]


class ReadyMade:
    """Stands where colbert-ai has its encoder; a passage's text is its ordinal."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def encode_passages(self, passages: list[str]) -> tuple[torch.Tensor, list[int]]:
        """float32 [tokens, D] of all `passages` end to end, and their lengths."""
        arrays = [self.vectors.passage(int(text)) for text in passages]
        flat = torch.from_numpy(np.concatenate(arrays).astype(np.float32))
        return flat, [len(array) for array in arrays]


@contextmanager
def process_group() -> Iterator[None]:
    """A process group of one: without one, colbert-ai's sampling fails where there is no GPU."""
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


class ColbertAI(Engine):
    """See `adapter.Engine`."""

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> None:
        """As `Indexer.index` does in one process. Options: `bits`."""
        random.seed(12345)
        np.random.seed(12345)
        torch.manual_seed(12345)
        index.mkdir(parents=True, exist_ok=True)
        indexer = object.__new__(CollectionIndexer)
        indexer.verbose, indexer.rank, indexer.nranks, indexer.use_gpu = 0, 0, 1, False
        indexer.config = ColBERTConfig(
            dim=int(vectors.tokens.shape[1]), nbits=options["bits"], index_path=str(index)
        )
        indexer.collection = Collection(data=[str(pid) for pid in range(len(vectors))])
        indexer.encoder = ReadyMade(vectors)
        indexer.saver = IndexSaver(indexer.config)
        with process_group():
            indexer.run([])

    def open(self, index: Path) -> None:
        """Load the index and the compiled extensions."""
        self.config = ColBERTConfig.load_from_index(str(index))
        ColBERT.try_load_torch_extensions(use_gpu=False)
        self.ranker = IndexScorer(str(index), use_gpu=False)

    def prepare(self, query_LD: np.ndarray) -> torch.Tensor:
        """float32 [1, L, D]."""
        return torch.from_numpy(query_LD).unsqueeze(0)

    def search(self, query: torch.Tensor, k: int, setting: dict[str, Any]) -> list[int]:
        """`Searcher.dense_search`."""
        knobs = setting or next(knobs for largest, knobs in DEFAULTS if k <= largest)
        self.config.configure(query_maxlen=query.size(1), **knobs)
        pids, _ = self.ranker.rank(self.config, query)
        return pids[:k]


if __name__ == "__main__":
    run(ColbertAI)
