"""The best of many by (score descending, id ascending), through keys that are never equal."""

from __future__ import annotations

import torch

LARGEST_ID = 0xFFFFFFFF
NOTHING = -(2**63)
"""The key of no candidate at all: below every other."""


def integer_keys(totals: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """int64 keys of int32 totals: a larger key is a higher total or, at equal ones, a smaller id.

    `topk` says nothing of the order of equal values; among these there are none.
    """
    return (totals.long() << 32) | (LARGEST_ID - ids.long())


def float_keys(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """As `integer_keys`, of float32 scores: the bits of a float, those of a negative one turned,
    are ordered as the floats are. Adding 0 makes -0 a 0."""
    bits = (scores + 0.0).view(torch.int32)
    return integer_keys(bits ^ ((bits >> 31) & 0x7FFFFFFF), ids)


def best_pairs(
    pids_BK: torch.Tensor, scores_BK: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of every row, best first; passage -1 is none and comes last."""
    keys_BK = float_keys(scores_BK, pids_BK).masked_fill_(pids_BK < 0, NOTHING)
    order_BK = keys_BK.topk(min(k, keys_BK.shape[1]), dim=1).indices
    return pids_BK.gather(1, order_BK), scores_BK.gather(1, order_BK)
