"""One line of a tuple file, as JSON gives it, becomes a `Record`: a query, its passages, scores.

    [qid, [pid, score], …]   or   [qid, pid, …]                            ColBERT
    {"query": text, "documents": [text, …], "scores": [number, …]}         PyLate, texts inside
    {"query_id": qid, "document_ids": [pid, …], "scores": [number, …]}     PyLate, texts elsewhere

The first passage is the positive one, in every format. Scores are a teacher's; without them (the
second form of ColBERT's, or no `scores`) the order is the only label there is. A record is refused
where a number is not finite, where the scores of one tuple are all the same (a teacher that says
nothing), or where a passage stands in it twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from colbert_core.errors import TrainingDataError
from colbert_core.text.corpus_records import Place, shown_id


@dataclass(frozen=True, slots=True)
class Record:
    """One training tuple.

    Attributes:
        query: its id, or its text where `inline`.
        passages: their ids, or their texts; the first is the positive one.
        scores: a teacher's, one for each passage, or None.
        inline: whether the record holds texts rather than ids.
    """

    query: str
    passages: tuple[str, ...]
    scores: tuple[float, ...] | None
    inline: bool

    def first(self, n_way: int) -> Record:
        """The same with its first `n_way` passages."""
        scores = self.scores and self.scores[:n_way]
        return Record(self.query, self.passages[:n_way], scores, self.inline)


def record_from_json(value: object, place: Place) -> Record:
    """Make a record of one line.

    Raises:
        TrainingDataError: it is none of the formats, or its values cannot be trained on; names the
            place, the query and the passage.
    """
    if isinstance(value, list):
        record = _from_list(value, place)
    elif isinstance(value, dict) and "query" in value and "documents" in value:
        record = _from_object(value, "query", "documents", place)
    elif isinstance(value, dict) and "query_id" in value and "document_ids" in value:
        record = _from_object(value, "query_id", "document_ids", place)
    else:
        raise TrainingDataError(
            f"{place}: this is no training tuple; write [qid, [pid, score], …], or an object with "
            "`query`, `documents` and `scores`"
        )
    _check_passages(record, place)
    return record


def check_scores(record: Record, place: Place) -> None:
    """Refuse scores from which nothing can be learnt.

    Raises:
        TrainingDataError: a score is NaN or infinite, or all of them are the same.
    """
    scores = record.scores
    if scores is None:
        return
    for passage, score in zip(record.passages, scores, strict=True):
        if not math.isfinite(score):
            raise TrainingDataError(
                f"{place}: query {shown_id(record.query)} gives passage {shown_id(passage)} the "
                f"score {score}; score it again, or leave the line out"
            )
    if len(scores) > 1 and min(scores) == max(scores):
        raise TrainingDataError(
            f"{place}: query {shown_id(record.query)} gives all {len(scores)} passages the score "
            f"{scores[0]:g}, from which nothing can be learnt; leave the line out, or check the "
            "teacher"
        )


def _from_list(value: list[Any], place: Place) -> Record:
    query, *rest = value or [None]
    pairs = [entry for entry in rest if isinstance(entry, list)]
    if not pairs:
        return Record(_id(query, place), tuple(_id(entry, place) for entry in rest), None, False)
    for entry in rest:
        if not isinstance(entry, list) or len(entry) != 2:
            raise TrainingDataError(
                f"{place}: {entry!r} is no [pid, score] beside others that are; give every passage "
                "a score, or none"
            )
    passages = tuple(_id(passage, place) for passage, _ in pairs)
    scores = tuple(_score(score, place) for _, score in pairs)
    return Record(_id(query, place), passages, scores, False)


def _from_object(value: dict[str, Any], query: str, documents: str, place: Place) -> Record:
    inline = query == "query"
    one = _text if inline else _id
    passages, scores = value[documents], value.get("scores")
    if not isinstance(passages, list) or not (scores is None or isinstance(scores, list)):
        raise TrainingDataError(f"{place}: `{documents}` and `scores` are lists; write them so")
    if scores is not None and len(scores) != len(passages):
        raise TrainingDataError(
            f"{place}: {len(scores)} scores for {len(passages)} passages; give every passage one"
        )
    return Record(
        one(value[query], place),
        tuple(one(passage, place) for passage in passages),
        None if scores is None else tuple(_score(score, place) for score in scores),
        inline,
    )


def _check_passages(record: Record, place: Place) -> None:
    if len(record.passages) < 2:
        raise TrainingDataError(
            f"{place}: query {shown_id(record.query)} has {len(record.passages)} passages; a "
            "tuple needs a positive one and at least one other"
        )
    if len(set(record.passages)) < len(record.passages):
        twice = next(one for one in record.passages if record.passages.count(one) > 1)
        raise TrainingDataError(
            f"{place}: query {shown_id(record.query)} has passage {shown_id(twice)} twice; keep "
            "it once"
        )


def _id(value: object, place: Place) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value:
        return value
    raise TrainingDataError(f"{place}: {value!r} is no id; ids are strings or whole numbers")


def _text(value: object, place: Place) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise TrainingDataError(f"{place}: {value!r} is no text of a query or passage")


def _score(value: object, place: Place) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value is None or (isinstance(value, str) and value.lower() == "nan"):
        return math.nan  # how JSON writers put it; refused where scores are checked
    raise TrainingDataError(f"{place}: {value!r} is no score; scores are numbers")


def as_json(record: Record) -> Sequence[Any] | dict[str, Any]:
    """What `record_from_json` reads back: ids in ColBERT's format, texts in PyLate's."""
    if not record.inline:
        if record.scores is None:
            return [record.query, *record.passages]
        return [record.query, *map(list, zip(record.passages, record.scores, strict=True))]
    value: dict[str, Any] = {"query": record.query, "documents": list(record.passages)}
    if record.scores is not None:
        value["scores"] = list(record.scores)
    return value
