"""Whether one replica is fit to be asked. A state machine; the clock is passed in.

    well ── failures in a row ──▶ ejected ── time over ──▶ a probe is due ── answered ──▶ well
                                     ▲                            │
                                     └──────── twice as long ─────┴── not answered

Who re-admits it stays on guard: the next failure ejects it again, for twice as long. A replica that
stayed well for the longest time of ejection starts afresh.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.fan_out.policy import TailPolicy


class Sickness:
    """The state of one replica."""

    def __init__(self, policy: TailPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._ejections = 0
        self._until: float | None = None  # ejected until then, and until a probe is answered
        self._well_since = 0.0

    @property
    def ejected(self) -> bool:
        """Whether it should get no queries."""
        return self._until is not None

    def succeeded(self, now: float) -> None:
        """A call was answered."""
        if self._until is not None:
            return  # it was begun before; a probe decides
        self._failures = 0
        if self._ejections and now - self._well_since >= self._policy.eject_longest_s:
            self._ejections = 0

    def failed(self) -> bool:
        """A call failed, or another replica was faster; returns whether to eject."""
        if self._until is not None:
            return False
        self._failures += 1
        return self._failures >= self._policy.eject_after

    def eject(self, now: float) -> float:
        """Eject it; returns for how many seconds."""
        for_s = min(
            self._policy.eject_longest_s, self._policy.eject_s * 2.0 ** min(self._ejections, 30)
        )
        self._ejections += 1
        self._until = now + for_s
        return for_s

    def probe_due(self, now: float) -> bool:
        """Whether it is time to ask it how it is."""
        return self._until is not None and now >= self._until

    def probed(self, now: float, answered: bool) -> float:
        """A probe has ended; returns for how many seconds it stays ejected, 0 if it does not."""
        if self._until is None:
            return 0.0
        if not answered:
            return self.eject(now)
        self._until = None
        self._well_since = now
        self._failures = self._policy.eject_after - 1
        return 0.0


def may_eject(well: int) -> bool:
    """Whether one of `well` replicas may be ejected: never the last one of a shard."""
    return well > 1


def is_outlier(seconds: float, others: Sequence[float], policy: TailPolicy) -> bool:
    """Whether a replica that takes `seconds` is far slower than the median of the others."""
    if not others or seconds <= policy.outlier_s:
        return False
    median = sorted(others)[len(others) // 2]
    return seconds > policy.outlier_factor * median
