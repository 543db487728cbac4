"""Which texts go through the network together: alike in length, and at most so many tokens."""

from __future__ import annotations

from collections.abc import Sequence

# A row that is this much shorter than the longest of its batch starts a batch of its own,
# once the batch is large enough to keep the processor busy.
_WORTH_SPLITTING = 0.9


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group texts by length, longest first.

    Args:
        lengths: tokens of each text.
        token_budget: most tokens of a batch, padding included; a single text may exceed it.

    Returns:
        Lists of indices into `lengths`; every index is in exactly one. The same lengths always
        give the same batches, so that vectors are the same from run to run.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        if batches and _fits(len(batches[-1]), longest, lengths[index], token_budget):
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches


def _fits(rows: int, longest: int, length: int, token_budget: int) -> bool:
    if (rows + 1) * longest > token_budget:
        return False
    return length >= _WORTH_SPLITTING * longest or rows * longest < token_budget // 4
