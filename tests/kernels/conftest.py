"""Tests of the kernels: native against the numpy reference on every SIMD path of this machine.

`TARTAN_NATIVE` may name an extension file to test instead of the installed one: `run_asan.sh` gives
the one that it built with sanitizers.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest

if path := os.environ.get("TARTAN_NATIVE"):
    spec = importlib.util.spec_from_file_location("colbert_core._native", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["colbert_core._native"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["colbert_core._native"])

from colbert_core import _native


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test that takes it runs once per SIMD path."""
    before = _native.isa()
    _native.use_isa(request.param)
    yield request.param
    _native.use_isa(before)
