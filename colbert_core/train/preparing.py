"""Tuple files, checked whole and written as a `TupleSet`, before any work begins.

    tuples = prepare_tuples(folder, ["tuples.jsonl"], corpus="corpus.jsonl", queries="queries.tsv")

One pass over the texts and one over the tuples. Whatever cannot be trained on is refused here, by
file, line and id, so that nothing fails in the middle of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from colbert_core.errors import InvalidInput, TrainingDataError
from colbert_core.text.corpus import Corpus, corpus_files, read_corpus
from colbert_core.text.corpus_records import Place, shown_id
from colbert_core.train.records import Record, check_scores
from colbert_core.train.text_store import TextStore, TextWriter
from colbert_core.train.tuple_set import TupleSet
from colbert_core.train.tuples import read_records

FORMAT = 1
_ROWS_AT_ONCE = 4096
Paths = Sequence[str | os.PathLike[str]]


def prepare_tuples(
    folder: Path,
    tuples: Paths,
    *,
    corpus: Corpus | None = None,
    queries: Corpus | None = None,
    n_way: int | None = None,
) -> TupleSet:
    """Read and check tuple files, and write them so that they can be read by ordinal.

    What was prepared before from the same files with the same settings is used again.

    Args:
        folder: where to write; all workers must see it.
        tuples: files in the formats of `records.py`, read one after the other.
        corpus, queries: where ids are looked up; not needed for tuples that hold texts. Queries
            are read as a corpus is: JSON lines (`_id`, `text`), TSV (id, text) or Parquet.
        n_way: use the first so many passages of each tuple; by default all, which must then be
            equally many.

    Raises:
        TrainingDataError: a tuple cannot be trained on; names file, line and id.
        CorpusError: a file of the corpus or the queries cannot be read.
        InvalidInput: `n_way` is below 2.
    """
    if n_way is not None and n_way < 2:
        raise InvalidInput(f"n-way {n_way}: a tuple has a positive passage and at least one other")
    files = [Path(path) for path in tuples]
    inputs = _inputs(files, corpus, queries, n_way)
    about = folder / "about.json"
    if about.is_file() and json.loads(about.read_text(encoding="utf-8")).get("inputs") == inputs:
        return TupleSet(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)
    summary = {"format": FORMAT, "inputs": inputs, **_write(folder, files, corpus, queries, n_way)}
    temporary = folder / ".about.json.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(about)
    return TupleSet(folder)


def _inputs(
    files: list[Path], corpus: Corpus | None, queries: Corpus | None, n_way: int | None
) -> list[Any]:
    """What tells whether the same is asked for again: names, sizes and times of change."""
    seen: list[Any] = [n_way]
    texts = [file for one in (corpus, queries) if one is not None for file in corpus_files(one)]
    for file in [*files, *texts]:
        if not isinstance(file, Path):
            seen.append(str(file))
            continue
        try:
            state = file.stat()
        except OSError as error:
            raise TrainingDataError(
                f"{file}: it cannot be read ({error.strerror}); check the path"
            ) from error
        seen.append([str(file.resolve()), state.st_size, state.st_mtime_ns])
    return seen


def _write(
    folder: Path,
    files: list[Path],
    corpus: Corpus | None,
    queries: Corpus | None,
    n_way: int | None,
) -> dict[str, Any]:
    """Write texts and tuples; returns what is to be known of them."""
    first = next(_records(files), None)
    if first is None:
        raise TrainingDataError(f"{', '.join(map(str, files))}: there is no tuple in it")
    model, place = first
    width = n_way or len(model.passages)
    if model.inline:
        texts: list[_Rows] = [_TextRows(folder / "queries"), _TextRows(folder / "texts")]
    else:
        texts = [
            _IdRows(folder / "queries", "query", queries, place),
            _IdRows(folder / "texts", "passage", corpus, place),
        ]
    digest = hashlib.sha256()
    with (
        (folder / "queries.bin").open("wb") as query_rows,
        (folder / "passages.bin").open("wb") as passage_rows,
        (folder / "scores.bin").open("wb") as scores,
    ):
        for block in _blocks(files, model, width, texts):
            for file, values in zip((query_rows, passage_rows, scores), block, strict=True):
                file.write(values.tobytes())
                digest.update(values.tobytes())
    for one in texts:
        digest.update(one.close().encode())
    return {
        "n_way": width,
        "scored": model.scores is not None,
        "inline": model.inline,
        "sha256": digest.hexdigest(),
    }


def _records(files: list[Path]) -> Iterator[tuple[Record, Place]]:
    return (one for file in files for one in read_records(file))


def _blocks(
    files: list[Path], model: Record, width: int, texts: list[_Rows]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of queries int64 [N], of passages int64 [N, W] and scores float32 [N, W]; without
    scores, zeros."""
    queries, passages = texts
    names: list[int] = []
    rows: list[list[int]] = []
    scores: list[tuple[float, ...]] = []

    def block() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        made = (
            np.array(names, np.int64),
            np.array(rows, np.int64).reshape(-1, width),
            np.array(scores, np.float32).reshape(-1, width),
        )
        for part in (names, rows, scores):
            part.clear()
        return made

    for whole, place in _records(files):
        record = _checked(whole, place, model, width)
        names.append(queries.row(record.query, place))
        rows.append([passages.row(passage, place) for passage in record.passages])
        scores.append(record.scores or (0.0,) * width)
        if len(names) == _ROWS_AT_ONCE:
            yield block()
    yield block()


