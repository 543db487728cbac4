"""Choosing a device and checking its arithmetic, moving arrays there, and cutting work to size."""

from __future__ import annotations

import numpy as np
import torch

from colbert_core.errors import InvalidInput
from colbert_core.types import AnyArray

BUDGET = 256 << 20
"""Bytes that the temporary arrays of one step may take, about."""

PIECE = 64 << 20  # bytes that are copied to a device at a time


def open_device(name: str) -> torch.device:
    """The device that a user names: "cuda", "cuda:1", …, or "torch:cpu", which is for testing.

    Raises:
        InvalidInput: there is no such device here, or its arithmetic is not exact.
    """
    if name != "torch:cpu" and name.partition(":")[0] != "cuda":
        raise InvalidInput(f"device is {name!r}; choose cpu, cuda, or one GPU: cuda:0, cuda:1, …")
    try:
        device = torch.device(name.removeprefix("torch:"))
    except RuntimeError as error:
        raise InvalidInput(
            f"device is {name!r}; choose cpu, cuda, or one GPU: cuda:0, cuda:1, …"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InvalidInput(
                f"device is {name!r}, and torch {torch.__version__} finds {count} GPUs here: "
                "search with device cpu, or install a driver and a torch built for CUDA"
            )
    check_arithmetic(device)
    return device


def check_arithmetic(device: torch.device) -> None:
    """Raise InvalidInput where the device does not multiply float32 matrices in full precision.

    Exact results rest on it: products of int8 are summed in float32, whose integers are exact up
    to 2^24, and 1024 · 128 · 127 is less. Both tests fail with fewer bits of mantissa than that.
    """
    rows_RD = torch.full((32, 1024), -128.0, device=device)
    rows_RD[:, 0] = 1.0
    dots_RL = rows_RD @ torch.full((1024, 32), 127.0, device=device)
    fine = torch.full((32, 32), 1 + 2.0**-20, device=device)
    product = fine @ torch.eye(32, device=device)
    if not (bool((dots_RL == 127 - 1023 * 128 * 127).all()) and bool((product == fine).all())):
        raise InvalidInput(
            f"device {device} multiplies float32 matrices in less than float32 precision (TF32?): "
            'call torch.set_float32_matmul_precision("highest") before the index is opened'
        )


def upload(array: AnyArray, device: torch.device) -> torch.Tensor:
    """A copy of an array, which may be mapped, on a device."""
    copy = torch.empty(array.shape, dtype=torch.from_numpy(array[:0].copy()).dtype, device=device)
    rows = max(1, PIECE // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        copy[start : start + rows] = torch.tensor(array[start : start + rows])
    return copy


def expand(starts: AnyArray, lengths: AnyArray, device: torch.device) -> torch.Tensor:
    """Every index of the spans that start at `starts`, one after the other, int64 [Σ lengths]."""
    total = int(lengths.sum())
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    shifts = torch.tensor(starts - before, device=device)
    counts = torch.tensor(lengths, device=device)
    first = torch.repeat_interleave(shifts, counts, output_size=total)
    return first + torch.arange(total, device=device)
