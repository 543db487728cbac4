"""Where a model computes: on which device, how precisely, on how many threads, how much at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from colbert_core.errors import InvalidInput
from colbert_core.hardware import bf16_is_native

Precision = Literal["auto", "float32", "bfloat16"]

# Measured for all-MiniLM-L6-v2 on 2 cores: beyond this the activations leave the caches.
_CPU_TOKEN_BUDGET = 4096
_CUDA_TOKEN_BUDGET = 65_536


def device_for(name: str | None) -> torch.device:
    """A torch device by its name; by default the GPU, if there is one.

    Raises:
        InvalidInput: it cannot be used here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(
            f"device {name!r} cannot be used here ({error}): give 'cpu', or 'cuda' where there is"
            " a GPU that torch sees"
        ) from error
    return device


def dtype_for(precision: Precision, device: torch.device) -> torch.dtype:
    """What the backbone computes in; "auto" is bfloat16 where the device multiplies it.

    Raises:
        InvalidInput: there is no such precision.
    """
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else bf16_is_native()
        return torch.bfloat16 if native else torch.float32
    if precision not in ("float32", "bfloat16"):
        raise InvalidInput(f"precision {precision!r}: give 'auto', 'float32' or 'bfloat16'")
    return torch.float32 if precision == "float32" else torch.bfloat16


def token_budget(device: torch.device) -> int:
    """Tokens that are encoded at a time."""
    return _CUDA_TOKEN_BUDGET if device.type == "cuda" else _CPU_TOKEN_BUDGET


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread inside; a query gains nothing from more."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
