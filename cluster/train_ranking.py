"""Texts of a corpus on disk, and what ranks them: an index, BM25. Mining and generating ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from colbert_core.api import Index
from colbert_core.errors import TrainingDataError
from colbert_core.text.corpus import Corpus, read_corpus
from colbert_core.text.corpus_records import shown_id
from colbert_core.train.mining import Bm25
from colbert_core.train.text_store import TextStore, TextWriter

Rank = Callable[[Sequence[str], int], list[list[str]]]
"""From queries and a depth to the ids of passages, best first."""


def stored_texts(folder: Path, source: Corpus) -> TextStore:
    """Lay the texts of a corpus out in a folder, by id."""
    writer = TextWriter(folder)
    for document in read_corpus(source):
        writer.append(document.passage.text, document.passage.id)
    writer.close()
    return TextStore(folder)


def rankings(
    passages: TextStore, *, index: str | None, bm25: bool, language: str | None
) -> list[Rank]:
    """What ranks these passages.

    Args:
        index: of the same corpus, or None.
        bm25: whether BM25 does, over all texts in memory; `language` names its stemmer.

    Raises:
        IndexMissing, InvalidInput: there is no such index, or no such stemmer.
    """
    ranks: list[Rank] = []
    if index is not None:
        ranks.append(_index_rank(Index.open(index), passages))
    if bm25:
        rows = range(len(passages))
        texts = [passages.text(row) for row in rows]
        ranks.append(Bm25(texts, [passages.id(row) for row in rows], language).search)
    return ranks


def _index_rank(index: Index, passages: TextStore) -> Rank:
    def rank(queries: Sequence[str], depth: int) -> list[list[str]]:
        found = [[hit.id for hit in index.search(query, k=depth)] for query in queries]
        for one in (one for row in found for one in row):
            if passages.row(one) is None:
                raise TrainingDataError(
                    f"the index has passage {shown_id(one)}, which is not in --corpus; give the "
                    "corpus that it was built from"
                )
        return found

    return rank
