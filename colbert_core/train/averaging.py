"""One score from several teachers, whose logits have ranges of their own.

Each teacher's scores are brought to mean 0, and to deviation 1 within a tuple, averaged, and
brought back to the deviation of the first, so that a softmax over a tuple is about as sharp as it
is by the first. How scores differ from query to query, which no softmax sees, does not weigh:
BM25's and MaxSim's grow with the words of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.errors import ModelError
from colbert_core.types import F32


@dataclass(frozen=True, slots=True)
class Moments:
    """Count and sum of scores, and their squared distances from the mean of their tuple; those of
    parts add up."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, scores_UW: F32) -> Moments:
        """With the scores of more tuples."""
        wide = scores_UW.astype(np.float64)
        within = wide - wide.mean(axis=1, keepdims=True)
        return Moments(
            self.count + wide.size,
            self.total + float(wide.sum()),
            self.squares + float((within**2).sum()),
        )

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        """Within a tuple."""
        return float(np.sqrt(self.squares / self.count))


def averaged(scores: Sequence[F32], moments: Sequence[Moments]) -> F32:
    """The average of several teachers' scores of the same pairs, of any shape; one stays as it is.

    Args:
        scores: of each teacher.
        moments: of each teacher, over all pairs of the job.

    Raises:
        ModelError: a teacher gives all passages of a tuple the same score, in every tuple.
    """
    for number, one in enumerate(moments):
        if one.deviation <= 1e-6 * max(1.0, abs(one.mean)):
            raise ModelError(
                f"teacher {number + 1} of {len(moments)} gives all passages of a tuple the same "
                f"score, {one.mean:g} at the mean: it is untrained or damaged; leave it out"
            )
    if len(scores) == 1:
        return scores[0]
    standard = [
        (part - one.mean) / one.deviation for part, one in zip(scores, moments, strict=True)
    ]
    mean: F32 = (np.mean(standard, axis=0) * moments[0].deviation).astype(np.float32)
    return mean
