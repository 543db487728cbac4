"""What a client needs to be let in: a key, and TLS so that only the gateway reads it."""

from __future__ import annotations

import os
import re
from typing import TypedDict

import grpc

from cluster.security.exposure import is_loopback
from cluster.security.tls import Tls
from colbert_core.errors import InvalidInput


class Access(TypedDict, total=False):
    """How the clients are let in.

    Keys:
        api_key: sent with every call.
        tls: True to trust the certificates that gRPC brings along, or Tls(ca=…, cert=…, key=…).
        insecure: send the key in clear text to another machine.
    """

    api_key: str | None
    tls: bool | Tls
    insecure: bool


def access_from_environment() -> Access:
    """What the command line is let in with: secrets on it would show to everybody (`ps`).

    TARTAN_API_KEY; TARTAN_TLS=1, or TARTAN_TLS_CA=FILE, TARTAN_TLS_CERT=FILE and
    TARTAN_TLS_KEY=FILE; TARTAN_INSECURE=1.
    """
    files = {name: os.environ.get(f"TARTAN_TLS_{name.upper()}") for name in ("ca", "cert", "key")}
    tls = Tls(**files) if any(files.values()) else os.environ.get("TARTAN_TLS", "") == "1"
    return Access(
        api_key=os.environ.get("TARTAN_API_KEY") or None,
        tls=tls,
        insecure=os.environ.get("TARTAN_INSECURE", "") == "1",
    )


def checked_key(api_key: str | None) -> str | None:
    """The key without white space around it.

    Raises:
        InvalidInput: it cannot travel as metadata. gRPC's own error would repeat it.
    """
    key = api_key.strip() if api_key is not None else None
    if key is not None and not re.fullmatch(r"[!-~]{1,1000}", key):
        raise InvalidInput(
            "the API key is empty or has characters that no key has: give it as `tartan key new` "
            "printed it"
        )
    return key


def channel_credentials(
    target: str, api_key: str | None, tls: bool | Tls, insecure: bool
) -> grpc.ChannelCredentials | None:
    """What to connect with; None in clear text.

    Raises:
        InvalidInput: a file is not usable, or a key would be sent to another machine in clear text.
    """
    if tls:
        return (Tls() if tls is True else tls).credentials()
    if api_key and not insecure and not _is_here(target):
        raise InvalidInput(
            f"the API key would travel to {target} in clear text: give tls=True or tls=Tls(ca=…) "
            "(TARTAN_TLS=1 or TARTAN_TLS_CA=FILE for the command line), or, on a network that you "
            "trust, insecure=True (TARTAN_INSECURE=1)"
        )
    return None


def _is_here(target: str) -> bool:
    return target.startswith("unix:") or is_loopback(target.rpartition(":")[0].strip("[]"))
