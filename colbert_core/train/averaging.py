"""One score from several teachers, whose logits have ranges of their own.

Each teacher's scores are brought to mean 0 and deviation 1 over all tuples, averaged, and brought
back to the mean of the teachers' deviations, so that a softmax over them is as sharp as theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.errors import ModelError
from colbert_core.types import F32


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of scores; those of parts add up."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, scores: F32) -> Moments:
        """With more scores."""
        wide = scores.astype(np.float64)
        return Moments(
            self.count + scores.size,
            self.total + float(wide.sum()),
            self.squares + float((wide**2).sum()),
        )

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        return float(np.sqrt(max(0.0, self.squares / self.count - self.mean**2)))


def averaged(scores: Sequence[F32], moments: Sequence[Moments]) -> F32:
    """The average of several teachers' scores of the same pairs, of any shape; one stays as it is.

    Args:
        scores: of each teacher.
        moments: of each teacher, over all pairs of the job.

    Raises:
        ModelError: a teacher gives all pairs the same score.
    """
    for number, one in enumerate(moments):
        if one.deviation <= 1e-6 * max(1.0, abs(one.mean)):
            raise ModelError(
                f"teacher {number + 1} of {len(moments)} gives every pair the score "
                f"{one.mean:g}: it is untrained or damaged; leave it out"
            )
    if len(scores) == 1:
        return scores[0]
    standard = [
        (part - one.mean) / one.deviation for part, one in zip(scores, moments, strict=True)
    ]
    scale = float(np.mean([one.deviation for one in moments]))
    mean: F32 = (np.mean(standard, axis=0) * scale).astype(np.float32)
    return mean
