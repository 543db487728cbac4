"""One Ray for all end-to-end tests: starting it costs seconds and most of a gigabyte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_session import RaySession, ray_session

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RaySession]:
    """A local Ray. It counts 8 CPUs, whatever there are, so that actors of several tests fit, and
    begins no workers ahead, which nobody would need."""
    with ray_session(purpose="the tests", cpus=8, answers=True) as session:
        yield session


@pytest.fixture(scope="session")
def adi() -> Path:
    """82 short documents with queries and judgements, where the shared data is at hand."""
    folder = SHARED_DATA / "adi"
    if not folder.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    return folder
