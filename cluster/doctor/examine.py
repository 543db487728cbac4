"""`tartan doctor` looks at this machine, an index, certificates, a gateway; checks are elsewhere.

What cannot be read is a finding, too: nothing that a check meets ends the others.
"""

from __future__ import annotations

import datetime
import os
import resource
import shutil
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from cluster.client import Client
from cluster.client_health import ALL, health_of
from cluster.client_retry import RetryPolicy
from cluster.doctor import certificates, machine, service
from cluster.doctor.findings import Finding, fail, ok, warn
from cluster.doctor.index import index_checks
from cluster.listening import try_to_listen
from cluster.security.client import access_from_environment
from cluster.security.tls import ServerTls
from cluster.version import own_version
from cluster.wire.types import IndexInfo
from colbert_core.errors import TartanError
from colbert_core.hardware import available_memory, processors
from colbert_core.index import open_generation
from colbert_core.kernels import IMPLEMENTATION
from colbert_core.storage import Location

SHARD_SERVICE = "tartan.shard.v1.ShardService"


@dataclass(frozen=True, slots=True)
class Patient:
    """What to examine.

    Attributes:
        index: an index, or None.
        target: HOST:PORT of a gateway, or None.
        host, port: what `tartan serve` would listen on here.
        tls: the files that it would show.
    """

    index: Location | None = None
    target: str | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    tls: ServerTls | None = None
    timeout_s: float = 5.0


def examine(patient: Patient) -> Iterator[Finding]:
    """All checks, as they are made."""
    yield from machine_checks(patient.index)
    if patient.tls is not None:
        yield from file_checks(patient.tls, patient.host, datetime.datetime.now(datetime.UTC))
    if patient.index is not None:
        yield from index_checks(patient.index, available_memory())
    if patient.target is None:
        yield free_port(patient.host, patient.port)
    else:
        yield from target_checks(patient, patient.target)


def machine_checks(index: Location | None) -> Iterator[Finding]:
    """This machine and its software."""
    yield machine.python_version(sys.version_info[:3])
    yield from machine.packages(requires("tartan-search") or (), _installed())
    yield machine.kernels(IMPLEMENTATION)
    yield machine.processors(processors(), os.cpu_count() or 1)
    places = {"temporary files": Path(tempfile.gettempdir())}
    if isinstance(index, Path) and index.exists():
        places["disk of the index"] = index
    for name, where in places.items():
        used = shutil.disk_usage(where)
        yield machine.disk(name, str(where), used.free, used.total)
    shm = Path("/dev/shm")
    room = shutil.disk_usage(shm) if shm.is_dir() else None
    yield machine.shared_memory(room and room.total, room.free if room else 0)
    yield machine.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield from machine.ray_environment(os.environ)


def file_checks(tls: ServerTls, host: str, now: datetime.datetime) -> Iterator[Finding]:
    """The PEM files that a server would show."""
    try:
        certificate = certificates.read_certificate(tls.cert.read_bytes())
        key = tls.key.read_bytes()
        client_ca = None if tls.client_ca is None else tls.client_ca.read_bytes()
    except (OSError, ValueError) as error:
        yield fail("certificate", str(error), "give PEM files that this user can read")
        return
    yield certificates.validity("certificate", certificate, now)
    yield certificates.key_match("private key", certificate, key)
    if host not in ("0.0.0.0", "::", ""):
        yield certificates.names("names", certificate, host)
    if client_ca is not None:
        yield from certificates.authorities("authority of clients", client_ca, now)


def free_port(host: str, port: int) -> Finding:
    """Whether `tartan serve` could listen here."""
    where = f"{host}:{port}"
    try:
        try_to_listen(host, port)
    except OSError as error:
        return warn(
            "port",
            f"{where}: {error.strerror or error}",
            f"if a gateway runs there, ask it: --target {where}; else choose another --port",
        )
    return ok("port", f"{where} is free")


def target_checks(patient: Patient, target: str) -> Iterator[Finding]:
    """A running gateway: reachable, by TLS or not, healthy, on time, and up to date."""
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    try:
        socket.create_connection((host, int(port)), patient.timeout_s).close()
    except (OSError, ValueError) as error:
        yield fail(
            "target", f"{target}: {error}", "is it running, and does a firewall let it through?"
        )
        return
    access = access_from_environment()
    if access.get("tls"):
        yield from _shown_certificate(host, int(port), patient.timeout_s)
    try:
        with Client(target, timeout_s=patient.timeout_s, retry=RetryPolicy(1), **access) as client:
            client.info()  # the connection is made: the second call is timed
            asked_at = time.time()
            info = client.info()
            answered_at = time.time()
    except TartanError as error:
        yield fail("target", str(error), "see TARTAN_API_KEY and TARTAN_TLS_CA in docs/security.md")
        return
    yield ok("target", f"{target} answers in {(answered_at - asked_at) * 1e3:.1f} ms")
    yield service.version(own_version(), info.version)
    yield service.clock(info.server_time, asked_at, answered_at)
    yield from service.shards(info)
    names = [ALL, *(f"{SHARD_SERVICE}/{shard.shard_id}" for shard in info.shards)]
    try:
        yield service.health(health_of(target, names, access, timeout_s=patient.timeout_s))
    except TartanError as error:
        yield fail("health", str(error), "the health service needs no key; is a proxy in between?")
    if patient.index is not None:
        yield from _same_generation(patient.index, info)


def _same_generation(index: Location, info: IndexInfo) -> Iterator[Finding]:
    try:
        live = open_generation(index, shards=()).manifest.generation
    except TartanError:
        return  # the index's own check has said so
    yield service.generation(info.generation, live)


def _shown_certificate(host: str, port: int, timeout_s: float) -> Iterator[Finding]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is looked at, not used
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            der = secure.getpeercert(binary_form=True) or b""
        certificate = certificates.read_der(der)
    except (OSError, ValueError) as error:
        yield fail("certificate", f"{host}:{port} shows none: {error}", "is it served by TLS?")
        return
    yield certificates.validity("certificate", certificate, datetime.datetime.now(datetime.UTC))
    yield certificates.names("names", certificate, host)


def _installed() -> dict[str, str]:
    found = {}
    for name in machine.PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
