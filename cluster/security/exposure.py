"""Secure by default: who may be listened to without TLS and without knowing who asks.

On loopback everybody who can connect has an account on this machine already. Beyond it, both are
needed: TLS, since a key or a query in clear text belongs to everybody on the way; and
authentication (API keys, or certificates of clients), since TLS alone answers anybody.
"""

from __future__ import annotations

import ipaddress
import socket

from colbert_core.errors import InvalidInput


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`; False where nobody knows."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    # A scope such as in fe80::1%eth0 is no part of the address.
    addresses = {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    return bool(host) and all(address.is_loopback for address in addresses)


def check_exposure(host: str, *, tls: bool, authentication: bool, insecure: bool) -> None:
    """Refuse to listen beyond loopback to anybody, or in clear text.

    Args:
        tls: whether a certificate is shown.
        authentication: whether it is known who asks, by API keys or certificates of clients.
        insecure: the operator said that it is meant.

    Raises:
        InvalidInput: naming what is missing and the remedies.
    """
    if insecure or (tls and authentication) or is_loopback(host):
        return
    missing, remedies = [], []
    if not tls:
        missing.append("TLS")
        remedies.append("--tls-cert FILE --tls-key FILE")
    if not authentication:
        missing.append("authentication")
        remedies.append("--api-keys FILE (`tartan key new` makes keys) or --tls-client-ca FILE")
    raise InvalidInput(
        f"{host} can be reached from other machines, and there is no {' and no '.join(missing)}: "
        f"give {'; and '.join(remedies)}; or listen on 127.0.0.1; or, on a network that you "
        "trust, --insecure"
    )
