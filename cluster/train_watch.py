"""Progress of a training run, read from its log while the driver waits for Ray Train."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.progress import Progress
from colbert_core.train.run_log import identity, read_rows

EVERY_S = 2.0


@contextmanager
def watching(out: Path, progress: Progress, steps: int) -> Iterator[None]:
    """Show the steps in the log of `out`, and what is measured, until the block ends."""
    ended = threading.Event()
    watch = Watch(out, progress, steps)
    thread = threading.Thread(target=watch.until, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        progress.finish()


class Watch:
    """What has been shown of the log, which each attempt begins anew with what it goes on from."""

    def __init__(self, out: Path, progress: Progress, steps: int) -> None:
        self._out, self._progress, self._steps = out, progress, steps
        self._earlier = identity(out)  # until this attempt begins its own
        self._log: int | None = None
        self._place, self._shown, self._noted = 0, 0, -1
        progress.start("train", steps, "steps")

    def until(self, ended: threading.Event) -> None:
        """Look every few seconds, and once more after the end, for the last steps."""
        last = False
        while not last:
            last = ended.wait(EVERY_S)
            self.look()

    def look(self) -> None:
        """Show what is new."""
        log = identity(self._out)
        if log is None or log == self._earlier:
            return
        begins, self._log, self._earlier = log != self._log, log, None
        rows, self._place = read_rows(self._out, 0 if begins else self._place)
        done = max((row["step"] for row in rows if "loss" in row), default=0)
        if begins:
            self._progress.start("train", self._steps, "steps", done)
            self._shown, self._noted = done, min(self._noted, done)
        if done > self._shown:
            self._progress.advance(done - self._shown)
            self._shown = done
        for row in rows:
            if "ndcg@10" in row and row["step"] > self._noted:
                self._noted = row["step"]
                self._progress.note(f"step {self._noted}: nDCG@10 {row['ndcg@10']:.4f}")
