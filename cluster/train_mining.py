"""Hard negatives for judged pairs, from an index and from BM25.

    judgements ─ rank each query ─ window, positives, teacher ─ draw ─ tuples without scores

One process. Rankings are asked for a few queries at a time; a tuple is written for each relevant
pair, the positive passage first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.beir import read_qrels
from cluster.progress import Progress
from cluster.train_ranking import Rank, rankings, stored_texts
from colbert_core.errors import InvalidInput, TrainingDataError
from colbert_core.text.corpus import Corpus
from colbert_core.text.corpus_records import shown_id
from colbert_core.train.cross_encoder import CrossEncoder
from colbert_core.train.mining import MiningSettings, candidates, draw, without_false
from colbert_core.train.records import Record
from colbert_core.train.text_store import TextStore
from colbert_core.train.tuples import TupleWriter

QUERIES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class MineReport:
    """What was mined: tuples written, and pairs with too few negatives, which were left out."""

    tuples: int
    left_out: int


def mine(
    qrels: Path,
    out: Path,
    *,
    corpus: Corpus,
    queries: Corpus,
    index: str | None,
    bm25: bool,
    language: str | None,
    teacher: str | None,
    settings: MiningSettings,
    progress: Progress,
) -> MineReport:
    """Write a tuple for each relevant pair of `qrels` (TSV: query-id, corpus-id, score).

    Args:
        index: of the same corpus; its search gives one ranking.
        bm25: gives another; `language` names its stemmer.
        teacher: a cross-encoder for `settings.margin`.

    Raises:
        TrainingDataError, CorpusError: a file cannot be read, or an id is in no text.
        InvalidInput: a setting is out of range, or there is no source of negatives.
        ModelError: the teacher cannot be used.
    """
    settings.check()
    if index is None and not bm25:
        raise InvalidInput("no source of negatives: give --index INDEX, --bm25, or both")
    if (teacher is None) != (settings.margin is None):
        raise InvalidInput("--teacher and --margin belong together: give both, or neither")
    judge = None if teacher is None else CrossEncoder.load(teacher, _device())
    with tempfile.TemporaryDirectory(prefix="tartan-mine-") as folder:
        passages = stored_texts(Path(folder) / "passages", corpus)
        asked = stored_texts(Path(folder) / "queries", queries)
        pairs = _pairs(qrels, asked, passages)
        ranks = rankings(passages, index=index, bm25=bm25, language=language)
        progress.start("mine", len(pairs), "queries")
        written = left_out = 0
        with TupleWriter(out) as writer:
            for query, positives, found in _found(pairs, asked, ranks, settings, progress):
                for positive in positives:
                    fitting = _fitting(query, positive, found, asked, passages, judge, settings)
                    drawn = draw(fitting, settings, written + left_out)
                    if drawn is None:
                        left_out += 1
                        continue
                    writer.write(Record(query, (positive, *drawn), None, inline=False))
                    written += 1
            if not written:
                raise TrainingDataError(
                    f"{qrels}: no pair has {settings.n_way - 1} negatives in ranks "
                    f"{settings.first} to {settings.last}; widen --ranks, or lower --n-way or "
                    "--margin"
                )
        progress.finish()
    return MineReport(written, left_out)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _pairs(qrels: Path, queries: TextStore, passages: TextStore) -> dict[str, list[str]]:
    """The relevant passages of each query, both known to have texts."""
    pairs: dict[str, list[str]] = {}
    for query, judged in read_qrels(qrels).items():
        if queries.row(query) is None:
            raise TrainingDataError(
                f"{qrels}: query {shown_id(query)} is not in --queries; give the file that the "
                "judgements were made for"
            )
        for passage, relevance in judged.items():
            if relevance <= 0:
                continue
            if passages.row(passage) is None:
                raise TrainingDataError(
                    f"{qrels}: passage {shown_id(passage)} of query {shown_id(query)} is not in "
                    "--corpus; give the corpus that the judgements were made for"
                )
            pairs.setdefault(query, []).append(passage)
    if not pairs:
        raise TrainingDataError(f"{qrels}: it judges nothing relevant")
    return pairs


def _found(
    pairs: dict[str, list[str]],
    asked: TextStore,
    ranks: Sequence[Rank],
    settings: MiningSettings,
    progress: Progress,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each query with its positives and its candidates."""
    listed = list(pairs.items())
    for start in range(0, len(listed), QUERIES_AT_ONCE):
        some = listed[start : start + QUERIES_AT_ONCE]
        texts = [_text(asked, query) for query, _ in some]
        rankings = [rank(texts, settings.last) for rank in ranks]
        for at, (query, positives) in enumerate(some):
            each = [ranking[at] for ranking in rankings]
            yield query, positives, candidates(each, set(positives), settings)
        progress.advance(len(some))


def _fitting(
    query: str,
    positive: str,
    found: list[str],
    asked: TextStore,
    passages: TextStore,
    judge: CrossEncoder | None,
    settings: MiningSettings,
) -> list[str]:
    """The candidates without those that the teacher finds as good as the positive passage."""
    if judge is None or settings.margin is None:
        return found
    text = _text(asked, query)
    scores = judge.score([(text, _text(passages, one)) for one in (positive, *found)])
    return without_false(found, float(scores[0]), scores[1:], settings.margin)


def _text(store: TextStore, name: str) -> str:
    row = store.row(name)
    assert row is not None, "ids were looked up before"
    return store.text(row)
