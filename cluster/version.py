"""The version of this software, as it was installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def own_version() -> str:
    """Such as "0.1.0"; "unknown" where sources are run that nobody installed."""
    try:
        return version("tartan-search")
    except PackageNotFoundError:
        return "unknown"
