"""Which replica to ask: of two that are drawn, the one with fewer calls under way.

Looking at two is enough to keep the longest queue short, and unlike asking the least busy of all it
does not send every gateway to the same replica at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def power_of_two(outstanding: Sequence[int], draw: Callable[[int], int]) -> int | None:
    """The replica to ask.

    Args:
        outstanding: calls under way on each.
        draw: a whole number in 0…n-1, each as likely, for n.

    Returns:
        An index into `outstanding`, or None where it is empty.
    """
    count = len(outstanding)
    if count < 2:
        return 0 if count else None
    first, second = draw(count), draw(count - 1)
    second += second >= first  # any but the first
    return first if outstanding[first] <= outstanding[second] else second
