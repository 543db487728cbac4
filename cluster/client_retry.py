"""When a client asks again: only after errors that may be retried, and within the caller's time."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from cluster.client_throttle import Throttle
from cluster.wire.status import RETRYABLE
from colbert_core.errors import InvalidInput, Overloaded, TartanError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to ask, and how long to wait in between.

    Attributes:
        attempts: calls in all, the first included; 1 never asks again.
        first_pause_s: the longest first pause; each further one may be twice as long.
        longest_pause_s: where the doubling ends.
    """

    attempts: int = 4
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_pause_s < 0 or self.longest_pause_s < 0:
            raise InvalidInput(f"{self}: attempts start at 1 and pauses at 0 seconds")

    def longest(self, pause: int) -> float:
        """The longest that the pause number `pause` (from 0) may take, in seconds."""
        return min(self.longest_pause_s, self.first_pause_s * 2.0**pause)


class Attempts:
    """The attempts of one call: counts them, and says whether and when to make another."""

    def __init__(self, policy: RetryPolicy, timeout_s: float, throttle: Throttle) -> None:
        """`throttle` is the client's, over all its calls."""
        self._policy = policy
        self._throttle = throttle
        self._deadline = time.monotonic() + timeout_s
        self.made = 0

    def left_s(self) -> float:
        """Seconds until the caller's deadline; counts one attempt. At least a millisecond, so that
        gRPC is asked and says DEADLINE_EXCEEDED itself.

        Raises:
            Overloaded: so much was refused of late that the attempt is not worth sending.
        """
        self._throttle.ask()
        self.made += 1
        return max(0.001, self._deadline - time.monotonic())

    def pause_after(self, error: TartanError, *, at_once: bool = False) -> float:
        """Seconds to wait before the next attempt.

        Args:
            at_once: there need be no pause, because it asks somebody else.

        Raises:
            TartanError: `error` itself, where asking again is of no use or there is no time.
        """
        if isinstance(error, Overloaded):
            self._throttle.refused(str(error))
        if not isinstance(error, RETRYABLE) or self.made >= self._policy.attempts:
            raise error
        # Full jitter: clients that failed together do not come back together.
        longest_s = 0.0 if at_once else self._policy.longest(self.made - 1)
        pause_s = random.uniform(0.0, longest_s)
        if time.monotonic() + pause_s >= self._deadline:
            raise error
        return pause_s
