"""What this machine's processor does natively."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def bf16_is_native() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AMX, AVX-512 BF16, or Arm BF16)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"amx_bf16", "avx512_bf16", "bf16"})
