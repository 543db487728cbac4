"""A shard's arrays on a device, still compressed: what a token takes there is about what its
codes, residuals, scale and postings take on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from colbert_core.packed_ints import PackedInts
from colbert_core.reference.checks import MAX_MAGNITUDE, require
from colbert_core.reference.contexts import split_contexts
from colbert_core.torch_kernels.device import PIECE, upload
from colbert_core.types import I64, U8


@dataclass(frozen=True)
class DeviceArrays:
    """Offsets stay with the host too, which plans with them what the device does.

    Attributes:
        codes_T: int32 on the device.
        residuals_TB, scales_T: uint8 on the device, packed as on disk.
        contexts_NB: uint8 on the device, the packed bits of contexts; None where there are none.
        context_scales_N: float32 on the device, what their levels are multiplied by.
        offsets_N1: int64, the first token of every passage, then T.
        posting_offsets_C1: int64, the first posting of every centroid, then their number.
        postings_E: int32 on the device (int64 from 2^31 passages on), passages by centroid.
    """

    codes_T: torch.Tensor
    residuals_TB: torch.Tensor
    scales_T: torch.Tensor
    contexts_NB: torch.Tensor | None
    context_scales_N: torch.Tensor | None
    offsets_N1: I64
    posting_offsets_C1: I64
    postings_E: torch.Tensor


def load_arrays(
    passages: int,
    centroids: int,
    codes: U8,
    residuals_TB: U8,
    scales_T: U8,
    contexts_NX: U8 | None,
    offsets: U8,
    device: torch.device,
) -> DeviceArrays:
    """Unpack codes and offsets, and bring the arrays to the device.

    Postings are not read but made again: they are the passages that hold a centroid, which codes
    and offsets say, and sorting is what a GPU is good at.

    Raises:
        ValueError: a code or an offset cannot be.
    """
    tokens = len(scales_T)
    offsets_N1 = PackedInts("offsets", offsets, passages + 1, tokens).read(0, passages + 1)
    lengths_N = np.diff(offsets_N1)
    bad = np.flatnonzero(lengths_N < 1)
    require(
        not len(bad) and offsets_N1[0] == 0 and offsets_N1[-1] == tokens,
        f"passage {bad[0] if len(bad) else passages - 1} has no tokens or goes beyond {tokens}",
    )
    packed = PackedInts("codes", codes, tokens, centroids - 1)
    codes_T = torch.empty(tokens, dtype=torch.int32, device=device)
    for start in range(0, tokens, PIECE // 32):
        piece = packed.read(start, min(tokens, start + PIECE // 32))
        largest = int(piece.max())
        require(largest < centroids, f"a token has centroid {largest} of {centroids}")
        codes_T[start : start + len(piece)] = torch.tensor(piece.astype(np.int32))
    counts_C, postings_E = invert(codes_T, lengths_N, centroids)
    contexts_NB, context_scales_N = _load_contexts(contexts_NX, device)
    return DeviceArrays(
        codes_T,
        upload(residuals_TB, device),
        upload(scales_T, device),
        contexts_NB,
        context_scales_N,
        offsets_N1,
        np.concatenate([[0], np.cumsum(counts_C)]),
        postings_E,
    )


def _load_contexts(
    contexts_NX: U8 | None, device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if contexts_NX is None:
        return None, None
    packed_NB, scales_N = split_contexts(contexts_NX)
    bad = np.flatnonzero(~(np.abs(scales_N) <= MAX_MAGNITUDE))
    where = f"the context of passage {bad[0]}" if len(bad) else ""
    require(not len(bad), f"{where} has a scale beyond ±1e6")
    return upload(np.ascontiguousarray(packed_NB), device), upload(scales_N, device)


def invert(codes_T: torch.Tensor, lengths_N: I64, centroids: int) -> tuple[I64, torch.Tensor]:
    """Passages of every centroid, ascending and each once: how many int64 [C], and which [E]."""
    device, passages = codes_T.device, len(lengths_N)
    owner_T = torch.repeat_interleave(
        torch.arange(passages, device=device),
        torch.tensor(lengths_N, device=device),
        output_size=len(codes_T),
    )
    keys_E = torch.unique(codes_T.long() * passages + owner_T)  # sorted
    counts_C = torch.bincount(keys_E // max(1, passages), minlength=centroids)
    kind = torch.int32 if passages < 1 << 31 else torch.int64
    return counts_C.cpu().numpy(), (keys_E % max(1, passages)).to(kind)
