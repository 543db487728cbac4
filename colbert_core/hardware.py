"""What this machine's processor does, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path

from colbert_core import control_groups

DEVICE_BATCH = 64
"""Searches that a GPU answers in one batch, at most."""


def searches_at_once(device: str) -> int:
    """Searches that are worth running at once: one per processor; on a GPU, a batch of them."""
    return processors() if device == "cpu" else DEVICE_BATCH


@cache
def processors() -> int:
    """How many this process may keep busy: those that it may run on, or what its container or
    service is given of their time (control groups) where that is less, rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min([count or 1, *control_groups.processor_quotas()])))


def threads() -> int:
    """Threads for work on many vectors: what torch may use, and what it would use by default.

    Torch is asked where it is loaded, so that `torch.set_num_threads` counts; it is not imported
    for the question.
    """
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    return processors()


def available_memory() -> int | None:
    """Bytes that could be had now without swapping: of the machine, or of the container or service
    (control groups) where that has less. None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    of_machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*of_machine, *control_groups.memory_left()], default=None)


@cache
def has_cuda() -> bool:
    """Whether torch can compute on a GPU; it is imported only where there is a driver for one."""
    if "torch" not in sys.modules and not Path("/dev/nvidiactl").exists():
        return False
    import torch

    return torch.cuda.is_available()


@cache
def bf16_is_native() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AMX, AVX-512 BF16, or Arm BF16)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"amx_bf16", "avx512_bf16", "bf16"})
