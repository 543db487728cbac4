"""What this machine's processor does, and how much of it this process may use."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

DEVICE_BATCH = 64
"""Searches that a GPU answers in one batch, at most."""


def searches_at_once(device: str) -> int:
    """Searches that are worth running at once: one per processor; on a GPU, a batch of them."""
    return (os.cpu_count() or 1) if device == "cpu" else DEVICE_BATCH


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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that could be had now without swapping: of the machine, or of the container or service
    (control groups, of either version) where that has less. None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    of_machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*of_machine, *_left_of_groups(Path("/sys/fs/cgroup"))], default=None)


def _left_of_groups(root: Path, membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the limits of this process's control group and those above it leave beside what is used,
    of which file pages can be taken back."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            left += _left_of(root, path, "max", "current", "inactive_file")
        elif "memory" in controllers.split(","):  # version 1: a hierarchy of its own
            names = "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
            left += _left_of(root / "memory", path, *names)
    return left


def _left_of(root: Path, path: str, limit: str, usage: str, pages: str) -> list[int]:
    """The same of one hierarchy, by the names of its files and of the pages in memory.stat.

    From within a container `path` may lead to nowhere: what limits it is then at the root.
    """
    own = root / path.removeprefix("/")
    left = []
    for group in (own, *(parent for parent in own.parents if parent.is_relative_to(root))):
        with suppress(OSError, KeyError, ValueError):  # no such file, or no limit: "max"
            most, used = ((group / f"memory.{name}").read_text() for name in (limit, usage))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left.append(max(0, int(most) - int(used) + int(stat[pages])))
    return left


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
