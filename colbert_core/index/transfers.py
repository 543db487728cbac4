"""Files on their way to a bucket or from one, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait


def transfer(
    names: Iterable[str], move: Callable[[str], None], threads: int, stop: threading.Event
) -> None:
    """Move files in this order.

    Args:
        move: moves one. It looks at `stop`, which is set after an error or Ctrl-C, and ends early.

    Raises:
        what `move` raised.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="transfer") as pool:
        tasks = [pool.submit(move, name) for name in names]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for task in tasks:
                task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.result()
