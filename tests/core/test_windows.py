"""Documents in windows: hits are documents, each once, by their best window."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbert_core import Index, recalibrate
from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.index import (
    ShardWriter,
    new_generation_id,
    open_generation,
    publish,
    verify,
    write_codec,
)
from colbert_core.search import calibrate as calibration
from colbert_core.search import selective
from colbert_core.types import F32

PASSAGES = 400
DOCUMENTS_AT_ONCE = 7


def vectors() -> list[F32]:
    rng = np.random.default_rng(3)
    topics = rng.standard_normal((12, 32))
    made = []
    for number in range(PASSAGES):
        x = topics[number // 25 % 12] + rng.standard_normal((int(rng.integers(1, 14)), 32))
        made.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
    return made


class Split:
    """An index whose windows are the passages of another, and what documents these make."""

    def __init__(self, folder: Path, most: int) -> None:
        self.vectors = vectors()
        self.flat = Index.build(folder / "flat", self.vectors, centroids=64)
        rng = np.random.default_rng(most)
        self.counts: list[int] = []
        while left := PASSAGES - sum(self.counts):
            self.counts.append(min(left, int(rng.choice([1, 1, 2, 5, most]))))
        self.owner = np.repeat(np.arange(len(self.counts)), self.counts)
        self.path = folder / "split"
        self._write()
        self.index = Index.open(self.path)

    def _write(self) -> None:
        codec = self.flat.generation.codec
        generation = new_generation_id(self.path)
        write_codec(self.path, generation, codec)
        half = len(self.counts) // 2
        documents = iter(range(len(self.counts)))
        passages = iter(self.vectors)
        entries = []
        for shard, count in enumerate((half, len(self.counts) - half)):
            with ShardWriter(self.path, f"s{shard}", codec) as writer:
                mine = itertools.islice(documents, count)
                while batch := list(itertools.islice(mine, DOCUMENTS_AT_ONCE)):
                    self._add(writer, batch, passages)
                entries.append(writer.finish())
        publish(self.path, generation, generation, codec, entries)

    def _add(self, writer: ShardWriter, batch: list[int], passages: Any) -> None:
        rows = [
            (place, 10 * part, 10 * part + 12) if self.counts[document] > 1 else (place, -1, -1)
            for place, document in enumerate(batch)
            for part in range(self.counts[document])
        ]
        mine = [next(passages) for _ in rows]
        doclens_N = np.array([len(one) for one in mine], np.int32)
        writer.add(
            self.flat.generation.codec.compress(np.concatenate(mine), doclens_N),
            doclens_N,
            [f"d{document}" for document in batch],
            [f"the text of {document} " * 50 for document in batch],
            [{"n": document} if document % 3 else {} for document in batch],
            np.array(rows, np.int32),
        )

    def best(self, query: F32) -> list[tuple[str, float, int]]:
        """All documents, best first, by their best passage in the other index."""
        found: dict[str, tuple[str, float, int]] = {}
        for hit in self.flat.search(query, k=PASSAGES, exact=True):
            document = f"d{self.owner[int(hit.id)]}"
            found.setdefault(document, (document, hit.score, int(hit.id)))
        return list(found.values())


@pytest.fixture(scope="module", params=[3, 90])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Split(tmp_path_factory.mktemp("split"), request.param)


def test_hits_are_documents_by_their_best_window(split: Split) -> None:
    for number in range(0, PASSAGES, 41):
        best = split.best(split.vectors[number])
        for k in (1, 5, 50, PASSAGES):
            hits = split.index.search(split.vectors[number], k=k, exact=True)
            assert [(hit.id, hit.score) for hit in hits] == [
                (one, score) for one, score, _ in best
            ][:k]


def test_there_are_min_k_and_documents_however_windows_crowd(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = len(split.counts)
    assert len(split.index) == documents < split.index.manifest.passages == PASSAGES
    for tokens, number in itertools.product((0, 1 << 17), range(0, PASSAGES, 67)):
        monkeypatch.setattr(selective, "SCORED_TOKENS", tokens)
        monkeypatch.setattr(selective, "COMPARED_TOKENS", tokens)
        for k, effort in itertools.product(
            (1, 10, documents, 1000), ({}, {"nprobe": 1, "candidates": 1}, {"scored": 0})
        ):
            for wanted, count in (
                (None, documents),
                ("not exists(n)", len(range(0, documents, 3))),
                (["d1", "d2", "nobody"], 2),
            ):
                hits = split.index.search(split.vectors[number], k=k, filter=wanted, **effort)
                assert len(set(hits.ids)) == len(hits) == min(k, count)


def test_a_filter_is_of_the_document(split: Split) -> None:
    query = split.vectors[30]
    expected = [one for one, _, _ in split.best(query) if int(one[1:]) % 3 and int(one[1:]) >= 4]
    assert split.index.search(query, k=1000, filter="n >= 4", exact=True).ids == expected


def test_a_hit_is_the_document_and_says_which_window(split: Split) -> None:
    query = split.vectors[77]
    for hit, (document, _, passage) in zip(
        split.index.search(query, k=5, exact=True), split.best(query), strict=False
    ):
        number = int(document[1:])
        assert hit.text == f"the text of {number} " * 50
        assert hit.metadata == ({"n": number} if number % 3 else {})
        part = passage - sum(split.counts[:number])
        window = (10 * part, 10 * part + 12) if split.counts[number] > 1 else None
        assert hit.window == window


def test_documents_count_when_it_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (recalibrate, calibration):
        monkeypatch.setattr(module, "FEWEST_PASSAGES", 100)
    split = Split(tmp_path, 3)
    asked = [split.vectors[number][:6] for number in range(0, PASSAGES, 7)]
    calibrated = split.index.calibrate(asked)
    exact = [set(calibrated.search(query, exact=True).ids) for query in asked]
    found = [set(calibrated.search(query).ids) for query in asked]
    share = np.mean([len(a & b) / len(a) for a, b in zip(exact, found, strict=True)])
    assert share == pytest.approx(0.99, abs=0.02)


def test_it_verifies_and_says_what_it_holds(split: Split) -> None:
    verify(split.path)
    ids = [one for shard in split.index.generation.shards for one in shard.ids()]
    assert ids == [f"d{number}" for number in range(len(split.counts))]


def test_windows_that_do_not_fit_are_refused(split: Split, tmp_path: Path) -> None:
    codec = split.flat.generation.codec
    doclens_N = np.array([len(one) for one in split.vectors[:2]], np.int32)
    tokens = codec.compress(np.concatenate(split.vectors[:2]), doclens_N)
    for rows in ([(0, 0, 1), (2, 0, 1)], [(1, 0, 1), (0, 0, 1)], [(0, 0, 1), (0, 0, 1)]):
        windows_N3 = np.array(rows, np.int32)
        with ShardWriter(tmp_path, "s", codec) as writer, pytest.raises(InvalidInput):
            writer.add(tokens, doclens_N, ["a", "b"], windows_N3=windows_N3)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    split = Split(tmp_path, 5)
    path = next(split.path.glob("shards/*/windows.npy"))
    data = bytearray(path.read_bytes())
    data[-12] ^= 3  # the document of the last window
    path.write_bytes(bytes(data))
    shards = open_generation(split.path).shards
    with pytest.raises(IndexCorrupt, match=r"windows\.npy"):
        [shard.windows.documents_N for shard in shards if shard.windows]
