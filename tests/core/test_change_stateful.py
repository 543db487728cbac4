"""Changes in any order against a dictionary: never a wrong, stale, missing or doubled id.

The dictionary holds each id's version, in the order in which a search breaks ties. Texts name the
version, so that a stale passage shows; scores are compared with those of the version's own tokens.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from changes import passage, query
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from colbert_core import Index
from colbert_core.errors import CorpusError, InvalidInput
from colbert_core.generations import collect, generations, rollback
from colbert_core.index import verify

DIM, IDS, CLOSE = 16, 40, 0.02
SEEDS = st.integers(0, 2**32 - 1)
MODES = [{}, {"exact": True}, {"candidates": 5}, {"recall": 0.8}, {"nprobe": 1}]
Corpus = dict[str, int]
"""Id → version."""


def version_vectors(version: int) -> np.ndarray:
    return passage(version, DIM)[:3]


@lru_cache(maxsize=4096)
def stored_vectors(version: int) -> np.ndarray:
    """What is left of a passage after compression."""
    codec = Index.open(start()).generation.codec
    vectors_TD = version_vectors(version)
    doclens_N = np.array([len(vectors_TD)], np.int32)
    return codec.decode(codec.compress(vectors_TD, doclens_N), doclens_N)


def maxsim(Q_LD: np.ndarray, version: int) -> float:
    return float((Q_LD @ stored_vectors(version).T).max(axis=1).sum())


@lru_cache(maxsize=1)
def start() -> Path:
    """The index that every run starts from: p0 … p11, versions 0 … 11, in two shards."""
    path = Path(tempfile.mkdtemp(prefix="tartan-stateful-")) / "ix"
    Index.build(
        path,
        [version_vectors(n) for n in range(12)],
        ids=[f"p{n}" for n in range(12)],
        texts=[f"p{n} v{n}" for n in range(12)],
        shards=2,
        centroids=8,
    )
    return path


class Changes(RuleBasedStateMachine):
    """One index, one dictionary, and what each generation held."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tartan-stateful-"))
        self.path = Path(shutil.copytree(start(), self.folder / "ix"))
        self.index = Index.open(self.path)
        self.live: Corpus = {f"p{n}": n for n in range(12)}
        self.versions = 12
        self.history = {self.index.manifest.generation: dict(self.live)}
        self.old: list[tuple[Index, Corpus]] = []  # readers that go on

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def now(self, index: Index, live: Corpus) -> None:
        self.index, self.live = index, live
        self.history[index.manifest.generation] = dict(live)
        assert len(index) == len(live)

    @rule(seed=SEEDS, replace=st.booleans())
    def add(self, seed: int, replace: bool) -> None:
        rng = random.Random(seed)
        ids = [f"p{n}" for n in rng.sample(range(IDS), rng.randint(1, 6))]
        versions = [self.versions + n for n in range(len(ids))]
        self.versions += len(ids)
        vectors = [version_vectors(version) for version in versions]
        texts = [f"{one} v{version}" for one, version in zip(ids, versions, strict=True)]
        taken = [one for one in ids if one in self.live]
        if taken and not replace:
            with pytest.raises(CorpusError, match=f"{taken[0]!r}"):
                self.index.add(vectors, ids, texts)
            return
        live = {one: version for one, version in self.live.items() if one not in ids}
        live |= dict(zip(ids, versions, strict=True))
        self.now(self.index.add(vectors, ids, texts, replace=replace), live)

    @rule(seed=SEEDS)
    def delete(self, seed: int) -> None:
        rng = random.Random(seed)
        ids = [f"p{n}" for n in rng.sample(range(IDS), rng.randint(1, 4))]
        missing = [one for one in ids if one not in self.live]
        if missing and rng.random() < 0.5:
            with pytest.raises(InvalidInput, match=f"{missing[0]!r}"):
                self.index.delete(ids)
            return
        live = {one: version for one, version in self.live.items() if one not in ids}
        self.now(self.index.delete(ids, missing_ok=True), live)

    @precondition(lambda self: self.live)
    @rule(shards=st.integers(0, 3))
    def compact(self, shards: int) -> None:
        count = min(shards, len(self.live)) or None
        self.now(self.index.compact(count), self.live)
        assert not any(shard.delta or shard.tombstones for shard in self.index.manifest.shards)

    @rule(seed=SEEDS)
    def roll_back(self, seed: int) -> None:
        stored = [info.generation for info in generations(self.path)]
        assert set(stored) <= set(self.history)
        to = random.Random(seed).choice(stored)
        rollback(self.path, to)
        self.now(Index.open(self.path), dict(self.history[to]))

    @rule(keep=st.integers(0, 2))
    def gc(self, keep: int) -> None:
        done = collect(self.path, keep)
        assert self.index.manifest.generation in done.kept
        assert {index.manifest.generation for index, _ in self.old} <= set(done.kept)

    @rule()
    def reopen(self) -> None:
        self.index = Index.open(self.path)
        assert len(self.index) == len(self.live)

    @rule()
    def leave_a_reader(self) -> None:
        self.old = [*self.old[-1:], (self.index, dict(self.live))]

    @rule(seed=SEEDS)
    def search(self, seed: int) -> None:
        rng = random.Random(seed)
        index, live = rng.choice([(self.index, self.live), *self.old])
        Q_LD = query(rng.randrange(1000), rng.randint(1, 4), DIM)
        wanted = None
        if rng.random() < 0.3:
            wanted = [f"p{n}" for n in rng.sample(range(IDS), rng.randint(0, 12))]
        k = rng.choice([1, 3, 10, 100])
        self.check(index, live, Q_LD, k, wanted, rng.choice(MODES))

    def check(
        self,
        index: Index,
        live: Corpus,
        Q_LD: np.ndarray,
        k: int,
        wanted: list[str] | None,
        mode: dict[str, object],
    ) -> None:
        allowed = [one for one in live if wanted is None or one in wanted]
        hits = index.search(Q_LD, k, filter=wanted, **mode)  # type: ignore[arg-type]
        assert len(hits) == min(k, len(allowed))
        assert len(set(hits.ids)) == len(hits)
        assert set(hits.ids) <= set(allowed)
        expected = {one: maxsim(Q_LD, live[one]) for one in allowed}
        for hit in hits:
            assert hit.text == f"{hit.id} v{live[hit.id]}"
            assert abs(hit.score - expected[hit.id]) < CLOSE * len(Q_LD)
        place = {one: number for number, one in enumerate(live)}
        assert list(hits) == sorted(hits, key=lambda hit: (-hit.score, place[hit.id]))
        if mode == {"exact": True} and len(hits):
            kth = sorted(expected.values())[-len(hits)]
            assert all(expected[hit.id] > kth - CLOSE * len(Q_LD) for hit in hits)

    @rule()
    def verify_everything(self) -> None:
        assert verify(self.path).generation == self.index.manifest.generation


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def run(examples: int, steps: int, *, seeded: bool) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Changes,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            derandomize=seeded,
            suppress_health_check=QUIET,
            phases=[Phase.generate, Phase.shrink],
        ),
    )


def test_changes_in_any_order() -> None:
    run(5, 30, seeded=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_changes_in_any_order() -> None:
    run(100, 100, seeded=False)
