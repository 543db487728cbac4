"""Several gateways as one: a client asks one of them, and another where that one is away."""

from __future__ import annotations

import random
from collections.abc import Sequence

import grpc

from cluster.client_retry import Attempts
from cluster.wire.channels import channel_options, may_use_proxy
from colbert_core.errors import InvalidInput, TartanError, Unavailable

LISTS = ("ipv4:", "ipv6:")
"""Schemes of gRPC whose targets are lists themselves."""


def targets_of(target: str | Sequence[str]) -> tuple[str, ...]:
    """The targets that are named: one, several with commas in between, or a list.

    Raises:
        InvalidInput: there is none, or one is empty.
    """
    if isinstance(target, str):
        target = [target] if target.startswith(LISTS) else target.split(",")
    targets = tuple(one.strip() for one in target)
    if not targets or not all(targets):
        raise InvalidInput(
            "a target is empty: give HOST:PORT of a gateway, or several with commas in between"
        )
    return targets


class Rotation:
    """Which of several gateways is asked now. Clients begin anywhere, so that gateways share them.

    Threads may share it: at worst two of them pass over a gateway that one alone would have asked.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self._count = len(targets)
        self.place = random.randrange(self._count)

    def pause_after(self, attempts: Attempts, error: TartanError, place: int) -> float:
        """Seconds to wait before asking again: none where another gateway can be asked that this
        call has not asked yet.

        Args:
            place: of the gateway that gave the error.

        Raises:
            TartanError: `error` itself, where asking again is of no use or there is no time.
        """
        away = self._count > 1 and isinstance(error, Unavailable)
        if away and self.place == place:
            self.place = (place + 1) % self._count
        return attempts.pause_after(error, at_once=away and attempts.made < self._count)


def open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """A channel to a gateway, for threads."""
    options = channel_options(proxy=may_use_proxy(target))
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)


def open_aio_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel to a gateway, for the event loop that runs now."""
    options = channel_options(proxy=may_use_proxy(target))
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)
