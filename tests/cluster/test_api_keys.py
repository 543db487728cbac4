"""API keys: the file, the roles, and a gateway that asks for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from local_cluster import DIM, LocalCluster
from typer.testing import CliRunner

from cluster.cli import app
from cluster.client import AsyncClient, Client
from cluster.gateway import GatewayConfig, guard_of
from cluster.security.api_keys import KeyFile, Role, new_key, read_keys
from cluster.security.client import access_from_environment
from cluster.security.exposure import check_exposure
from cluster.security.guard import Guard, role_needed
from cluster.security.tls import ServerTls, Tls
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import FetchQuery
from colbert_core.errors import InvalidInput, NotAllowed, NotAuthenticated
from colbert_core.index import open_generation
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

SEARCH = "/tartan.v1.SearchService/Search"
QUERY = np.full((3, DIM), 0.1, np.float32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file with one key of each role."""
    path = tmp_path_factory.mktemp("keys") / "api-keys"
    made = {role: new_key(f"the-{role}", role) for role in ("search", "admin")}
    path.write_text("# ours\n\n" + "".join(key.line() + "\n" for key, _ in made.values()))
    return {"file": path} | {role: secret for role, (_, secret) in made.items()}


@pytest.fixture(scope="module")
def guarded(small_index: Path, keys: dict[str, Any]) -> Iterator[LocalCluster]:
    config = GatewayConfig(port=0, api_keys=keys["file"])
    with LocalCluster(small_index, gateway=config) as cluster:
        yield cluster


def test_a_key_is_known_again_and_the_file_does_not_hold_it(keys: dict[str, Any]) -> None:
    file = KeyFile(keys["file"])
    owner = file.owner(keys["search"])
    assert owner is not None
    assert (owner.name, owner.role) == ("the-search", Role.SEARCH)
    secret = keys["search"].rpartition(".")[2]
    assert len(secret) == 43  # 256 bits
    assert secret not in keys["file"].read_text()
    assert owner.digest.hex() not in repr(owner)


def test_equal_names_and_secrets_have_different_hashes() -> None:
    first, second = new_key("a", "search"), new_key("a", "search")
    assert first[0].salt != second[0].salt
    assert first[1] != second[1]


