"""Hard negatives: passages that a search ranks high and that are not known to be relevant.

    rankings → a window of ranks → less the positives → less what the teacher finds as good
             → n - 1 drawn by a seed → [qid, positive, negative, …]

Pure functions but for `Bm25`. Where negatives come from (`bm25`, an index) is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colbert_core.errors import InvalidInput
from colbert_core.types import F32


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningSettings:
    """Which negatives are taken.

    Attributes:
        n_way: passages of a tuple, the positive one included.
        first, last: ranks that negatives are drawn from, from 1, both included.
        margin: a negative's teacher score is at least so far below the positive's; None: no
            teacher was asked.
        seed: of the draw.
    """

    n_way: int = 16
    first: int = 1
    last: int = 100
    margin: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be mined.

        Raises:
            InvalidInput: a value is out of range, or the window is too narrow.
        """
        if self.n_way < 2:
            raise InvalidInput(f"n-way {self.n_way}: a positive passage and at least one other")
        if not 1 <= self.first <= self.last:
            raise InvalidInput(f"ranks {self.first}:{self.last}: from 1, and not falling")
        if self.last - self.first + 1 < self.n_way - 1:
            raise InvalidInput(
                f"ranks {self.first}:{self.last} hold {self.last - self.first + 1} passages, fewer "
                f"than the {self.n_way - 1} negatives of --n-way {self.n_way}: widen --ranks"
            )
        if self.margin is not None and not np.isfinite(self.margin):
            raise InvalidInput(f"margin {self.margin}: a finite number is needed")


def candidates(
    rankings: Iterable[Sequence[str]], positives: set[str], settings: MiningSettings
) -> list[str]:
    """The passages in the window of any ranking, best ranks first, without the positives."""
    windows = [ranking[settings.first - 1 : settings.last] for ranking in rankings]
    longest = max((len(window) for window in windows), default=0)
    ranked = [window[at] for at in range(longest) for window in windows if at < len(window)]
    return [one for one in dict.fromkeys(ranked) if one not in positives]


def without_false(
    found: Sequence[str], positive_score: float, scores: F32, margin: float
) -> list[str]:
    """Those that the teacher scores at least `margin` below the positive passage."""
    return [
        one for one, score in zip(found, scores, strict=True) if score <= positive_score - margin
    ]


def draw(found: Sequence[str], settings: MiningSettings, number: int) -> list[str] | None:
    """`n_way` - 1 of the candidates, in their order; None where there are too few.

    The draw depends on the seed and on `number`, the tuple's, alone.
    """
    wanted = settings.n_way - 1
    if len(found) < wanted:
        return None
    chosen = np.random.default_rng([settings.seed, number]).choice(
        len(found), wanted, replace=False
    )
    return [found[at] for at in sorted(chosen.tolist())]


class Bm25:
    """BM25 over a corpus in memory: k1 .9, b .4, English stemming where the language is English.

    Args:
        texts: of the passages.
        ids: theirs.
        language: a Snowball stemmer's name, or None for no stemming and no stop words.
    """

    def __init__(self, texts: Sequence[str], ids: Sequence[str], language: str | None) -> None:
        import bm25s

        self._ids = list(ids)
        self._stemmer = stemmer(language)
        self._stopwords = language if language == "english" else []
        self._bm25 = bm25s.BM25(k1=0.9, b=0.4)
        self._bm25.index(self._tokens(texts), show_progress=False)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Bytes of its postings: for each a score, a passage, and where a word's begin."""
        arrays = (self._bm25.scores[name] for name in ("data", "indices", "indptr"))
        return sum(array.nbytes for array in arrays)

    def search(self, queries: Sequence[str], depth: int) -> list[list[str]]:
        """The ids of the best `depth` passages of each query that share a word with it."""
        return [[one for one, _ in self.scored(query, depth)] for query in queries]

    def scored(self, query: str, depth: int) -> list[tuple[str, float]]:
        """The same of one query, with scores."""
        found, scores = self._bm25.retrieve(
            self._tokens([query]), k=min(depth, len(self._ids)), show_progress=False
        )
        pairs = zip(found[0], scores[0], strict=True)
        return [(self._ids[at], float(score)) for at, score in pairs if score > 0]

    def scores(self, query: str) -> F32:
        """float32 [N]: of every passage, 0 where none of the words is in it."""
        tokens = self._tokens([query])
        words = {number: word for word, number in tokens.vocab.items()}
        named = [words[number] for number in tokens.ids[0]]
        if not named:
            return np.zeros(len(self._ids), np.float32)
        scores_N: F32 = self._bm25.get_scores(named)
        return scores_N

    def _tokens(self, texts: Sequence[str]) -> Any:
        import bm25s

        return bm25s.tokenize(
            list(texts), stopwords=self._stopwords, stemmer=self._stemmer, show_progress=False
        )


def stemmer(language: str | None) -> Any:
    """A Snowball stemmer, or None for none.

    Raises:
        InvalidInput: there is none for the language.
    """
    if language is None:
        return None
    import Stemmer

    if language not in Stemmer.algorithms():
        raise InvalidInput(
            f"language {language!r} has no stemmer; give one of "
            f"{', '.join(sorted(Stemmer.algorithms()))}, or none"
        )
    return Stemmer.Stemmer(language)
