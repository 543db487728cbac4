"""Which implementation is chosen, and that it says why."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from colbert_core import _native

SHOW = "from colbert_core import kernels; print(kernels.IMPLEMENTATION, kernels.isa())"


def ask(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("isa", _native.isas())
def test_a_path_can_be_forced(isa: str) -> None:
    assert ask(TARTAN_ISA=isa, TARTAN_KERNELS="native").stdout.strip() == f"native ({isa}) {isa}"


def test_the_reference_can_be_forced_and_says_so() -> None:
    answer = ask(TARTAN_KERNELS="reference").stdout.strip()
    assert answer == "reference: TARTAN_KERNELS=reference reference"


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"TARTAN_KERNELS": "fast"}, "'native' or 'reference'"), ({"TARTAN_ISA": "mmx"}, "possible:")],
)
def test_a_wrong_wish_is_an_error(environment: dict[str, str], message: str) -> None:
    answer = ask(**environment)
    assert answer.returncode != 0
    assert message in answer.stderr
