"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# A busy machine must not fail a test: an example may take as long as it takes.
settings.register_profile("tartan", deadline=None)
settings.load_profile("tartan")


@pytest.fixture(autouse=True)
def ctrl_c_counts() -> None:
    """A shell's "&" has Ctrl-C ignored, here and in the processes that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
