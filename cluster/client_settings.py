"""What both clients of a gateway are made with, and how they turn its errors into ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.client_retry import Attempts, RetryPolicy
from cluster.client_targets import Rotation, targets_of
from cluster.client_throttle import Throttle
from cluster.security.client import channel_credentials, checked_key
from cluster.security.tls import Tls
from cluster.wire.status import from_status
from cluster.wire.token import bearer
from colbert_core.errors import InvalidInput, TartanError


class ClientSettings:
    """What both clients are made with."""

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        api_key: str | None = None,
        tls: bool | Tls = False,
        insecure: bool = False,
    ) -> None:
        """Connects at the first call.

        Args:
            target: HOST:PORT of a gateway, or any gRPC target; or several of them, as a list or
                with commas in between: where one is away, another is asked within the same time.
            timeout_s: time for one call, retries included, where the call itself sets none.
            retry: when to ask again.
            api_key: sent with every call; over TLS, or to this machine.
            tls: True to trust the certificates that gRPC brings along, or
                `Tls(ca=…, cert=…, key=…)` with PEM files of your own.
            insecure: send the key in clear text to another machine.

        Raises:
            InvalidInput: the target is empty, the time not above 0, a file of `tls` not usable, or
                the key would travel in clear text.
        """
        self.targets = targets_of(target)
        self._timeout_s = _checked_timeout(timeout_s)
        self._retry = retry or RetryPolicy()
        key = checked_key(api_key)
        self._metadata = bearer(key)
        self._credentials = [channel_credentials(one, key, tls, insecure) for one in self.targets]
        self._rotation = Rotation(self.targets)
        self._throttle = Throttle()

    def _attempts(self, timeout_s: float | None) -> Attempts:
        given = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        return Attempts(self._retry, given, self._throttle)

    def _error(self, error: Any, place: int = 0) -> TartanError:
        server = f"gateway {self.targets[place]}"
        return from_status(error.code(), error.details(), error.trailing_metadata(), server)

    def _pause_s(self, attempts: Attempts, error: TartanError, place: int) -> float:
        return self._rotation.pause_after(attempts, error, place)


def _checked_timeout(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise InvalidInput(f"timeout_s is {timeout_s}: give more than 0 seconds")
    return timeout_s
