"""TLS: certificates of a server, read again when they change; and what a client trusts and shows.

Connections that are up go on with what they were made with; a new one sees the new certificate.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cluster.security.watched import Watched
from colbert_core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of a server.

    Attributes:
        cert: its certificate, followed by those between it and the root.
        key: the private key, without a password.
        client_ca: if given, clients must show a certificate that one of these has signed (mTLS).
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [path for path in (self.cert, self.key, self.client_ca) if path is not None]


def server_tls(
    cert: Path | None, key: Path | None, client_ca: Path | None = None
) -> ServerTls | None:
    """The files as the command line gives them; None where it gives none.

    Raises:
        InvalidInput: one is missing.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise InvalidInput("TLS needs both --tls-cert FILE and --tls-key FILE")
    return ServerTls(cert, key, client_ca)


def server_credentials(files: ServerTls) -> grpc.ServerCredentials:
    """What to listen with; the files are looked at again for every new connection.

    Raises:
        InvalidInput: a file cannot be read, is not PEM, or the key is not the certificate's.
    """
    watched = Watched(files.paths, lambda: _read(files))
    latest = watched.value()

    def changed() -> Any:  # None where nothing changed, which grpc's stubs do not know of
        nonlocal latest
        before, latest = latest, watched.value()
        return None if latest is before else latest

    return grpc.dynamic_ssl_server_credentials(
        latest, changed, require_client_authentication=files.client_ca is not None
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a client.

    Attributes:
        ca: whose certificates are trusted; by default those that gRPC brings along.
        cert, key: to show to a server that asks for one (mTLS).
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What to connect with.

        Raises:
            InvalidInput: a file cannot be read, is not PEM, or the key is not the certificate's.
        """
        if (self.cert is None) != (self.key is None):
            raise InvalidInput("a client's certificate and its key go together: give both or none")
        try:
            if self.cert is not None and self.key is not None:
                _check_pair(Path(self.cert), Path(self.key))
            roots, key, chain = (
                None if path is None else Path(path).read_bytes()
                for path in (self.ca, self.key, self.cert)
            )
        except OSError as error:
            raise InvalidInput(f"{error.filename}: {error.strerror}: give a PEM file") from None
        if roots is not None:
            _check_roots(Path(str(self.ca)), roots)
        return grpc.ssl_channel_credentials(roots, key, chain)


def _read(files: ServerTls) -> grpc.ServerCertificateConfiguration:
    key, chain = files.key.read_bytes(), files.cert.read_bytes()
    _check_pair(files.cert, files.key)
    roots = None
    if files.client_ca is not None:
        roots = files.client_ca.read_bytes()
        _check_roots(files.client_ca, roots)
    return grpc.ssl_server_certificate_configuration([(key, chain)], roots)


def _check_pair(cert: Path, key: Path) -> None:
    """gRPC itself would take a key of another certificate, and fail at every connection."""
    for path in (cert, key):
        path.read_bytes()  # an OSError that names the file
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            f"{cert} and {key} are no certificate and its private key ({_reason(error)}): give PEM "
            "files that belong together, the key without a password"
        ) from None


def _check_roots(path: Path, pem: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            f"{path} holds no certificates ({_reason(error)}): give those of your CA as PEM"
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__
