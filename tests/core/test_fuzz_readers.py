"""Damaged files in front of every reader: an answer or an error of ours, never a crash or a hang.

A few hundred cases run always, 100,000 with `make test-long`. What runs them is `fuzzing.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import TARGETS

SCRIPT = Path(__file__).parent / "fuzzing.py"
AT_ONCE = 2_000
LONG_CASES = 100_000


def run_cases(target: str, seed: int, cases: int) -> int:
    """Run cases in a process of their own; how many ran."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), target, str(seed), str(cases)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    message = f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, message
    counted = re.search(r": (\d+) cases, (\d+) refused, (\d+) read", done.stdout)
    assert counted, message
    return int(counted[1])


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_are_refused_or_read(target: str) -> None:
    assert run_cases(target, seed=1, cases=30) == 30


@pytest.mark.long
def test_a_hundred_thousand_damaged_files() -> None:
    ran, shares = 0, sum(TARGETS.values())
    for target, share in TARGETS.items():
        left = -(-LONG_CASES * share // shares)
        seed = 100
        while left:
            now = min(left, AT_ONCE)
            ran += run_cases(target, seed, now)
            left, seed = left - now, seed + 1
    print(f"{ran} cases ran")
    assert ran >= LONG_CASES
