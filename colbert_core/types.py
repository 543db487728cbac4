"""The shared nouns: small frozen values that cross files, processes and the wire.

Shape suffixes used in the whole project:
    L  query tokens      D  dimensions of a token vector     K  hits asked for
    T  passage tokens    N  passages                         C  centroids
    P  probed centroids per query token                      B  packed residual bytes per token
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
F16 = npt.NDArray[np.float16]
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]

MAX_QUERY_TOKENS = 1024
MAX_DIM = 1024
MAX_K = 10_000


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage. `text` is what is encoded, stored and shown: title, space, body."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How much work one query does; derived per request, echoed in the answer.

    Attributes:
        k: hits asked for.
        nprobe: centroids probed per query token.
        candidates: the most passages of a shard that centroid interaction compares.
        scored: the most passages of a shard that are scored precisely, the best by centroid
            interaction; 0 where none is, and the centroids alone rank and score the hits.
        exact: score every passage; `nprobe`, `candidates` and `scored` are 0 then.
        margin: candidates whose estimated score lies more than margin · √Σ‖q‖² below the k-th
            best of their shard are not compared (q are the query's tokens: √L of L unit vectors);
            None where all are.
        missed: scoring ends, before `scored`, where it is expected to have missed no more than
            this share of the shard's top k; None where as many as `scored` are.
        spread: by how much precise scores are expected to differ from what centroid interaction
            tells, over √Σ‖q‖², before any passage of the query is scored; 0 where `missed` is None.
    """

    k: int
    nprobe: int
    candidates: int
    scored: int
    exact: bool = False
    margin: float | None = None
    missed: float | None = None
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """One query token and the passage token that it matched best.

    `start` and `end` are the character span in the passage's text, or -1 where the passage token
    stands for no text (a marker), the index stores none, or it was built with pooled tokens: then
    `passage_token_index` counts the passage's pooled vectors.
    """

    query_token: str
    query_index: int
    passage_token_index: int
    score: float
    start: int = -1
    end: int = -1


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage that was found. Hits are ordered by score, then by the order of the corpus.

    `window` are the characters [start, end) of the text that scored so, where a document was too
    long for the model and was split; None where all of it did.
    """

    id: str
    score: float
    text: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    matches: tuple[TokenMatch, ...] = ()
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ShardTopK:
    """What one shard's search gives: ordinals inside the shard and scores, best first.

    Attributes:
        pids_K: int64 [K], passage ordinals within the shard.
        scores_K: float32 [K].
        touched: passages that at least one probed centroid led to.
        scored: passages that were scored exactly.
    """

    pids_K: I64
    scores_K: F32
    touched: int
    scored: int
