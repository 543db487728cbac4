"""A program that builds an index and ends itself with SIGKILL at a moment that it is given.

python doomed_driver.py OPTIONS        a JSON object: corpus, out, and settings of build_index;
                                       kill: [stage, how many advances in it], or null;
                                       light: whether workers are those of light_worker.py
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from cluster import worker_slots
from cluster.index_job import build_index
from cluster.progress import SilentProgress


class Doomed(SilentProgress):
    """Says what happens, on stdout; ends the process at the moment."""

    def __init__(self, moment: list[Any] | None) -> None:
        self._moment = moment

    def start(self, stage: str, total: int | None, noun: str) -> None:
        self._stage, self._count = stage, 0
        self._happened()

    def advance(self, done: int, tokens: int = 0) -> None:
        self._count += 1
        self._happened()

    def note(self, message: str) -> None:
        print("note", message, flush=True)

    def _happened(self) -> None:
        print(self._stage, self._count, flush=True)
        if [self._stage, self._count] == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    if options.pop("light", False):
        from light_worker import LightWorker

        worker_slots.EncoderWorker = LightWorker
    build_index(
        options.pop("corpus"),
        options.pop("out"),
        progress=Doomed(options.pop("kill", None)),
        **options,
    )
