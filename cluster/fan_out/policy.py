"""The numbers by which a gateway lives with slow and dead replicas. docs/serving.md says why."""

from __future__ import annotations

from dataclasses import dataclass, fields

from colbert_core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class TailPolicy:
    """How the fan-out behaves.

    Attributes:
        attempt_timeout_s: every attempt ends after it at the latest, whatever the deadline; after
            half of its time another replica is asked as well.
        max_attempts: replicas that one question is put to at most, the first included.
        hedge_percentile: a second replica is asked when the first takes longer than this share of
            the shard's recent calls; 1 switches hedging off.
        hedge_after_s: but not before.
        hedge_budget: hedges per call, in the long run.
        hedge_burst: hedges that may be saved up.
        retry_budget, retry_burst: the same for retries after failures.
        eject_after: failures (or races lost) in a row after which a replica gets no more queries.
        eject_s: for how long, at first; it doubles with each ejection that follows soon.
        eject_longest_s: where the doubling ends; staying well for as long makes it forgotten.
        probe_timeout_s: for an ejected replica to answer a probe.
        outlier_factor: a replica is ejected that is so many times slower than the others' median.
        outlier_s: but not while it takes less than this.
    """

    attempt_timeout_s: float = 10.0
    max_attempts: int = 3
    hedge_percentile: float = 0.95
    hedge_after_s: float = 0.005
    hedge_budget: float = 0.05
    hedge_burst: float = 10.0
    retry_budget: float = 0.2
    retry_burst: float = 50.0
    eject_after: int = 3
    eject_s: float = 1.0
    eject_longest_s: float = 30.0
    probe_timeout_s: float = 1.0
    outlier_factor: float = 5.0
    outlier_s: float = 0.05

    def check(self) -> None:
        """Raise InvalidInput where a value is not possible."""
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 1 if field.name in ("max_attempts", "eject_after", "outlier_factor") else 0
            if not value >= lowest:
                raise InvalidInput(f"{field.name} is {value}; give {lowest} or more")
        if not 0 < self.hedge_percentile <= 1:
            raise InvalidInput(
                f"hedge_percentile is {self.hedge_percentile}; give a share above 0 and up to 1 "
                "(which switches hedging off)"
            )
