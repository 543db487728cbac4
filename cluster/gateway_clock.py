"""What a query has left of its time, and what its stages took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.telemetry.spans import span
from colbert_core.errors import DeadlineExceeded

MOST_RESERVED_S = 1.0


class Clock:
    """Milliseconds by stage, and the deadline that every stage is held to."""

    def __init__(self, deadline: float) -> None:
        """`deadline` is on time.monotonic()."""
        self.deadline = deadline
        self.started = time.monotonic()
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`."""
        started = time.monotonic()
        with span(name):
            yield
        self.add(name, started)

    def add(self, name: str, since: float) -> None:
        """Count the time since `since` as stage `name`, too."""
        self.ms[name] = self.ms.get(name, 0.0) + (time.monotonic() - since) * 1e3

    def share(self, share: float) -> float:
        """The end of a share of what is left, on time.monotonic(): the rest is for later stages."""
        now = time.monotonic()
        return max(self.deadline - MOST_RESERVED_S, now + share * (self.deadline - now))

    def left_s(self, doing: str) -> float:
        """Seconds left; raises DeadlineExceeded, saying before what, when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"the deadline passed before {doing}: give the query more time")
        return left
