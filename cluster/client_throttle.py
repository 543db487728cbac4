"""Calls that a client does not send, because a full service would refuse most of them.

To refuse a query costs a gateway a tenth of what an answer costs; who asks three times as much as
it can answer, or asks again after each refusal, takes from it what it could answer with. So a
client that was refused more often than answered of late sends about twice as many calls as are
answered, and refuses the others itself. That is client-side throttling as in Google's "Site
Reliability Engineering", chapter 21, with a shorter memory, a bound, and patience with the first
few refusals.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

from colbert_core.errors import Overloaded

WINDOW_S = 5.0  # the past counts by e^(-age / WINDOW_S)
SENT_PER_ANSWER = 2.0
ALLOWED = 10.0  # refusals that say nothing yet
MOST_HELD_BACK = 0.9  # the others find out when the service has room again


class Throttle:
    """What one client asked of late, and how much of it was refused. Threads may share it."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw` gives chance, in [0, 1)."""
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._at = clock()
        self._asked = 0.0
        self._refused = 0.0  # by the service, or held back here
        self._why = ""

    def ask(self) -> None:
        """A call is about to be sent.

        Raises:
            Overloaded: it is better not to.
        """
        with self._lock:
            self._age()
            held_back = self._draw() < self._share_held_back()
            self._asked += 1
            self._refused += held_back
            asked, refused = self._asked, self._refused
        if held_back:
            raise Overloaded(
                f"not sent: of the last {asked:.0f} calls {refused:.0f} were refused, or held back "
                f"like this one; ask less often. The last refusal: {self._why}"
            )

    def refused(self, why: str) -> None:
        """The service refused a call that was sent, with RESOURCE_EXHAUSTED; `why` names the limit
        and the remedy."""
        with self._lock:
            self._age()
            self._refused += 1
            self._why = why

    def _share_held_back(self) -> float:
        answered = self._asked - self._refused
        too_many = self._asked - SENT_PER_ANSWER * answered - ALLOWED
        return min(MOST_HELD_BACK, max(0.0, too_many / (self._asked + 1)))

    def _age(self) -> None:
        now = self._clock()
        kept = math.exp((self._at - now) / WINDOW_S)
        self._at = now
        self._asked *= kept
        self._refused *= kept
