"""Compressed passages in memory, on their way to or from the files of a shard.

Shapes: N passages, T tokens, B packed bytes of a token, X bytes of a context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.types import I32, U8, AnyArray


@dataclass(frozen=True)
class Compressed:
    """The tokens of some passages, and the passages' contexts.

    Attributes:
        codes_T: int32 [T].
        residuals_TB: packed residuals uint8 [T, B].
        scales_T: scale bytes uint8 [T].
        contexts_NX: uint8 [N, X]; X is 0 where the codec has none.
    """

    codes_T: I32
    residuals_TB: U8
    scales_T: U8
    contexts_NX: U8

    def __len__(self) -> int:
        """T."""
        return len(self.codes_T)

    def part(self, passages: slice | AnyArray, tokens: slice | AnyArray) -> Compressed:
        """Some of the passages, and their tokens: slices, or masks."""
        return Compressed(
            self.codes_T[tokens],
            self.residuals_TB[tokens],
            self.scales_T[tokens],
            self.contexts_NX[passages],
        )

    @staticmethod
    def empty(token_bytes: int, context_bytes: int) -> Compressed:
        """No passage."""
        return Compressed(
            np.zeros(0, np.int32),
            np.zeros((0, token_bytes), np.uint8),
            np.zeros(0, np.uint8),
            np.zeros((0, context_bytes), np.uint8),
        )

    @staticmethod
    def joined(parts: Sequence[Compressed]) -> Compressed:
        """One after the other; at least one."""
        return Compressed(
            np.concatenate([part.codes_T for part in parts]),
            np.concatenate([part.residuals_TB for part in parts]),
            np.concatenate([part.scales_T for part in parts]),
            np.concatenate([part.contexts_NX for part in parts]),
        )
