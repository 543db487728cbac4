"""Teachers that judge every passage of a batch for every query of it, while the student learns.

Scores of tuples say how a few passages of one query compare; these say it of the passages of all
queries, most of which have nothing to do with it, at the price of running the teachers along
(TAS-Balanced's in-batch teaching, arXiv 2104.06967).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from colbert_core.train import group
from colbert_core.train.averaging import Moments, averaged
from colbert_core.train.teachers import Teacher, load_teacher
from colbert_core.train.tuple_set import Example, TupleSet
from colbert_core.types import F32


class BatchTeachers:
    """What the teachers of a run say of one batch after another.

    Args:
        names: as `teachers.py` has them; several are averaged as `averaging.py` does, at their
            deviations within the batch.
        tuples: whose passages BM25 counts words in.
        passage_tokens: of a passage that are read; None: as many as each teacher reads.
        remember: keep what texts are encoded to.
    """

    def __init__(
        self,
        names: Sequence[str],
        tuples: TupleSet,
        device: torch.device,
        passage_tokens: int | None = None,
        *,
        remember: bool = False,
    ) -> None:
        self._names, self._tuples = names, tuples
        self._device, self._passage_tokens = device, passage_tokens
        self._remember = remember

    @cached_property
    def _teachers(self) -> list[Teacher]:
        """Loaded when they are first asked: who resumes a run only to save its model asks none."""
        return [
            load_teacher(
                name, self._tuples, self._device, self._passage_tokens, remember=self._remember
            )
            for name in self._names
        ]

    def scores(self, examples: Sequence[Example]) -> Tensor:
        """float32 [B, M]: own queries against the passages of all workers, in their order.

        Each worker scores its own passages, for the queries of all; they call this together.
        """
        queries = group.gather_texts([example.query for example in examples])
        passages = [passage for example in examples for passage in example.passages]
        pairs = [(query, passage) for query in queries for passage in passages]
        first = group.rank() * len(examples)
        parts = [
            self._whole(teacher.score(pairs).reshape(len(queries), len(passages)))
            for teacher in self._teachers
        ]
        return torch.from_numpy(_averaged(parts)[first : first + len(examples)]).to(self._device)

    def _whole(self, scores_QM: F32) -> F32:
        """The columns of all workers, side by side."""
        columns_MQ = torch.from_numpy(np.ascontiguousarray(scores_QM.T)).to(self._device)
        whole_QM: F32 = group.gather(columns_MQ).T.cpu().numpy()
        return whole_QM


def _averaged(parts: Sequence[F32]) -> F32:
    """Of those that tell the passages of this batch apart, such as BM25 where words are shared."""
    moments = [Moments().plus(scores_QM) for scores_QM in parts]
    telling = [at for at, one in enumerate(moments) if one.deviation > 0]
    if not telling:
        return parts[0]
    return averaged([parts[at] for at in telling], [moments[at] for at in telling])
