"""How many calls there may be beyond those that queries need: a bucket filled by calls."""

from __future__ import annotations


class Budget:
    """After n calls earned, at most burst + share · n were spent."""

    def __init__(self, share: float, burst: float) -> None:
        """
        Args:
            share: what one call earns.
            burst: the most that is saved up, and what there is at first.
        """
        self._share = share
        self._burst = burst
        self._saved = burst

    def earn(self) -> None:
        """A call that was needed is made."""
        self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Take one extra call; False where there is none."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
