"""The scoring worker: a Ray actor with one teacher, which scores units of tuples.

It decides nothing. A unit's effect is one file of float32 [tuples, n_way], the same whoever writes
it and however often, so that a call may be repeated after a loss.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from colbert_core.train.teachers import load_teacher
from colbert_core.train.tuple_set import TupleSet


class TeacherScorer:
    """One teacher in one process.

    Args:
        teacher: as `colbert_core/train/teachers.py` names it.
        tuples: the folder that `prepare_tuples` wrote.
        threads: processor threads.
        bf16: run its model in bfloat16.
    """

    def __init__(self, teacher: str, tuples: str, threads: int, bf16: bool) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tuples = TupleSet(Path(tuples))
        self._teacher = load_teacher(teacher, self._tuples, device, bf16=bf16)

    def score(self, start: int, stop: int, path: str) -> int:
        """Score the tuples start … stop - 1 and write the file; returns how many pairs."""
        examples = [self._tuples.example(ordinal) for ordinal in range(start, stop)]
        pairs = [(example.query, passage) for example in examples for passage in example.passages]
        scores_UW = self._teacher.score(pairs).reshape(stop - start, -1)
        temporary = Path(f"{path}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, scores_UW)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return len(pairs)
