"""What may judge passages for a student: a name, and how pairs are scored by it.

    PATH or hub name      a cross-encoder with one label
    maxsim:MODEL          late interaction of another model, or of any encoder's own token vectors:
                          a wide one teaches a narrow one
    maxsim@LANGUAGE:MODEL the same, read with the adapter of a language, where there is one for each
    bm25[:STEMMER]        BM25 over the passages of the tuples; a stemmer's language, or `none`

Alone BM25 or token vectors are worse teachers than a good cross-encoder; averaged they know what
each other does not, and need no training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from colbert_core.text.aliases import lasting_name, locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.device import Precision
from colbert_core.text.encoder import Encoder
from colbert_core.train.cross_encoder import PAIR_MAXLEN, CrossEncoder, Pair
from colbert_core.train.mining import Bm25, stemmer
from colbert_core.train.tuple_set import TupleSet
from colbert_core.types import F16, F32

MAXSIM, BM25 = "maxsim", "bm25"


class Teacher(Protocol):
    """Scores pairs of a query and a passage."""

    def score(self, pairs: Sequence[Pair]) -> F32:
        """float32 [pairs], in their order; the higher, the more relevant."""


def load_teacher(
    name: str,
    tuples: TupleSet,
    device: torch.device,
    passage_tokens: int | None = None,
    *,
    remember: bool = False,
    bf16: bool = False,
) -> Teacher:
    """The teacher of a name.

    Args:
        tuples: whose passages BM25 counts words in.
        passage_tokens: of a passage that late interaction reads; None: its own length.
        remember: keep what texts are encoded to, for who asks for each of them often.
        bf16: run a model in bfloat16.

    Raises:
        ModelError: a model cannot be loaded, or gives more than one score.
        InvalidInput: no such stemmer, or more tokens than the model reads.
    """
    kind, language, rest = _parts(name)
    if kind == MAXSIM:
        encoder = _encoder(rest, language, str(device), passage_tokens, bf16)
        return MaxSimTeacher(encoder, remember=remember)
    if kind == BM25:
        return Bm25Teacher(tuples.passages(), rest)
    return CrossEncoder.load(name, device, bf16=bf16)


def teacher_sha256(name: str, passage_tokens: int | None = None, *, bf16: bool = False) -> str:
    """Of what decides about its scores, but for the tuples. A model is loaded once, so that a wrong
    one is refused before the work.

    Raises:
        As `load_teacher`.
    """
    kind, language, rest = _parts(name)
    if kind == BM25:
        stemmer(_language(rest))
        facts: object = name
    elif kind == MAXSIM:
        identity = _encoder(rest, language, "cpu", passage_tokens, bf16).identity
        facts = [kind, replace(identity, source="").to_dict(), *(["bf16"] if bf16 else [])]
    else:
        CrossEncoder.load(name, torch.device("cpu"))
        facts = [PAIR_MAXLEN, read_checkpoint(locate(name)).sha256(), *(["bf16"] if bf16 else [])]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _encoder(
    model: str, language: str | None, device: str, passage_tokens: int | None, bf16: bool
) -> Encoder:
    precision: Precision = "bfloat16" if bf16 else "float32"
    return Encoder.load(
        model, device=device, precision=precision, doc_maxlen=passage_tokens, language=language
    )


def resolved(name: str) -> str:
    """The same teacher's name from any working directory."""
    if _parts(name)[0] != MAXSIM:
        return lasting_name(name)
    head, _, model = name.partition(":")
    return f"{head}:{lasting_name(model)}"


def _parts(name: str) -> tuple[str, str | None, str]:
    """Kind, language and the rest of a teacher's name; only late interaction has a language."""
    head, _, rest = name.partition(":")
    kind, _, language = head.partition("@")
    return (kind, language or None, rest) if kind == MAXSIM else (head, None, rest)


class MaxSimTeacher:
    """Late interaction: the best of a passage's tokens for each of the query's, summed."""

    def __init__(self, encoder: Encoder, *, remember: bool = False) -> None:
        self._encoder = encoder
        self._remember = remember
        self._queries: dict[str, F16] = {}
        self._passages: dict[str, F16] = {}

    def score(self, pairs: Sequence[Pair]) -> F32:
        """See `Teacher`; every text is encoded once, or once for all calls where it is remembered
        (as float16)."""
        Q_LD = self._encoded(self._queries, [query for query, _ in pairs], self._of_queries)
        X_TD = self._encoded(self._passages, [text for _, text in pairs], self._of_passages)
        scores = [_maxsim(Q_LD[query], X_TD[passage]) for query, passage in pairs]
        return np.array(scores, np.float32)

    def _encoded(
        self,
        known: dict[str, F16],
        texts: Sequence[str],
        encode: Callable[[list[str]], Sequence[F32]],
    ) -> dict[str, F32]:
        """The vectors of each text; those that are not known yet are encoded together."""
        wanted = dict.fromkeys(texts)
        missing = [text for text in wanted if text not in known]
        new = dict(zip(missing, encode(missing), strict=True)) if missing else {}
        if self._remember:
            known |= {text: vectors.astype(np.float16) for text, vectors in new.items()}
        return {
            text: known[text].astype(np.float32) if text in known else new[text] for text in wanted
        }

    def _of_queries(self, texts: list[str]) -> Sequence[F32]:
        return self._encoder.encode_queries(texts)

    def _of_passages(self, texts: list[str]) -> Sequence[F32]:
        encoded = self._encoder.encode_passages(texts)
        return np.split(encoded.vectors_TD, np.cumsum(encoded.doclens_N)[:-1])


def _maxsim(Q_LD: F32, X_TD: F32) -> float:
    return float((Q_LD @ X_TD.T).max(1).sum()) if len(X_TD) else 0.0


class Bm25Teacher:
    """BM25 over these passages, one score for each pair."""

    def __init__(self, passages: Sequence[str], stemming: str) -> None:
        self._row = {text: row for row, text in enumerate(passages)}
        ids = [str(row) for row in range(len(passages))]
        self._bm25 = Bm25(passages, ids, _language(stemming))

    def score(self, pairs: Sequence[Pair]) -> F32:
        """See `Teacher`; the passages must be among those that were given."""
        scores = np.empty(len(pairs), np.float32)
        asked, scores_N = None, np.zeros(0, np.float32)
        for at, (query, passage) in enumerate(pairs):
            if query != asked:  # the pairs of a tuple follow one another
                asked, scores_N = query, self._bm25.scores(query)
            scores[at] = scores_N[self._row[passage]]
        return scores


def _language(stemming: str) -> str | None:
    """Of `bm25:STEMMING`."""
    return None if stemming == "none" else stemming or "english"
