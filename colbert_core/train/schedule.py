"""The arithmetic of a run: which tuples a step takes, and its learning rate. Pure functions.

Every worker computes the same, from the seed and the step alone, so that a run that is resumed, or
has another number of workers, goes on with the tuples that it would have taken.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from colbert_core.errors import InvalidInput
from colbert_core.types import I64


def batch_ordinals(step: int, *, tuples: int, batch: int, seed: int) -> I64:
    """The ordinals of the tuples of one step, int64 [batch], from 0.

    Each epoch goes through all tuples in an order of its own; those left over at its end, fewer
    than a batch, wait for another epoch.

    Raises:
        InvalidInput: there are fewer tuples than a batch takes.
    """
    per_epoch = tuples // batch
    if per_epoch == 0:
        raise InvalidInput(
            f"batch {batch}: there are only {tuples} tuples; give --batch {tuples} or less"
        )
    epoch, place = divmod(step, per_epoch)
    return _order(tuples, seed, epoch)[place * batch : (place + 1) * batch]


def share(ordinals: I64, part: int, parts: int, rank: int, workers: int) -> I64:
    """What one worker takes of one part of a batch (gradient accumulation): an equal share.

    Parts are cut first, so that a part, whose passages are each other's negatives, is the same
    whatever the number of workers.
    """
    size = len(ordinals) // parts
    own = size // workers
    start = part * size + rank * own
    return ordinals[start : start + own]


def learning_rate(step: int, *, peak: float, steps: int, warmup: int) -> float:
    """Rises to `peak` over `warmup` steps, then falls evenly, to 0 after the last of `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / max(1, steps - warmup)


@lru_cache(maxsize=2)
def _order(tuples: int, seed: int, epoch: int) -> I64:
    return np.random.default_rng([seed, epoch]).permutation(tuples)
