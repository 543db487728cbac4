"""The workers that train together, as torch.distributed has them; alone, everything is as it is.

In-batch negatives come from all workers, and gradients flow back through the gather: each worker's
loss is the mean over its own queries, what arrives for a passage from all of them is summed, and
`average_gradients` divides by the number of workers. The sum is that of one process with the whole
batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from colbert_core.train.maxsim import Vectors

_BUCKET_NUMBERS = 8_000_000


def rank() -> int:
    """Which worker this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_vectors(own: Vectors) -> Vectors:
    """The vectors of all workers, in their order; each must bring equally many texts."""
    if world_size() == 1:
        return own
    length = torch.tensor(own.mask_BL.shape[1], device=own.x_BLD.device)
    dist.all_reduce(length, dist.ReduceOp.MAX)
    wide = own.widened(int(length))
    # gloo gathers no bool.
    x_BLD: Tensor = _Gather.apply(wide.x_BLD)  # type: ignore[no-untyped-call]
    return Vectors(x_BLD, gather(wide.mask_BL.to(torch.uint8)).bool())


def gather(own: Tensor) -> Tensor:
    """The rows of all workers, without gradients."""
    if world_size() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def gather_texts(own: Sequence[str]) -> list[str]:
    """The texts of all workers, in their order."""
    if world_size() == 1:
        return list(own)
    parts: list[Sequence[str]] = [() for _ in range(world_size())]
    dist.all_gather_object(parts, own)
    return [text for part in parts for text in part]


class _Gather(torch.autograd.Function):
    """`gather` forward; backward, the gradients of all workers for this one's rows, summed."""

    @staticmethod
    def forward(_context: Any, own: Tensor) -> Tensor:
        return gather(own)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous()
        dist.all_reduce(summed)
        return summed.chunk(world_size())[rank()]


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give every worker the mean of all workers' gradients, a few large messages at a time."""
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= _BUCKET_NUMBERS:
                _average(bucket)
                bucket = []
    if bucket:
        _average(bucket)


def _average(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def mean_over_workers(values: Tensor) -> Tensor:
    """The mean of all workers' values, which are changed in place."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def anywhere(says_so: bool, device: torch.device) -> bool:
    """Whether any worker says so: the same answer for all of them."""
    if world_size() == 1:
        return says_so
    votes = torch.tensor(int(says_so), device=device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)


def broadcast(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give every worker the values of the first."""
    if world_size() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)
