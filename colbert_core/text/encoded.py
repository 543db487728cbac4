"""What an encoder gives for passages.

Legend: N passages, T tokens of them all, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from colbert_core.text.tokens import Tokens
from colbert_core.types import F32, I32, Bool

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class EncodedPassages:
    """The vectors of a list of passages, one after the other in the order they were given.

    Attributes:
        vectors_TD: float32 [T, D], L2-normalised.
        doclens_N: int32 [N], vectors of each passage; T in all.
        truncated_N: bool [N], whether the passage was longer than `doc_maxlen`.
    """

    vectors_TD: F32
    doclens_N: I32
    truncated_N: Bool


@dataclass(frozen=True, slots=True)
class DevicePassages:
    """The same on the model's device, rounded as indexes are built from them.

    Attributes:
        vectors_TD: float16 [T, D] on the device.
        doclens_N: int32 [N], on the host.
        truncated_N: bool [N], on the host.
    """

    vectors_TD: torch.Tensor
    doclens_N: I32
    truncated_N: Bool


def lengths(passages: Sequence[Tokens]) -> tuple[I32, Bool]:
    """Vectors of each passage, int32 [N], and whether it was cut, bool [N]."""
    doclens_N = np.array([len(tokens.kept) for tokens in passages], dtype=np.int32)
    return doclens_N, np.array([tokens.truncated for tokens in passages], dtype=np.bool_)
