"""Generations of one index whose answers are known, and clients that check every answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cluster.client import Client, RetryPolicy
from colbert_core.api import Index
from colbert_core.errors import TartanError

DIM = 32
QUERIES = 12
K = 7
PAUSE_S = 0.02  # of a client between queries: what is swapped needs the processors, too

Answer = list[tuple[str, float]]


class Generations:
    """An index of several generations: each has other passages, and its truth is known."""

    def __init__(self, path: Path, count: int, shards: int = 2, passages: int = 60) -> None:
        rng = np.random.default_rng(3)
        self.path = path
        self.queries = [rng.standard_normal((4, DIM), dtype=np.float32) for _ in range(QUERIES)]
        self.truth: dict[str, list[Answer]] = {}
        self._rng = rng
        self._passages = passages
        self.index = Index.build(
            path,
            [self._passage() for _ in range(passages)],
            [f"p{number}" for number in range(passages)],
            shards=shards,
            centroids=16,
            normalize=True,
        )
        self.names = [self._note()]
        while len(self.names) < count:
            self.add()

    def add(self) -> str:
        """One more generation, live on disk: a third of the passages is another."""
        ids = [f"p{number}" for number in range(len(self.names) % 3, self._passages, 3)]
        self.index = self.index.add([self._passage() for _ in ids], ids, replace=True)
        self.index = self.index.compact()
        self.names.append(self._note())
        return self.names[-1]

    def _passage(self) -> Any:
        vectors = self._rng.standard_normal((6, DIM), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _note(self) -> str:
        name = self.index.manifest.generation
        self.truth[name] = [
            [(hit.id, hit.score) for hit in self.index.search(query, k=K)] for query in self.queries
        ]
        return name


class Load:
    """Clients that ask on and on, and compare every answer with the truth of the generation that
    it names. Each knows one gateway and never asks again; or, with `all_known`, all of them, and
    asks again as clients do."""

    def __init__(
        self,
        generations: Generations,
        addresses: list[str],
        clients: int = 3,
        *,
        all_known: bool = False,
    ) -> None:
        self.answers: Counter[str] = Counter()  # by generation
        self.failed: list[str] = []
        self.mixed: list[str] = []
        self._generations = generations
        self._end = threading.Event()
        self._retry = RetryPolicy() if all_known else RetryPolicy(attempts=1)
        targets = [addresses] if all_known else [[address] for address in addresses]
        self._threads = [
            threading.Thread(target=self._ask, args=(targets[n % len(targets)], n))
            for n in range(clients)
        ]

    def _ask(self, targets: list[str], number: int) -> None:
        turn = number
        with Client(targets, retry=self._retry, timeout_s=20.0) as client:
            while not self._end.wait(PAUSE_S):
                turn += 1
                which = turn % QUERIES
                try:
                    answer = client.search(self._generations.queries[which], k=K)
                except TartanError as error:
                    self.failed.append(f"{type(error).__name__}: {error}")
                    self._end.wait(0.05)
                    continue
                self.answers[answer.generation] += 1
                truth = self._generations.truth[answer.generation][which]
                if [(hit.id, hit.score) for hit in answer.hits] != truth:
                    self.mixed.append(answer.generation)

    @property
    def total(self) -> int:
        """Answers so far."""
        return sum(self.answers.values())

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60.0)


@contextmanager
def load_on(
    generations: Generations,
    addresses: list[str],
    clients: int = 3,
    *,
    all_known: bool = False,
) -> Iterator[Load]:
    """Load for as long as the block runs; then nothing may have failed or been mixed."""
    load = Load(generations, addresses, clients, all_known=all_known)
    load.start()
    try:
        yield load
    finally:
        load.stop()
    assert not load.failed, (len(load.failed), load.total, load.failed[:3])
    assert not load.mixed
