"""What may judge passages for a student: a name, and how pairs are scored by it.

    PATH or hub name      a cross-encoder with one label
    maxsim:MODEL          late interaction of another model, or of any encoder's own token vectors:
                          a wide one teaches a narrow one
    cosine:MODEL          a bi-encoder: one vector a text
    maxsim@LANGUAGE:MODEL, cosine@LANGUAGE:MODEL
                          the same, read with the adapter of a language, where there is one for each
    bm25[:STEMMER]        BM25 over the passages of the tuples; a stemmer's language, or `none`

Alone each of the latter is a worse teacher than a good cross-encoder; averaged they know what each
other does not, and need no training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from colbert_core.text.aliases import lasting_name, locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.device import Precision
from colbert_core.text.encoder import Encoder
from colbert_core.train.bi_encoder import BiEncoder
from colbert_core.train.cross_encoder import PAIR_MAXLEN, CrossEncoder, Pair
from colbert_core.train.mining import Bm25, stemmer
from colbert_core.train.tuple_set import TupleSet
from colbert_core.types import F16, F32

MAXSIM, COSINE, BM25 = "maxsim", "cosine", "bm25"
_WITH_LANGUAGE = (MAXSIM, COSINE)

Encode = Callable[[list[str]], Iterable[F32]]
"""Texts to an array each."""


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
        passage_tokens: of a passage that late interaction and bi-encoders read; None: as many as
            each model reads.
        remember: keep what texts are encoded to, for who asks for each of them often.
        bf16: run a model in bfloat16.

    Raises:
        ModelError: a model cannot be loaded, or gives more than one score.
        InvalidInput: no such stemmer, or more tokens than the model reads.
    """
    kind, language, rest = _parts(name)
    if kind == MAXSIM:
        encoder = _encoder(rest, language, str(device), passage_tokens, bf16)
        return EncodingTeacher(encoder.encode_queries, _passages_by(encoder), _maxsim, remember)
    if kind == COSINE:
        single = _bi_encoder(rest, language, device, passage_tokens, bf16)
        return EncodingTeacher(single.queries, single.passages, _dot, remember)
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
    elif kind == COSINE:
        single = _bi_encoder(rest, language, torch.device("cpu"), passage_tokens, bf16)
        facts = [kind, single.identity, *(["bf16"] if bf16 else [])]
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


def _bi_encoder(
    model: str, language: str | None, device: torch.device, passage_tokens: int | None, bf16: bool
) -> BiEncoder:
    dtype = torch.bfloat16 if bf16 else torch.float32
    return BiEncoder(model, language, device=device, dtype=dtype, passage_tokens=passage_tokens)


def resolved(name: str) -> str:
    """The same teacher's name from any working directory."""
    if _parts(name)[0] not in _WITH_LANGUAGE:
        return lasting_name(name)
    head, _, model = name.partition(":")
    return f"{head}:{lasting_name(model)}"


def _parts(name: str) -> tuple[str, str | None, str]:
    """Kind, language and the rest of a teacher's name; only models that encode have a language."""
    head, _, rest = name.partition(":")
    kind, _, language = head.partition("@")
    return (kind, language or None, rest) if kind in _WITH_LANGUAGE else (head, None, rest)


class EncodingTeacher:
    """Encodes queries and passages apart, and compares what each became.

    Args:
        compare: the score of a query's array and a passage's.
        remember: keep what texts are encoded to (as float16), for who asks for each of them often.
    """

    def __init__(
        self,
        encode_queries: Encode,
        encode_passages: Encode,
        compare: Callable[[F32, F32], float],
        remember: bool = False,
    ) -> None:
        self._encode_queries, self._encode_passages = encode_queries, encode_passages
        self._compare = compare
        self._remember = remember
        self._queries: dict[str, F16] = {}
        self._passages: dict[str, F16] = {}

    def score(self, pairs: Sequence[Pair]) -> F32:
        """See `Teacher`; every text is encoded once, or once for all calls where it is
        remembered."""
        queries = self._encoded(self._queries, [query for query, _ in pairs], self._encode_queries)
        passages = self._encoded(self._passages, [text for _, text in pairs], self._encode_passages)
        scores = [self._compare(queries[query], passages[passage]) for query, passage in pairs]
        return np.array(scores, np.float32)

    def _encoded(
        self,
        known: dict[str, F16],
        texts: Sequence[str],
        encode: Encode,
    ) -> dict[str, F32]:
        """The array of each text; those that are not known yet are encoded together."""
        wanted = dict.fromkeys(texts)
        missing = [text for text in wanted if text not in known]
        new = dict(zip(missing, encode(missing), strict=True)) if missing else {}
        if self._remember:
            known |= {text: vectors.astype(np.float16) for text, vectors in new.items()}
        return {
            text: known[text].astype(np.float32) if text in known else new[text] for text in wanted
        }


def _passages_by(encoder: Encoder) -> Encode:
    def encode(texts: list[str]) -> Iterable[F32]:
        encoded = encoder.encode_passages(texts)
        return np.split(encoded.vectors_TD, np.cumsum(encoded.doclens_N)[:-1])

    return encode


def _maxsim(Q_LD: F32, X_TD: F32) -> float:
    return float((Q_LD @ X_TD.T).max(1).sum()) if len(X_TD) else 0.0


def _dot(query_H: F32, passage_H: F32) -> float:
    return float(query_H @ passage_H)


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
