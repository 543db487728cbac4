"""What calls took of late: of a shard the percentile that hedges wait for, of a replica a mean."""

from __future__ import annotations

import math
from collections import deque

KEPT = 256
NEEDED = 32  # below it there is no percentile
RENEW_EVERY = 16


class RecentLatency:
    """A percentile of the last `KEPT` calls, renewed every few of them."""

    def __init__(self, percentile: float) -> None:
        """`percentile` is a share in (0, 1]."""
        self._percentile = percentile
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self._added = 0
        self._value: float | None = None

    def add(self, seconds: float) -> None:
        """Note what a call took that was answered."""
        self._seconds.append(seconds)
        self._added += 1
        if self._added % RENEW_EVERY == 0 and len(self._seconds) >= NEEDED:
            ordered = sorted(self._seconds)
            rank = math.ceil(self._percentile * len(ordered)) - 1
            self._value = ordered[rank]

    @property
    def value(self) -> float | None:
        """Seconds; None while there are too few calls to tell."""
        return self._value


class MeanLatency:
    """A moving mean of one replica's calls."""

    WEIGHT = 0.1

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def add(self, seconds: float) -> None:
        """Note what a call took."""
        self.calls += 1
        weight = max(self.WEIGHT, 1.0 / self.calls)
        self.seconds += weight * (seconds - self.seconds)

    @property
    def known(self) -> bool:
        """Whether there were enough calls to compare it by."""
        return self.calls >= NEEDED
