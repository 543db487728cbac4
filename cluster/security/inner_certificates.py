"""Certificates for the inside of a serving cluster, made when it starts and kept in memory alone.

They travel as the token does: through Ray, to the actors that need them. They live as long as what
was started with them; starting anew makes new ones.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cluster.wire.inner_tls import SHARD_NAME, InnerTls

BEFORE = datetime.timedelta(days=1)  # clocks of nodes differ
LIFE = datetime.timedelta(days=3650)  # of a certificate that dies with its cluster


@dataclass(frozen=True, slots=True)
class InnerCertificates:
    """What shard servers and what gateways are given."""

    shard: InnerTls
    gateway: InnerTls


def inner_certificates() -> InnerCertificates:
    """New keys and certificates; each side trusts the other, and nobody else."""
    shard, shard_key = _self_signed(SHARD_NAME)
    gateway, gateway_key = _self_signed("gateway.tartan.internal")
    return InnerCertificates(
        shard=InnerTls(shard, shard_key, trusted=gateway),
        gateway=InnerTls(gateway, gateway_key, trusted=shard),
    )


def _self_signed(name: str) -> tuple[bytes, bytes]:
    """A certificate and its private key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return signed.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
