"""What every query's answer must be: the same index searched in this process, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster.client import SearchAnswer
from colbert_core.api import Index
from colbert_core.types import F32
from loadgen.open_loop import RIGHT

Found = tuple[tuple[str, ...], tuple[float, ...]]


class Truth:
    """The right answers of one or several generations; a `Judge`."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._right: dict[str, list[Found]] = {}

    def learn(self, index: Path, queries: Sequence[F32]) -> None:
        """Search the live generation of an index for every query."""
        opened = Index.open(index)
        answers = [opened.search(query, k=self._k) for query in queries]
        self._right[opened.manifest.generation] = [
            (tuple(hits.ids), tuple(float(score) for score in hits.scores)) for hits in answers
        ]

    def __call__(self, number: int, answer: SearchAnswer) -> str:
        """`RIGHT`, or what is wrong; an answer that hides a missing shard is wrong, too."""
        covered = answer.coverage
        if not covered.complete or covered.passages_searched != covered.passages_total:
            return "hides a missing shard"
        right = self._right.get(answer.generation)
        if right is None:
            return "of an unknown generation"
        found = tuple(hit.id for hit in answer.hits), tuple(hit.score for hit in answer.hits)
        return RIGHT if found == right[number] else "wrong"


def varied(queries: Sequence[F32], count: int, seed: int = 0) -> list[F32]:
    """`count` queries, no two alike: the given ones, and the same with noise, of unit length."""
    rng = np.random.default_rng(seed)
    made = list(queries[:count])
    while len(made) < count:
        query_LD = queries[len(made) % len(queries)]
        noisy_LD = query_LD + rng.normal(0, 0.02, query_LD.shape).astype(np.float32)
        made.append(noisy_LD / np.linalg.norm(noisy_LD, axis=1, keepdims=True))
    return made
