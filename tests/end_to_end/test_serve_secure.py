"""`tartan serve` with TLS and API keys, as a process; and what it refuses to start as."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from processes import START_TIMEOUT_S, descendants, first_line, listening_ports, tartan

from cluster.client import Client, RetryPolicy, Tls
from cluster.security.api_keys import new_key
from cluster.wire.shard_channel import ShardChannel
from colbert_core.api import Index
from colbert_core.errors import NotAuthenticated, TartanError, Unavailable

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from certificates import Authority, Pair

STOP_TIMEOUT_S = 60.0
DIM = 32
QUERY = np.full((2, DIM), 0.1, np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("secure") / "index"
    vectors = [rng.standard_normal((6, DIM), dtype=np.float32) for _ in range(40)]
    Index.build(path, vectors, shards=2, centroids=16, normalize=True)
    return path


@dataclass
class Secured:
    """A running `tartan serve`, and what one needs to ask it."""

    process: subprocess.Popen[str]
    address: str
    authority: Authority
    pair: Pair
    key: str
    keys: Path
    log: Path


@pytest.fixture(scope="module")
def secured(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority(folder / "ca", "ours")
    pair = authority.sign("server")
    line, key = new_key("tests", "search")
    keys, log = folder / "api-keys", folder / "log"
    keys.write_text(line.line() + "\n")
    arguments = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--api-keys", str(keys)]
    with log.open("w") as stderr:
        # 0.0.0.0 starts without --insecure, as both are there.
        process = tartan(
            "serve", str(index), "--host", "0.0.0.0", "--port", "0", *arguments, stderr=stderr
        )
    try:
        port = first_line(process).rpartition(":")[2].strip()
        address = f"127.0.0.1:{port}"
        yield Secured(process, address, authority, pair, key, keys, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)


def ask(secured: Secured, key: str | None, tls: Tls | bool) -> int:
    with Client(
        secured.address, api_key=key, tls=tls, retry=RetryPolicy(attempts=1), timeout_s=20.0
    ) as client:
        return len(client.search(QUERY, k=3).hits)


def test_who_has_the_key_and_trusts_the_certificate_searches(secured: Secured) -> None:
    trusted = Tls(secured.authority.ca)
    assert ask(secured, secured.key, trusted) == 3
    with pytest.raises(NotAuthenticated):
        ask(secured, None, trusted)
    with pytest.raises(NotAuthenticated):
        ask(secured, secured.key[:-1] + "?", trusted)
    with pytest.raises(Unavailable):
        ask(secured, secured.key, tls=False)


def test_the_command_line_is_let_in_by_its_environment_or_ends_with_12(secured: Secured) -> None:
    asking = ["search", "words", "--target", secured.address]
    environment = {**os.environ, "TARTAN_TLS_CA": str(secured.authority.ca)}
    refused = tartan(*asking, env=environment, stderr=subprocess.PIPE)
    _, complaint = refused.communicate(timeout=START_TIMEOUT_S)
    assert refused.returncode == 12
    assert "TARTAN_API_KEY" in complaint
    environment["TARTAN_API_KEY"] = secured.key
    let_in = tartan(*asking, env=environment, stderr=subprocess.PIPE)
    _, complaint = let_in.communicate(timeout=START_TIMEOUT_S)
    assert let_in.returncode == 4  # it is asked, and this index has no model for texts
    assert "TARTAN_API_KEY" not in complaint


def test_a_probe_needs_the_authority_and_no_key(secured: Secured) -> None:
    asking = ["health", "--target", secured.address, "--timeout", "20"]
    environment = {name: value for name, value in os.environ.items() if name != "TARTAN_API_KEY"}
    trusting = {**environment, "TARTAN_TLS_CA": str(secured.authority.ca)}
    for env, wanted in ((trusting, 0), (environment, 7)):
        process = tartan(*asking, env=env, stderr=subprocess.PIPE)
        said, _ = process.communicate(timeout=START_TIMEOUT_S)
        assert process.returncode == wanted
        assert said == ("SERVING\n" if wanted == 0 else "")


def test_certificate_and_keys_change_without_a_restart(secured: Secured) -> None:
    other = Authority(secured.keys.parent / "other", "other")
    secured.pair.replace_with(other.sign("renewed"))
    with pytest.raises(Unavailable):
        ask(secured, secured.key, Tls(secured.authority.ca))
    line, key = new_key("more", "search")
    assert secured.process.poll() is None
    with pytest.raises(NotAuthenticated):
        ask(secured, key, Tls(other.ca))
    with secured.keys.open("a") as file:
        file.write(line.line() + "\n")
    assert ask(secured, key, Tls(other.ca)) == 3
    assert ask(secured, secured.key, Tls(other.ca)) == 3


def test_shard_servers_refuse_who_is_not_their_gateway(secured: Secured) -> None:
    servers = [
        pid
        for pid, command in descendants(secured.process.pid).items()
        if command.startswith("ray::ShardServerActor")
    ]
    assert len(servers) == 2
    for pid in servers:
        ports = listening_ports(pid)  # of the shard server, and of Ray's worker
        answers = [asyncio.run(identity(f"127.0.0.1:{port}", secured.key)) for port in ports]
        assert [type(answer) for answer in answers].count(NotAuthenticated) == 1


async def identity(address: str, token: str) -> object:
    """What a server says that it holds, or the error."""
    channel = ShardChannel(address, "", token)
    try:
        return await channel.identity(5.0)
    except TartanError as error:
        return error
    finally:
        await channel.close()


def test_no_secret_is_in_the_log_or_on_a_command_line(secured: Secured) -> None:
    """The last test of this module: everything above was said by then."""
    shown = secured.log.read_text() + " ".join(descendants(secured.process.pid).values())
    assert "read again" in shown  # the log is that of this server
    secret = secured.key.rpartition(".")[2]
    assert secret not in shown
    assert "Bearer" not in shown


@pytest.mark.parametrize("arguments", [[], ["--api-keys"], ["--tls"]])
def test_beyond_loopback_it_refuses_to_start(
    index: Path, tmp_path: Path, arguments: list[str]
) -> None:
    pair = Authority(tmp_path / "ca", "ours").sign("server")
    (tmp_path / "keys").write_text(new_key("a", "search")[0].line())
    given = {
        "--api-keys": ["--api-keys", str(tmp_path / "keys")],
        "--tls": ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)],
    }
    options = [word for name in arguments for word in given[name]]
    process = tartan("serve", str(index), "--host", "0.0.0.0", *options, stderr=subprocess.PIPE)
    _, complaint = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 2
    assert "--insecure" in complaint
    assert "127.0.0.1" in complaint
