"""TLS and mTLS of a gateway, and certificates that are replaced while it runs."""

from __future__ import annotations

import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from certificates import DAY, Authority, Pair
from cryptography import x509
from local_cluster import DIM, LocalCluster

from cluster.client import Client, RetryPolicy, Tls
from cluster.gateway import GatewayConfig
from cluster.security.tls import ServerTls, server_credentials, server_tls
from colbert_core.errors import InvalidInput, Unavailable

QUERY = np.full((3, DIM), 0.1, np.float32)
ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class Pki:
    """Who signs, who does not, and what the server shows."""

    ours: Authority
    other: Authority
    server: Pair


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    ours = Authority(tmp_path / "ours", "ours")
    return Pki(ours, Authority(tmp_path / "other", "other"), ours.sign("server"))


def ask(address: str, tls: Tls | bool) -> int:
    with Client(address, tls=tls, retry=ONCE, timeout_s=30.0) as client:
        return len(client.search(QUERY, k=2).hits)


def serial_shown(address: str) -> int:
    """The number of the certificate that a new connection sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial_of(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


def test_only_who_trusts_the_authority_connects_and_only_by_tls(
    small_index: Path, pki: Pki
) -> None:
    config = GatewayConfig(port=0, tls=ServerTls(pki.server.cert, pki.server.key))
    with LocalCluster(small_index, gateway=config) as cluster:
        assert ask(cluster.address, Tls(pki.ours.ca)) == 2
        for wrong in (False, True, Tls(pki.other.ca)):
            with pytest.raises(Unavailable):
                ask(cluster.address, wrong)


def test_a_client_must_show_a_certificate_that_is_ours_and_valid(
    small_index: Path, pki: Pki
) -> None:
    tls = ServerTls(pki.server.cert, pki.server.key, client_ca=pki.ours.ca)
    good, expired = pki.ours.sign("good"), pki.ours.sign("expired", ends_in=-DAY)
    foreign = pki.other.sign("foreign")
    with LocalCluster(small_index, gateway=GatewayConfig(port=0, tls=tls)) as cluster:
        for pair in (None, expired, foreign):
            shown = Tls(pki.ours.ca) if pair is None else Tls(pki.ours.ca, pair.cert, pair.key)
            with pytest.raises(Unavailable):
                ask(cluster.address, shown)
        assert ask(cluster.address, Tls(pki.ours.ca, good.cert, good.key)) == 2


def test_a_replaced_certificate_is_shown_and_connections_go_on(small_index: Path, pki: Pki) -> None:
    config = GatewayConfig(port=0, tls=ServerTls(pki.server.cert, pki.server.key))
    with (
        LocalCluster(small_index, gateway=config) as cluster,
        Client(cluster.address, tls=Tls(pki.ours.ca), retry=ONCE) as client,
    ):
        first = serial_of(pki.server)
        client.search(QUERY)
        assert serial_shown(cluster.address) == first
        second = pki.ours.sign("second")
        pki.server.key.write_bytes(second.key.read_bytes())  # half of a replacement
        assert serial_shown(cluster.address) == first
        client.search(QUERY)
        pki.server.replace_with(second)
        assert serial_shown(cluster.address) == serial_of(second) != first
        client.search(QUERY)  # over the connection of before
        assert ask(cluster.address, Tls(pki.ours.ca)) == 2
        pki.server.replace_with(pki.other.sign("third"))
        with pytest.raises(Unavailable):
            ask(cluster.address, Tls(pki.ours.ca))
        client.search(QUERY)


@pytest.mark.long
@pytest.mark.parametrize("encrypted", [True, False])
def test_who_connects_and_says_nothing_is_hung_up_on(
    small_index: Path, pki: Pki, encrypted: bool
) -> None:
    tls = ServerTls(pki.server.cert, pki.server.key) if encrypted else None
    with LocalCluster(small_index, gateway=GatewayConfig(port=0, tls=tls)) as cluster:
        host, port = cluster.address.split(":")
        silent = [socket.create_connection((host, int(port)), timeout=60) for _ in range(100)]
        try:
            silent[0].sendall(b"\x16\x03\x01" if encrypted else b"PRI * HT")  # and no more
            assert ask(cluster.address, Tls(pki.ours.ca) if encrypted else False) == 2
            for connection in silent:
                while connection.recv(1000):  # an empty answer is the end
                    pass
        finally:
            for connection in silent:
                connection.close()
        assert ask(cluster.address, Tls(pki.ours.ca) if encrypted else False) == 2


def test_a_replaced_authority_of_clients_is_asked_for(small_index: Path, pki: Pki) -> None:
    trusted = pki.server.cert.with_name("trusted.pem")
    trusted.write_bytes(pki.ours.ca.read_bytes())
    tls = ServerTls(pki.server.cert, pki.server.key, client_ca=trusted)
    ours, other = pki.ours.sign("a"), pki.other.sign("b")
    with LocalCluster(small_index, gateway=GatewayConfig(port=0, tls=tls)) as cluster:
        assert ask(cluster.address, Tls(pki.ours.ca, ours.cert, ours.key)) == 2
        trusted.write_bytes(pki.other.ca.read_bytes())
        assert ask(cluster.address, Tls(pki.ours.ca, other.cert, other.key)) == 2
        with pytest.raises(Unavailable):
            ask(cluster.address, Tls(pki.ours.ca, ours.cert, ours.key))


def test_files_that_are_not_usable_are_errors_before_anything_listens(
    tmp_path: Path, pki: Pki
) -> None:
    other = pki.ours.sign("another")
    junk = tmp_path / "junk"
    junk.write_text("no PEM, but perhaps a secret")
    bad = [
        ServerTls(pki.server.cert, other.key),
        ServerTls(junk, pki.server.key),
        ServerTls(pki.server.cert, junk),
        ServerTls(pki.server.cert, tmp_path / "none"),
        ServerTls(pki.server.cert, pki.server.key, client_ca=junk),
    ]
    for files in bad:
        with pytest.raises(InvalidInput, match="give") as caught:
            server_credentials(files)
        assert "perhaps a secret" not in str(caught.value)
    for tls in (Tls(ca=junk), Tls(ca=tmp_path / "none"), Tls(cert=other.cert), Tls(key=other.key)):
        with pytest.raises(InvalidInput, match="give"):
            Client("127.0.0.1:1", tls=tls)
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-in", pki.server.key, "-aes256", "-passout", "pass:x"]
    subprocess.run([*command, "-out", locked], check=True, capture_output=True, timeout=60)
    with pytest.raises(InvalidInput, match="without a password"):
        server_credentials(ServerTls(pki.server.cert, locked))
    with pytest.raises(InvalidInput, match="both --tls-cert"):
        server_tls(pki.server.cert, None)
    with pytest.raises(InvalidInput, match="both --tls-cert"):
        server_tls(None, None, pki.ours.ca)
