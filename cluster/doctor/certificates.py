"""Checks of certificates: that they belong together, name what clients ask for, and will last."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from cluster.doctor.findings import Finding, fail, ok, warn

SOON = datetime.timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What of a certificate is checked; times are UTC."""

    subject: str
    names: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime
    public_key: bytes


def read_certificate(pem: bytes) -> Certificate:
    """The first certificate of a PEM file.

    Raises:
        ValueError: there is none.
    """
    read = x509.load_pem_x509_certificate(pem)
    try:
        named = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *named.get_values_for_type(x509.DNSName),
            *map(str, named.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    return Certificate(
        subject=read.subject.rfc4514_string(),
        names=tuple(names),
        not_before=read.not_valid_before_utc,
        not_after=read.not_valid_after_utc,
        public_key=read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


def read_der(der: bytes) -> Certificate:
    """A certificate as a server shows it."""
    return read_certificate(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))


def validity(check: str, certificate: Certificate, now: datetime.datetime) -> Finding:
    """Whether it is valid, and for how long."""
    ends = certificate.not_after
    found = f"{certificate.subject}, until {ends:%Y-%m-%d %H:%M} UTC"
    replace = "put a new certificate and key in the same places; servers read them by themselves"
    if now >= ends:
        return fail(check, f"{found}: it has ended", replace)
    if now < certificate.not_before:
        begins = f"{certificate.not_before:%Y-%m-%d %H:%M}"
        return fail(check, f"{found}: it begins {begins} UTC", "check this machine's clock")
    if ends - now < SOON:
        return warn(check, f"{found}: {(ends - now).days} days left", replace)
    return ok(check, found)


def names(check: str, certificate: Certificate, wanted: str) -> Finding:
    """Whether clients that ask for the host `wanted` will take it."""
    shown = ", ".join(certificate.names) or "none"
    if any(_fits(name, wanted) for name in certificate.names):
        return ok(check, shown)
    return fail(
        check,
        f"{shown}; clients ask for {wanted}",
        f"sign one with subjectAltName={'IP' if _is_ip(wanted) else 'DNS'}:{wanted}",
    )


def key_match(check: str, certificate: Certificate, key_pem: bytes) -> Finding:
    """Whether the private key is the certificate's."""
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        return fail(check, "no private key as PEM without a password", "give the certificate's key")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != certificate.public_key:
        return fail(check, "the key is another certificate's", "give files that belong together")
    return ok(check, "the key is the certificate's")


def authorities(check: str, pem: bytes, now: datetime.datetime) -> Iterator[Finding]:
    """Whether what certificates of clients are checked against is valid itself."""
    for number, read in enumerate(x509.load_pem_x509_certificates(pem), 1):
        one = read_certificate(read.public_bytes(Encoding.PEM))
        yield validity(f"{check} {number}", one, now)


def _fits(name: str, wanted: str) -> bool:
    """As TLS compares: a `*` stands for one label, the first."""
    if _is_ip(name) or _is_ip(wanted):
        return name == wanted
    have, asked = name.lower().split("."), wanted.lower().split(".")
    first = have[0] in ("*", asked[0])
    return len(have) == len(asked) and first and have[1:] == asked[1:]


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
