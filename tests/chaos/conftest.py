"""A service for the tests of a file, and the load generator of benchmarks/ on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from loadgen.service import Service, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Each test waits until it is whole: the one before may have killed a part of it."""
    with running(tmp_path_factory.mktemp("service")) as started:
        yield started
