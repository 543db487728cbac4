"""Where a controller's memory lies while it is dead, and what its actors are called there."""

from __future__ import annotations

from typing import Protocol

NAMESPACE = "tartan"
CONTROLLER = "controller"
"""Actors are named SERVICE/NAME in Ray's namespace; this is the controller's NAME."""


def actor_name(service: str, name: str = CONTROLLER) -> str:
    """What an actor of a service is called."""
    return f"{service}/{name}"


class Store(Protocol):
    """One value, replaced as a whole. Blocking."""

    def load(self) -> bytes | None:
        """What was saved last; None where nothing was."""

    def save(self, data: bytes) -> None:
        """Replace it; when this returns, it survives this process."""

    def clear(self) -> None:
        """Forget it."""


class InternalKv:
    """Ray's internal key-value store, which lives as long as the cluster's head does (and longer
    where that keeps its tables in Redis). Ray Serve keeps its controller's state there, too."""

    def __init__(self, service: str) -> None:
        self._key = f"controller/{service}".encode()

    def load(self) -> bytes | None:
        from ray.experimental import internal_kv

        data: bytes | None = internal_kv._internal_kv_get(self._key, namespace=NAMESPACE.encode())
        return data

    def save(self, data: bytes) -> None:
        from ray.experimental import internal_kv

        namespace = NAMESPACE.encode()
        internal_kv._internal_kv_put(self._key, data, overwrite=True, namespace=namespace)

    def clear(self) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(self._key, namespace=NAMESPACE.encode())
