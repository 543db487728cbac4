"""The projection alone, before the rest is trained, on hidden vectors that are encoded once.

    tuples ─ each text through the backbone, once ─ KL over a batch, step after step ─ projection

A backbone that learns together with a projection that is not good yet bends to it, and may forget
what it knew of texts that the run has not (linear probing before fine-tuning, arXiv 2202.10054).
What a projection gains by itself is in docs/decisions/training.md.

Shapes: B queries, M passages of the batch, L tokens, H hidden and D projected dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from colbert_core.text.tokens import TextTokenizer
from colbert_core.train import losses
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.batches import TokenBatch, collate
from colbert_core.train.maxsim import Vectors, all_scores
from colbert_core.train.schedule import batch_ordinals, learning_rate
from colbert_core.train.student import Student
from colbert_core.train.tuple_set import TupleSet
from colbert_core.types import F16

BATCH, RATE = 64, 1e-3  # tuples of a step, and the highest learning rate of Adam
MOST_TUPLES = 10_000  # whose hidden vectors are kept: 0.1 MB for each text of 128 tokens


def fit_projection(
    student: Student,
    tuples: TupleSet,
    teachers: BatchTeachers,
    *,
    steps: int,
    seed: int,
    passage_tokens: int | None = None,
    temperature: float = 1.0,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Learn `student.projection`, and nothing else, for so many steps.

    The loss is that of `Objective.batch_teachers`, with these. One process; the same for a seed.

    Args:
        teachers: best such that remember what they encode.
        passage_tokens: of a passage that are read; None: as many as the student reads.
        advance: is told of each step.
    """
    tokenizer = TextTokenizer(student.checkpoint, doc_maxlen=passage_tokens)
    queries, passages = HiddenVectors(student), HiddenVectors(student)
    weight_DH = student.projection.weight
    optimizer = torch.optim.Adam([weight_DH], lr=RATE)
    pool = np.random.default_rng(seed).permutation(len(tuples))[:MOST_TUPLES]
    batch = min(BATCH, len(pool))
    for step in range(steps):
        ordinals = pool[batch_ordinals(step, tuples=len(pool), batch=batch, seed=seed)]
        examples = [tuples.example(int(ordinal)) for ordinal in ordinals]
        tokens = collate(examples, tokenizer, weight_DH.device)
        texts = [passage for example in examples for passage in example.passages]
        asked = queries.projected([example.query for example in examples], tokens.queries)
        scores_BM = all_scores(
            student.weighted(asked, tokens.queries), passages.projected(texts, tokens.passages)
        )
        loss = losses.batch_distillation(
            scores_BM, teachers.scores(examples), tokens.keys_M, temperature=temperature
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=RATE, steps=steps, warmup=steps // 10)
        weight_DH.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(1)


class HiddenVectors:
    """What a backbone gives for queries, or for passages: each text is encoded when it is first
    asked for, and kept as float16."""

    def __init__(self, student: Student) -> None:
        self._student = student
        self._known: dict[str, F16] = {}

    def projected(self, texts: Sequence[str], tokens: TokenBatch) -> Vectors:
        """The token vectors of texts, through the projection as it is now, with its gradients.

        Args:
            tokens: of the same texts.
        """
        missing = {text: row for row, text in enumerate(texts) if text not in self._known}
        if missing:
            self._encode(list(missing), tokens.rows(torch.tensor(list(missing.values()))))
        width = self._student.projection.in_features
        hidden_BLH = np.zeros((*tokens.kept_BL.shape, width), np.float32)
        kept_BL = tokens.kept_BL.cpu().numpy()
        for row, text in enumerate(texts):
            hidden_BLH[row, kept_BL[row]] = self._known[text]
        on_device: Tensor = torch.from_numpy(hidden_BLH).to(tokens.kept_BL.device)
        return self._student.projected(on_device, tokens.kept_BL)

    @torch.no_grad()
    def _encode(self, texts: Sequence[str], tokens: TokenBatch) -> None:
        for rows in tokens.by_length():
            part = tokens.rows(rows)
            hidden_BLH = self._student.hidden(part)
            for row, hidden_LH, kept_L in zip(rows.tolist(), hidden_BLH, part.kept_BL, strict=True):
                self._known[texts[row]] = hidden_LH[kept_L].cpu().numpy().astype(np.float16)
