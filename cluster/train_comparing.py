"""The systems that `tartan eval --compare` sets beside one another, each as a search by text.

Every one is asked query by query, so that latencies are of the same kind: from text to the best
hundred, on one process. What a passage takes is what the system must keep to search, texts apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from cluster.evaluation import DEPTH, Run, exact_run
from colbert_core.api import Index
from colbert_core.text import Encoder
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.train.bi_encoder import BiEncoder
from colbert_core.train.cross_encoder import CrossEncoder
from colbert_core.train.mining import Bm25
from colbert_core.types import F16, F32, I32

Search = Callable[[str], list[tuple[str, float]]]
ENCODE_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class System:
    """A way to search.

    Attributes:
        name: as the table has it.
        search: from a query to ids and scores, best first, at most `DEPTH`.
        bytes_per_passage: what it keeps.
    """

    name: str
    search: Search
    bytes_per_passage: float


@dataclass(frozen=True, slots=True)
class Collection:
    """The passages, in the order of the corpus."""

    ids: list[str]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A collection as token vectors: float16 [T, D], mapped, and int32 [N] of each passage."""

    encoder: Encoder
    vectors_TD: F16
    doclens_N: I32


def timed_run(system: System, queries: Sequence[str]) -> tuple[Run, list[float]]:
    """Ask every query; the first is asked once before, so that nothing is loaded meanwhile."""
    system.search(queries[0])
    run, seconds = [], []
    for query in queries:
        began = time.perf_counter()
        run.append(system.search(query))
        seconds.append(time.perf_counter() - began)
    return run, seconds


def bm25_system(collection: Collection, stemmer: str | None) -> System:
    """BM25, with a language's stemmer."""
    bm25 = Bm25(collection.texts, collection.ids, stemmer)
    return System("BM25", lambda query: bm25.scored(query, DEPTH), bm25.nbytes / len(bm25))


def bi_encoder_system(collection: Collection, model: str, language: str | None = None) -> System:
    """One vector a passage, in float32, all of them scored."""
    encoder = BiEncoder(model, _read_in(language, model))
    vectors_NH = encoder.passages(collection.texts)

    def search(query: str) -> list[tuple[str, float]]:
        scores_N = vectors_NH @ encoder.queries([query])[0]
        best = np.argsort(-scores_N, kind="stable")[:DEPTH]
        return [(collection.ids[at], float(scores_N[at])) for at in best]

    return System(f"bi-encoder, {model}", search, 4.0 * encoder.dim)


def _read_in(language: str | None, model: str) -> str | None:
    """The language, for a model with an adapter for each; None for one that reads all alike."""
    return language if read_checkpoint(locate(model)).languages.names else None


def encode(
    collection: Collection, model: str, folder: Path, language: str | None = None
) -> Encoded:
    """Encode a collection once, into a file; `language` counts where a model has adapters."""
    encoder = Encoder.load(model, language=_read_in(language, model))
    folder.mkdir(parents=True)
    doclens: list[I32] = []
    with (folder / "vectors.f16").open("wb") as file:
        for start in range(0, len(collection.texts), ENCODE_AT_ONCE):
            part = encoder.encode_passages(collection.texts[start : start + ENCODE_AT_ONCE])
            file.write(part.vectors_TD.astype(np.float16).tobytes())
            doclens.append(part.doclens_N)
    vectors_TD = np.memmap(folder / "vectors.f16", np.float16, "r").reshape(-1, encoder.dim)
    return Encoded(encoder, vectors_TD, np.concatenate(doclens))


def uncompressed_system(name: str, collection: Collection, encoded: Encoded) -> System:
    """Exact MaxSim over all passages, in float16 as ColBERT would keep them."""
    ends_N = np.cumsum(encoded.doclens_N, dtype=np.int64)
    cuts = [*range(0, len(collection.ids), ENCODE_AT_ONCE), len(collection.ids)]

    def batches() -> Iterator[tuple[list[str], F32, I32]]:
        for start, stop in pairwise(cuts):
            first = ends_N[start] - encoded.doclens_N[start]
            vectors_TD = encoded.vectors_TD[first : ends_N[stop - 1]].astype(np.float32)
            yield collection.ids[start:stop], vectors_TD, encoded.doclens_N[start:stop]

    def search(query: str) -> list[tuple[str, float]]:
        return exact_run(encoded.encoder.encode_queries([query]), batches())[0]

    return System(name, search, encoded.vectors_TD.nbytes / len(collection.ids))


def index_system(
    name: str, collection: Collection, encoded: Encoded, bits: int, folder: Path
) -> System:
    """An index of ours, with the defaults of a search."""
    index = Index.build(
        folder, encoded.vectors_TD, collection.ids, bits, doclens=encoded.doclens_N, normalize=True
    )

    def search(query: str) -> list[tuple[str, float]]:
        (Q_LD,) = encoded.encoder.encode_queries([query])
        return [(hit.id, hit.score) for hit in index.search(Q_LD, k=DEPTH)]

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return System(name, search, size / len(collection.ids))


def reranked_system(system: System, teacher: CrossEncoder, collection: Collection) -> System:
    """The best hundred of another system, in the order of a cross-encoder."""
    text_of = dict(zip(collection.ids, collection.texts, strict=True))

    def search(query: str) -> list[tuple[str, float]]:
        found = [one for one, _ in system.search(query)]
        scores = teacher.score([(query, text_of[one]) for one in found])
        order = np.argsort(-scores, kind="stable")
        return [(found[at], float(scores[at])) for at in order]

    return System(f"cross-encoder over {system.name}", search, system.bytes_per_passage)
