"""How often a piece of work may fail: the driver's book, pure, so that it can be tested alone.

A piece that raises is tried three times, for a full disk or a flaky network may pass. A piece whose
worker was lost goes back for free, machines come and go; unless its worker is lost again and again,
for then it is the piece that kills them, by its size or by a bug in native code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from colbert_core.errors import JobFailed

MAX_ATTEMPTS = 3
MAX_LOSSES = 5


class Attempts:
    """Counts failures and losses of pieces of work, by key."""

    def __init__(self) -> None:
        self._failures: Counter[Hashable] = Counter()
        self._losses: Counter[Hashable] = Counter()

    def failed(self, key: Hashable, name: object, cause: BaseException) -> str:
        """Count a failure; gives a line for the log.

        Raises:
            JobFailed: it was the last attempt.
        """
        self._failures[key] += 1
        count = self._failures[key]
        what = f"{type(cause).__name__}: {cause}"
        if count >= MAX_ATTEMPTS:
            raise JobFailed(f"{name} failed {count} times; the last cause was {what}") from cause
        return f"{name} failed ({what}); attempt {count + 1} of {MAX_ATTEMPTS} follows"

    def lost(self, key: Hashable, name: object, cause: BaseException) -> str:
        """Count the loss of the worker that was busy with a piece; gives a line for the log.

        Raises:
            JobFailed: too many workers were lost over this piece.
        """
        self._losses[key] += 1
        count = self._losses[key]
        if count >= MAX_LOSSES:
            raise JobFailed(
                f"{name} lost its worker {count} times, so it seems to be the cause: a passage too "
                "large for the memory, or a crash in native code. The last worker's end: "
                f"{first_line(cause)}"
            ) from cause
        return f"a worker was lost over {name} ({first_line(cause)}); it goes back into the queue"

    def forget(self, key: Hashable) -> None:
        """Begin to count a piece anew: what failed of it was found."""
        del self._failures[key], self._losses[key]


def first_line(error: BaseException) -> str:
    """The first line of an error's message; Ray's are long."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
