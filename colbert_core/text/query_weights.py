"""What each token of a query counts for: a number for every id of the vocabulary.

    query_weights.npy    beside the other files of a checkpoint: float16 [V], above 0

MaxSim sums the best matches of all query tokens alike, those of "the" as much as those of
"flutter". A checkpoint that has this file says what they count for instead, by multiplying the
vectors of its queries (arXiv 2511.16106). Passages stay of unit length, so that an index and every
engine that takes query vectors score by the weights without knowing of them.

Legend: V ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colbert_core.errors import ModelError
from colbert_core.text.checkpoint import QUERY_WEIGHTS
from colbert_core.text.tokens import TextTokenizer
from colbert_core.types import F32

MOST = 100.0  # far above what an IDF gives, and far below what an index takes
_AT_ONCE = 1000
_COMMON = 0.05  # the IDF of what nearly every text has


def read_query_weights(folder: Path, vocabulary: int) -> F32 | None:
    """float32 [V], or None where a checkpoint has none.

    Raises:
        ModelError: the file cannot be read, is of another vocabulary, or holds what is no weight.
    """
    path = folder / QUERY_WEIGHTS
    if not path.is_file():
        return None
    try:
        weights_V = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read as an array: {error}") from error
    if weights_V.dtype != np.float16 or weights_V.shape != (vocabulary,):
        raise ModelError(
            f"{path} is {weights_V.dtype} {weights_V.shape}; one float16 for each of the "
            f"{vocabulary:,} ids of the vocabulary is needed"
        )
    wrong = np.flatnonzero(~((weights_V > 0) & (weights_V <= MOST)))
    if len(wrong):
        raise ModelError(
            f"{path}: the weight of id {wrong[0]} is {weights_V[wrong[0]]}; give numbers above 0, "
            f"up to {MOST:g}"
        )
    own_V: F32 = weights_V.astype(np.float32)
    return own_V


def write_query_weights(folder: Path, weights_V: F32) -> None:
    """Write the file, in place."""
    smallest = np.finfo(np.float16).tiny
    np.save(folder / QUERY_WEIGHTS, weights_V.clip(smallest, MOST).astype(np.float16))


def idf_weights(tokenizer: TextTokenizer, passages: Sequence[str], queries: Sequence[str]) -> F32:
    """Square roots of inverse document frequencies, float32 [V].

    Special tokens ([CLS], [UNK] and their like, markers, expansion) have weight 1, which is also
    the mean of the others over the tokens of `queries`.
    """
    found_V = np.zeros(tokenizer.vocabulary, np.int64)
    for start in range(0, len(passages), _AT_ONCE):
        for tokens in tokenizer.passages(passages[start : start + _AT_ONCE]):
            found_V[np.unique(tokens.ids)] += 1
    idf_V = np.log((len(passages) + 1) / (found_V + 0.5)).clip(_COMMON)
    weights_V: F32 = np.sqrt(idf_V).astype(np.float32)
    added = tokenizer.added_ids
    asked = [one for tokens in tokenizer.queries(queries) for one in tokens.ids]
    told = np.setdiff1d(np.unique(asked), added)
    counts_V = np.bincount(asked, minlength=len(weights_V))
    if len(told):
        weights_V /= np.average(weights_V[told], weights=counts_V[told])
    weights_V[added] = 1.0
    return weights_V
