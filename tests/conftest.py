"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine must not fail a test: an example may take as long as it takes.
settings.register_profile("tartan", deadline=None)
settings.load_profile("tartan")
