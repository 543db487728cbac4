"""TLS between gateway and shard servers: who is let in, and who is believed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.security.inner_certificates import InnerCertificates, inner_certificates
from cluster.wire.inner_tls import InnerTls
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import FetchQuery
from colbert_core.errors import DeadlineExceeded, Unavailable
from colbert_core.index import open_generation
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

TOKEN = "the token"


@pytest.fixture(scope="module")
def ours() -> InnerCertificates:
    return inner_certificates()


@pytest.fixture(scope="module")
def server(small_index: Path, ours: InnerCertificates) -> Iterator[ShardServer]:
    manifest = open_generation(small_index, shards=()).manifest
    held = HeldShard.open(small_index, manifest.generation, manifest.shards[0].id)
    server = ShardServer(held, token=TOKEN, tls=ours.shard)
    server.start()
    yield server
    server.stop(0.0)


def ask(address: str, tls: InnerTls | None, timeout_s: float = 10.0) -> int:
    """Passages that the server says it holds."""

    async def run() -> int:
        channel = ShardChannel(address, "", TOKEN, tls)
        try:
            return (await channel.identity(timeout_s)).passages
        finally:
            await channel.close()

    return asyncio.run(run())


def test_a_gateway_of_the_same_cluster_is_answered(
    server: ShardServer, ours: InnerCertificates, small_index: Path
) -> None:
    manifest = open_generation(small_index, shards=()).manifest
    shard = manifest.shards[0]
    assert ask(server.address, ours.gateway) == shard.passages

    async def fetch() -> int:
        channel = ShardChannel(server.address, shard.id, TOKEN, ours.gateway)
        query = FetchQuery(manifest.generation, np.array([0, 1]), True, True)
        try:
            return len(await channel.fetch(query, 10.0))
        finally:
            await channel.close()

    assert asyncio.run(fetch()) == 2


def test_nobody_else_connects_even_with_the_token(
    server: ShardServer, ours: InnerCertificates
) -> None:
    others = inner_certificates()
    wrong = {
        "in clear text": None,
        "another cluster's gateway": others.gateway,
        "it trusts ours, and shows another's": InnerTls(
            others.gateway.cert, others.gateway.key, trusted=ours.shard.cert
        ),
        "a shard server of ours": InnerTls(
            ours.shard.cert, ours.shard.key, trusted=ours.shard.cert
        ),
    }
    for who, tls in wrong.items():
        try:
            pytest.fail(f"let in: {who}: {ask(server.address, tls)}")
        except Unavailable:
            continue


def test_a_false_shard_server_learns_no_token(ours: InnerCertificates, small_index: Path) -> None:
    """One that shows another certificate, and one that speaks no TLS."""
    manifest = open_generation(small_index, shards=()).manifest
    held = HeldShard.open(small_index, manifest.generation, manifest.shards[0].id)
    others = inner_certificates()
    false = InnerTls(others.shard.cert, others.shard.key, trusted=ours.gateway.cert)
    server = ShardServer(held, tls=false)
    server.start()
    try:
        with pytest.raises(Unavailable):
            ask(server.address, ours.gateway)
    finally:
        server.stop(0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard = bytearray()

        def listen() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(4096):
                    heard.extend(data)

        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        with pytest.raises((Unavailable, DeadlineExceeded)):
            ask(f"127.0.0.1:{listener.getsockname()[1]}", ours.gateway, timeout_s=1.0)
        listening.join(30.0)
    assert heard
    assert TOKEN.encode() not in heard


def test_private_keys_are_not_shown(ours: InnerCertificates) -> None:
    assert "BEGIN CERTIFICATE" in repr(ours)
    assert "PRIVATE" not in repr(ours)
    assert b"PRIVATE KEY" in ours.shard.key
