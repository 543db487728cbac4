"""Progress of a training run, read from its log while the driver waits for Ray Train."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.progress import Progress
from colbert_core.train.run_log import read_rows

EVERY_S = 2.0


@contextmanager
def watching(out: Path, progress: Progress, steps: int) -> Iterator[None]:
    """Show the steps in the log of `out`, and what is measured, until the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(out, progress, ended), daemon=True)
    progress.start("train", steps, "steps")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        progress.finish()


def _watch(out: Path, progress: Progress, ended: threading.Event) -> None:
    shown, noted, place = 0, -1, 0
    last = False
    while not last:
        last = ended.wait(EVERY_S)  # once more after the end, for the last steps
        rows, place = read_rows(out, place)
        done = max((row["step"] for row in rows if "loss" in row), default=0)
        if done > shown:
            progress.advance(done - shown)
            shown = done
        for row in rows:
            if "ndcg@10" in row and row["step"] > noted:
                noted = row["step"]
                progress.note(f"step {noted}: nDCG@10 {row['ndcg@10']:.4f}")
