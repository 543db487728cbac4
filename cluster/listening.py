"""Whether an address could be listened on."""

from __future__ import annotations

import socket


def try_to_listen(host: str, port: int) -> None:
    """Take an address as a server would, and let it go.

    Raises:
        OSError: it is taken, or there is no such address here.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
