"""One batch as tensors: token ids, masks, the teacher's scores.

Shapes: B queries, M = B · W passages, L tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbert_core.text.tokens import TextTokenizer, Tokens
from colbert_core.train.tuple_set import Example

_GROUPS, _WORTHWHILE = 4, 0.9


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Texts as the backbone reads them.

    Attributes:
        ids_BL: int64 [B, L].
        attention_BL: int64 [B, L], 1 where a token is attended to.
        kept_BL: bool [B, L], where a token gives a vector.
    """

    ids_BL: Tensor
    attention_BL: Tensor
    kept_BL: Tensor

    def __len__(self) -> int:
        return len(self.ids_BL)

    def chunks(self, size: int) -> list[TokenBatch]:
        """Consecutive parts of at most `size` texts, each as wide as its longest text."""
        rows = torch.arange(len(self), device=self.ids_BL.device)
        return [self.rows(part) for part in torch.split(rows, size)]

    def by_length(self) -> list[Tensor]:
        """The rows in groups of like length, int64; one group where that saves little padding."""
        lengths_B, order_B = torch.sort(self._used().sum(1), stable=True)
        groups = list(torch.split(order_B, -(-len(self) // _GROUPS)))
        ends = torch.tensor([len(group) for group in groups]).cumsum(0) - 1
        longest = lengths_B[ends.to(lengths_B.device)].tolist()
        tokens = sum(len(group) * size for group, size in zip(groups, longest, strict=True))
        return groups if tokens <= _WORTHWHILE * len(self) * longest[-1] else [order_B]

    def rows(self, rows: Tensor) -> TokenBatch:
        """Some of the texts, as wide as the longest of them."""
        width = int(self._used()[rows].any(0).nonzero()[-1]) + 1
        return TokenBatch(
            self.ids_BL[rows, :width], self.attention_BL[rows, :width], self.kept_BL[rows, :width]
        )

    def _used(self) -> Tensor:
        return (self.attention_BL > 0) | self.kept_BL


@dataclass(frozen=True, slots=True)
class Batch:
    """What one worker computes a loss on.

    Attributes:
        queries: B of them.
        passages: B · W, those of each query one after the other, the positive one first.
        teacher_BW: float32 [B, W], or None.
        keys_M: int64 [B · W], equal for equal passages.
        batch_teacher_BM: float32, of these queries against the passages of all workers, or None.
    """

    queries: TokenBatch
    passages: TokenBatch
    teacher_BW: Tensor | None
    keys_M: Tensor
    batch_teacher_BM: Tensor | None = None


def collate(examples: Sequence[Example], tokenizer: TextTokenizer, device: torch.device) -> Batch:
    """Tokenise tuples, each of equally many passages."""
    passages = [passage for example in examples for passage in example.passages]
    scores = [example.scores_W for example in examples if example.scores_W is not None]
    keys = np.array([_key(passage) for passage in passages], np.int64)
    return Batch(
        queries=padded(
            tokenizer.queries([example.query for example in examples]), tokenizer.pad_id, device
        ),
        passages=padded(tokenizer.passages(passages), tokenizer.pad_id, device),
        teacher_BW=torch.from_numpy(np.stack(scores)).to(device) if scores else None,
        keys_M=torch.from_numpy(keys).to(device),
    )


def padded(texts: Sequence[Tokens], pad_id: int, device: torch.device) -> TokenBatch:
    """Tokens of several texts as one block, filled up with `pad_id`."""
    shape = len(texts), max(len(tokens.ids) for tokens in texts)
    ids_BL = np.full(shape, pad_id, np.int64)
    attention_BL = np.zeros(shape, np.int64)
    kept_BL = np.zeros(shape, np.bool_)
    for row, tokens in enumerate(texts):
        ids_BL[row, : len(tokens.ids)] = tokens.ids
        attention_BL[row, : tokens.attended] = 1
        kept_BL[row, tokens.kept] = True
    ids, attention, kept = (
        torch.from_numpy(values).to(device) for values in (ids_BL, attention_BL, kept_BL)
    )
    return TokenBatch(ids, attention, kept)


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
