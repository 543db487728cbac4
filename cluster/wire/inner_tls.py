"""TLS between a gateway and its shard servers: what each side shows, and the one that it trusts.

Each side has a self-signed certificate and trusts that of the other side alone. There is no
authority, so nobody can sign a third; a shard server's certificate does not open another shard
server, and neither belongs to an address, which changes when Ray restarts a server elsewhere.
cluster/security/inner_certificates.py makes both when a cluster starts serving.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

SHARD_NAME = "shard.tartan.internal"
"""What every shard server's certificate is for, wherever the server is."""


@dataclass(frozen=True, slots=True)
class InnerTls:
    """One side's own, as PEM.

    Attributes:
        cert: what it shows.
        key: the private key of that.
        trusted: the one certificate that it takes from the other side.
    """

    cert: bytes
    key: bytes = field(repr=False)
    trusted: bytes

    def of_server(self) -> grpc.ServerCredentials:
        """What a shard server listens with: nobody without the gateways' certificate connects."""
        return grpc.ssl_server_credentials(
            [(self.key, self.cert)], self.trusted, require_client_auth=True
        )

    def of_channel(self) -> grpc.ChannelCredentials:
        """What a gateway connects with; the channel also needs `SERVER_NAME`."""
        return grpc.ssl_channel_credentials(self.trusted, self.key, self.cert)


SERVER_NAME = ("grpc.ssl_target_name_override", SHARD_NAME)
"""The channel option that asks for the shard servers' name instead of for an address."""