def test_anything_but_the_key_is_unknown(keys: dict[str, Any]) -> None:
    file, key = KeyFile(keys["file"]), keys["search"]
    name, secret = key.split(".")[1:]
    wrong = [
        "", "tartan.", key[:-1], key + "x", key.upper(), f"tartan.the-admin.{secret}",
        f"tartan.nobody.{secret}", f"{name}.{secret}", secret, f"x{key}", "tartan..",
        "tartan.." + "\0" * 32, f"tartan.{name}.", "ü" * 50,
    ]  # fmt: skip
    assert [file.owner(presented) for presented in wrong] == [None] * len(wrong)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("alone", "not of the form"),
        ("a root sha256$" + "0" * 32 + "$" + "0" * 64, "give search or admin"),
        ("A! search sha256$" + "0" * 32 + "$" + "0" * 64, "a-z, 0-9"),
        ("a search sha256$00$secretsecret", "not of the form"),
        ("the-search search sha256$" + "0" * 32 + "$" + "0" * 64, "a second key named the-search"),
    ],
)
def test_a_bad_line_is_named_by_number_and_not_repeated(
    keys: dict[str, Any], tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(keys["file"].read_text() + line)
    with pytest.raises(InvalidInput, match="line 5") as caught:
        read_keys(path)
    assert complaint in str(caught.value)
    assert "secretsecret" not in str(caught.value)


def test_no_key_at_all_is_a_mistake_and_so_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        KeyFile(tmp_path / "none")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(InvalidInput, match="tartan key new"):
        KeyFile(tmp_path / "empty")


def test_the_file_is_read_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    (old_line, old), (line, key) = new_key("old", "search"), new_key("new", "search")
    path.write_text(old_line.line())
    file = KeyFile(path)
    assert file.owner(key) is None
    path.write_text(old_line.line() + "\n" + line.line()[:40])  # half written
    with caplog.at_level(logging.ERROR):
        assert file.owner(old) is not None  # the last good content
        assert file.owner(key) is None
    assert len(caplog.records) == 1
    path.write_text(line.line())
    assert file.owner(key) is not None
    assert file.owner(old) is None  # revoked
    path.unlink()
    assert file.owner(key) is not None
    path.write_text("")
    assert file.owner(key) is None  # the last one revoked, too


def test_methods_that_nobody_thought_of_need_the_highest_role(keys: dict[str, Any]) -> None:
    assert role_needed("/grpc.health.v1.Health/Check") is None
    assert role_needed(SEARCH) is Role.SEARCH
    assert role_needed("/tartan.v1.AdminService/Drain") is Role.ADMIN
    assert role_needed("/tartan.v1.SearchServiceAdmin/Drain") is Role.ADMIN
    guard = Guard(None, Role.SEARCH)  # a certificate and no file of keys
    guard.check(SEARCH, None)
    with pytest.raises(NotAllowed, match="--role admin"):
        guard.check("/tartan.v1.AdminService/Drain", None)


def test_without_keys_admin_is_for_loopback_alone(tmp_path: Path) -> None:
    admin = "/tartan.v1.AdminService/Drain"
    guard_of(GatewayConfig()).check(admin, None)
    certificates = ServerTls(tmp_path / "cert", tmp_path / "key", tmp_path / "ca")
    for config in (GatewayConfig(host="0.0.0.0"), GatewayConfig(tls=certificates)):
        guard_of(config).check(SEARCH, None)
        with pytest.raises(NotAllowed):
            guard_of(config).check(admin, None)


def test_who_has_the_key_may_search(guarded: LocalCluster, keys: dict[str, Any]) -> None:
    for role in ("search", "admin"):
        with Client(guarded.address, api_key=keys[role]) as client:
            assert len(client.search(QUERY, k=3).hits) == 3
            assert len(list(client.search_batch([QUERY, QUERY], k=1))) == 2
            assert client.info().passages == 150

    async def ask() -> int:
        async with AsyncClient(guarded.address, api_key=keys["search"] + "\n") as client:
            await client.info()
            batch = [answer async for answer in client.search_batch([QUERY], k=2)]
            return len((await client.search(QUERY, k=3)).hits) + len(batch)

    assert asyncio.run(ask()) == 4


@pytest.mark.parametrize("key", [None, "tartan.the-search.wrong-wrong-wrong", "hunter2"])
def test_who_has_not_is_told_what_to_do_and_never_the_key(
    guarded: LocalCluster, key: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with Client(guarded.address, api_key=key) as client:
        for ask in (lambda: client.search(QUERY), client.info):
            with pytest.raises(NotAuthenticated, match=r"tartan key new|TARTAN_API_KEY") as caught:
                ask()
            assert str(key) not in str(caught.value)
        with pytest.raises(NotAuthenticated):
            list(client.search_batch([QUERY]))
    assert str(key) not in "".join(capfd.readouterr())


def call(address: str, method: str, key: str) -> grpc.StatusCode:
    """The status of a call of any method with an empty message."""
    with grpc.insecure_channel(address) as channel:
        unary = channel.unary_unary(method)
        try:
            unary(b"", timeout=10, metadata=[("authorization", f"Bearer {key}")])
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_the_role_search_calls_nothing_of_admin(
    guarded: LocalCluster, keys: dict[str, Any]
) -> None:
    admin = "/tartan.v1.AdminService/Drain"
    assert call(guarded.address, admin, keys["search"]) is grpc.StatusCode.PERMISSION_DENIED
    assert call(guarded.address, admin, keys["admin"]) is grpc.StatusCode.UNIMPLEMENTED
    assert call(guarded.address, admin, "nobody's") is grpc.StatusCode.UNAUTHENTICATED


def test_health_is_open_and_reflection_is_not(guarded: LocalCluster, keys: dict[str, Any]) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        request = health_pb2.HealthCheckRequest(service="")
        assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([ask]), timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = [("authorization", f"bearer {keys['search']}")]  # in any case, says RFC 7235
        assert list(stub.ServerReflectionInfo(iter([ask]), timeout=10, metadata=metadata))


def test_a_shard_server_answers_only_who_has_the_token(small_index: Path) -> None:
    opened = open_generation(small_index, shards=())
    shard = opened.manifest.shards[0].id
    server = ShardServer(
        HeldShard.open(small_index, opened.manifest.generation, shard), token="the token"
    )
    server.start()

    async def ask(token: str | None) -> None:
        channel = ShardChannel(server.address, shard, token)
        try:
            await channel.identity(10.0)
            query = FetchQuery(opened.manifest.generation, np.array([0]), True, True)
            assert len(await channel.fetch(query, 10.0)) == 1
        finally:
            await channel.close()

    try:
        asyncio.run(ask("the token"))
        for wrong in (None, "the toke", "the token "):
            with pytest.raises(NotAuthenticated, match="ask the gateway") as caught:
                asyncio.run(ask(wrong))
            assert "the token" not in str(caught.value).replace("has the token", "")
        with grpc.insecure_channel(server.address) as channel:
            request = health_pb2.HealthCheckRequest(service="")
            assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status == 1
    finally:
        server.stop(0.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_nothing(host: str) -> None:
    check_exposure(host, tls=False, authentication=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "8.8.8.8", "", "no.such.invalid"])
def test_beyond_loopback_both_are_needed(host: str) -> None:
    for tls, authentication in ((False, False), (True, False), (False, True)):
        with pytest.raises(InvalidInput, match="--insecure") as caught:
            check_exposure(host, tls=tls, authentication=authentication, insecure=False)
        assert ("--tls-cert" in str(caught.value)) is not tls
        assert ("--api-keys" in str(caught.value)) is not authentication
        check_exposure(host, tls=tls, authentication=authentication, insecure=True)
    check_exposure(host, tls=True, authentication=True, insecure=False)


def test_a_key_does_not_leave_this_machine_in_clear_text() -> None:
    with pytest.raises(InvalidInput, match="clear text") as caught:
        Client("192.0.2.1:50051", api_key="tartan.a.secret")
    assert "secret" not in str(caught.value)
    Client("192.0.2.1:50051", api_key="tartan.a.secret", insecure=True).close()
    Client("192.0.2.1:50051", api_key="tartan.a.secret", tls=True).close()
    with pytest.raises(InvalidInput, match="characters") as caught:
        Client("127.0.0.1:1", api_key="secret\nsecret")
    assert "secret" not in str(caught.value)


def test_the_command_line_takes_it_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TARTAN_API_KEY", "TARTAN_TLS", "TARTAN_TLS_CA", "TARTAN_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    assert access_from_environment() == {"api_key": None, "tls": False, "insecure": False}
    monkeypatch.setenv("TARTAN_API_KEY", "k")
    monkeypatch.setenv("TARTAN_TLS_CA", "ca.pem")
    assert access_from_environment() == {"api_key": "k", "tls": Tls("ca.pem"), "insecure": False}


def test_key_new_prints_the_line_and_once_the_key(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["key", "new", "notebook", "--role", "search"])
    assert run.exit_code == 0
    path = tmp_path / "keys"
    path.write_text(run.stdout)
    owner = KeyFile(path).owner(run.stderr.strip())
    assert owner is not None
    assert owner.name == "notebook"
    assert run.stderr.strip() not in run.stdout