def _checked(record: Record, place: Place, model: Record, width: int) -> Record:
    """The first `width` passages of a record, if it is like the first of all."""
    query = f"{place}: query {shown_id(record.query)}"
    if record.inline != model.inline:
        raise TrainingDataError(
            f"{place}: texts and ids are mixed; keep tuples that hold texts and tuples that hold "
            "ids apart, and train on one kind"
        )
    if (record.scores is None) != (model.scores is None):
        which = "scores, and others have none" if model.scores is None else "none, and others have"
        raise TrainingDataError(f"{query} has {which}; score all of them (`tartan train score`)")
    if len(record.passages) < width:
        raise TrainingDataError(
            f"{query} has {len(record.passages)} passages where {width} are expected; give "
            f"--n-way {len(record.passages)} or less, or mine more"
        )
    record = record.first(width)
    check_scores(record, place)
    return record


class _Rows(Protocol):
    """From what a tuple names to the row of its text."""

    def row(self, name: str, place: Place) -> int: ...
    def close(self) -> str: ...


class _TextRows:
    """Texts that stand in the tuples: each is written as it comes."""

    def __init__(self, folder: Path) -> None:
        self._writer = TextWriter(folder)

    def row(self, name: str, place: Place) -> int:  # noqa: ARG002
        return self._writer.append(name)

    def close(self) -> str:
        return self._writer.close()


class _IdRows:
    """Texts that stand in files of their own, written first and then looked up by id."""

    def __init__(self, folder: Path, noun: str, source: Corpus | None, place: Place) -> None:
        option = "--corpus" if noun == "passage" else "--queries"
        if source is None:
            raise TrainingDataError(
                f"{place}: the tuples name a {noun} by its id; give {option} with the texts"
            )
        writer = TextWriter(folder)
        for document in read_corpus(source):
            writer.append(document.passage.text, document.passage.id)
        self._digest = writer.close()
        self._store = TextStore(folder)
        self._missing = f"is not in {option} {source}"
        self._noun = noun

    def row(self, name: str, place: Place) -> int:
        found = self._store.row(name)
        if found is None:
            raise TrainingDataError(
                f"{place}: {self._noun} {shown_id(name)} {self._missing}, which has "
                f"{len(self._store):,} texts; give the one that the tuples were made from"
            )
        return found

    def close(self) -> str:
        return self._digest
