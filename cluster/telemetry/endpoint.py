"""`/metrics` over HTTP, for Prometheus: off unless a port is given, on loopback unless a host is.

What it shows are counts and times, with ids of shards and generations; nothing of queries, texts,
keys or clients. Still, beyond loopback it is shown by TLS where the server has a certificate, and
asked for certificates where the server asks.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from cluster.security.tls import ServerTls
from colbert_core.errors import AddressInUse, InvalidInput

IDLE_TIMEOUT_S = 10  # who connects and says nothing is hung up on


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where metrics are shown; port 0 takes a free one."""

    port: int
    host: str = "127.0.0.1"
    tls: ServerTls | None = None

    def check(self) -> None:
        """Raise InvalidInput where the port is none."""
        if not 0 <= self.port <= 65_535:
            raise InvalidInput(f"the metrics port is {self.port}; give 0 to 65535 (0: a free one)")


class _Handler(MetricsHandler):
    timeout = IDLE_TIMEOUT_S
    server_version, sys_version = "tartan", ""

    def do_GET(self) -> None:  # noqa: N802
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, "metrics are at /metrics")
            return
        super().do_GET()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a peer that hangs up, or whose handshake fails, is no error of ours."""


class MetricsEndpoint:
    """An HTTP server in a thread, until `stop`."""

    def __init__(self, where: MetricsAddress, collectors: CollectorRegistry) -> None:
        """
        Raises:
            AddressInUse: the address is taken, or not one of this machine's.
        """
        handler = _Handler.factory(collectors)
        try:
            self._server = _Server((where.host, where.port), handler)
        except OSError as error:
            raise AddressInUse(
                f"metrics cannot be shown on {where.host}:{where.port} "
                f"({error.strerror or error}): choose another with --metrics-port (0 takes a free "
                "one) or --metrics-host"
            ) from error
        if where.tls is not None:
            # The handshake is left to the thread of the connection: a slow one delays nobody.
            self._server.socket = _context(where.tls).wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.address = f"{where.host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _context(files: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key, password="")
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
