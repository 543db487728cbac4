"""A running `tartan serve` with mTLS and API keys, and those who should not get anything from it.

All of it is done to one server, which must answer others meanwhile and afterwards, and not grow.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fuzzed_requests import DIM, fuzzed
from processes import first_line, tartan

from cluster.client import Client, RetryPolicy, Tls
from cluster.security.api_keys import new_key
from colbert_core.api import Index
from colbert_core.errors import NotAuthenticated, Unavailable

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from certificates import DAY, Authority, Pair

STOP_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
QUERY = np.full((2, DIM), 0.1, np.float32)
SERVICE = "/tartan.v1.SearchService/"
AT_ONCE = 64
GROWTH_MIB = 48  # of the gateway's resident memory, beyond what it had after the first requests

REFUSALS = {
    grpc.StatusCode.OK,  # what was changed is still a request
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,  # a text: this index has no model
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True)
class Server:
    """The server, and how one is let in."""

    process: subprocess.Popen[str]
    address: str
    ours: Authority
    good: Pair
    keys: dict[str, str]
    log: Path

    @property
    def memory_mib(self) -> float:
        """Resident, of the process with the gateway."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def search(self) -> int:
        """What somebody finds who may."""
        tls = Tls(self.ours.ca, self.good.cert, self.good.key)
        with Client(
            self.address, api_key=self.keys["search"], tls=tls, retry=RetryPolicy(attempts=1)
        ) as client:
            return len(client.search(QUERY, k=3, timeout_s=CALL_TIMEOUT_S).hits)

    def channel(self) -> grpc.Channel:
        """A connection of its own, with a certificate."""
        shown = (self.ours.ca, self.good.key, self.good.cert)
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in shown))
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        return grpc.secure_channel(self.address, credentials, options)

    def metadata(self, role: str = "search") -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.keys[role]}")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked")
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal((6, DIM), dtype=np.float32) for _ in range(40)]
    metadata = [{"number": number} for number in range(40)]
    Index.build(
        folder / "index", vectors, metadata=metadata, shards=2, centroids=16, normalize=True
    )
    ours = Authority(folder / "ca", "ours")
    shown, good = ours.sign("server"), ours.sign("good")
    lines, keys = zip(*(new_key(role, role) for role in ("search", "admin")), strict=True)
    (folder / "api-keys").write_text("".join(line.line() + "\n" for line in lines))
    options = ["--tls-cert", str(shown.cert), "--tls-key", str(shown.key)]
    options += ["--tls-client-ca", str(ours.ca), "--api-keys", str(folder / "api-keys")]
    log = folder / "log"
    with log.open("w") as stderr:
        process = tartan("serve", str(folder / "index"), "--port", "0", *options, stderr=stderr)
    try:
        address = first_line(process).split()[-1]
        known = dict(zip(("search", "admin"), keys, strict=True))
        yield Server(process, address, ours, good, known, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)


@pytest.fixture(autouse=True)
def _still_there(server: Server) -> Iterator[None]:
    """After each attack somebody else finds what there is."""
    yield
    assert server.search() == 3
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


def code_of(call: Any) -> grpc.StatusCode:
    """How a call ended; its answers are read, since it has not ended before."""
    with contextlib.suppress(grpc.RpcError):
        list(call)
    code: grpc.StatusCode = call.code()
    return code


def test_without_a_certificate_that_is_ours_and_valid_nobody_connects(
    server: Server, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "foreign", "foreign").sign("foreign")
    expired = server.ours.sign("expired", ends_in=-DAY)
    for pair in (None, expired, foreign):
        cert, key = (None, None) if pair is None else (pair.cert, pair.key)
        tls = Tls(server.ours.ca, cert, key)
        with (
            Client(
                server.address,
                api_key=server.keys["search"],
                tls=tls,
                retry=RetryPolicy(attempts=1),
                timeout_s=5.0,
            ) as client,
            pytest.raises(Unavailable),
        ):
            client.search(QUERY)


def test_a_certificate_is_not_enough_and_nor_is_a_low_role(server: Server) -> None:
    tls = Tls(server.ours.ca, server.good.cert, server.good.key)
    for key in (None, server.keys["search"][:-1] + "?"):
        with (
            Client(server.address, api_key=key, tls=tls, timeout_s=CALL_TIMEOUT_S) as client,
            pytest.raises(NotAuthenticated),
        ):
            client.search(QUERY)
    with server.channel() as channel:
        for method in ("ListShards", "GetStats", "Reload", "Scale", "Drain", "NoSuchMethod"):
            call = channel.unary_unary(f"/tartan.v1.AdminService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=server.metadata("search"), timeout=CALL_TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_giant_message_is_refused_before_it_is_read(server: Server) -> None:
    with server.channel() as channel:
        search = channel.unary_unary(SERVICE + "Search")
        before = server.memory_mib
        for size in (17, 40, 200):
            with pytest.raises(grpc.RpcError) as caught:
                search(bytes(size * 2**20), metadata=server.metadata(), timeout=CALL_TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.memory_mib < before + 100


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_fuzzed_requests_are_refused_as_what_they_are(server: Server, count: int) -> None:
    with server.channel() as channel:
        calls = {name: channel.unary_stream(SERVICE + name) for name in METHODS_OF_SEARCH}

        def send(requests: list[tuple[str, bytes]]) -> Counter[grpc.StatusCode]:
            seen: Counter[grpc.StatusCode] = Counter()
            under_way = []
            for method, data in requests:
                call = calls[method](data, metadata=server.metadata(), timeout=CALL_TIMEOUT_S)
                under_way.append(call)
                if len(under_way) == AT_ONCE:
                    seen += Counter(map(code_of, under_way))
                    under_way = []
            return seen + Counter(map(code_of, under_way))

        requests = list(fuzzed(count, seed=count))
        seen = send(requests[:1_000])  # buffers and pools have their sizes then
        before = server.memory_mib
        seen += send(requests[1_000:])
        assert set(seen) <= REFUSALS
        assert seen.total() == count
        assert seen[grpc.StatusCode.INVALID_ARGUMENT] > count / 4
        assert server.memory_mib < before + GROWTH_MIB


METHODS_OF_SEARCH = ("Search", "SearchBatch", "GetIndexInfo")


def test_calls_that_never_send_their_request_block_nobody(server: Server) -> None:
    end = threading.Event()

    def never() -> Iterator[bytes]:
        end.wait(CALL_TIMEOUT_S)
        yield from ()

    with server.channel() as first, server.channel() as second:
        calls = [
            channel.stream_unary(SERVICE + "Search").future(never(), metadata=server.metadata())
            for channel in (first, second)
            for _ in range(300)
        ]
        try:
            assert server.search() == 3
            assert not any(call.done() for call in calls)
        finally:  # each ends by itself after ten seconds: tests/cluster/test_intake.py
            end.set()


def test_connections_that_speak_something_else_are_hung_up_on(server: Server) -> None:
    host, port = server.address.split(":")
    rng = np.random.default_rng(0)
    said = [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff"]
    said += [rng.bytes(200) for _ in range(50)]
    descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    connections = []
    for data in said:
        connection = socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S)
        connection.sendall(data)
        connections.append(connection)
    assert server.search() == 3
    for connection in connections:
        with connection:
            try:
                while connection.recv(1000):  # an empty answer is the end
                    pass
            except ConnectionResetError:
                continue
    assert server.search() == 3
    assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) <= descriptors + 2
