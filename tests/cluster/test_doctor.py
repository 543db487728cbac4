"""`tartan doctor`: each check on values good and bad, and the command on real services."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from certificates import DAY, Authority
from local_cluster import LocalCluster

from cluster.client_health import health_of
from cluster.doctor import certificates, machine, service
from cluster.doctor.examine import Patient, examine, file_checks, free_port
from cluster.doctor.findings import Finding, Verdict, ok, warn, worst
from cluster.doctor.index import encodes, whole
from cluster.gateway import GatewayConfig
from cluster.security.client import access_from_environment
from cluster.security.tls import ServerTls
from cluster.version import own_version
from cluster.wire.types import IndexInfo, ServedShard
from colbert_core.errors import ModelError
from colbert_core.index import Report

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
GIB = 2**30
NOW = datetime.datetime.now(datetime.UTC)


def test_the_worst_verdict_counts() -> None:
    assert worst([]) is OK
    assert worst([ok("a", ""), warn("b", "", "do")]) is WARN
    assert worst([replace(ok("a", ""), verdict=FAIL), warn("b", "", "do")]) is FAIL


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (machine.python_version((3, 11, 7)), OK),
        (machine.python_version((3, 10, 14)), FAIL),
        (machine.kernels("native (avx512vnni)"), OK),
        (machine.kernels("native (neon)"), OK),
        (machine.kernels("native (portable)"), WARN),
        (machine.processors(64, 64), OK),
        (machine.kernels("reference: TARTAN_KERNELS=reference"), WARN),
        (machine.disk("disk", "/data", 50 * GIB, 100 * GIB), OK),
        (machine.disk("disk", "/data", 9 * GIB, 100 * GIB), WARN),
        (machine.disk("disk", "/data", GIB, 100 * GIB), FAIL),
        (machine.memory(8 * GIB, 2 * GIB), OK),
        (machine.memory(8 * GIB, 9 * GIB), WARN),
        (machine.shared_memory(2 * GIB, 2 * GIB), OK),
        (machine.shared_memory(2 * GIB, GIB - 1), WARN),
        (machine.shared_memory(64 * 2**20, 64 * 2**20), FAIL),  # docker's default
        (machine.shared_memory(None, 0), WARN),
        (machine.open_files(65_536, 65_536), OK),
        (machine.open_files(1024, 4096), WARN),
        (machine.open_files(256, 256), FAIL),
        (service.clock(1000.1, 1000.0, 1000.2), OK),
        (service.clock(1004.0, 1000.0, 1000.2), WARN),
        (service.clock(1004.0, 1000.0, 1008.0), OK),  # within what is not known
        (service.clock(900.0, 1000.0, 1000.2), FAIL),
        (service.clock(0.0, 1000.0, 1000.2), WARN),
        (service.version("0.2.0", "0.2.0"), OK),
        (service.version("0.2.0", "0.1.0"), WARN),
        (service.version("0.2.0", ""), WARN),
        (service.generation("g2", "g2"), OK),
        (service.generation("g1", "g2"), WARN),
        (service.health({"": "SERVING", "x/s0": "SERVING"}), OK),
        (service.health({"": "NOT_SERVING", "x/s0": "NOT_SERVING"}), FAIL),
        (service.health({}), FAIL),
        (whole(Report("g1", 12, GIB)), OK),
    ],
)
def test_verdicts(finding: Finding, verdict: Verdict) -> None:
    assert finding.verdict is verdict
    assert finding.found
    assert bool(finding.remedy) == (verdict is not OK)


def test_a_shard_that_is_away_is_named() -> None:
    assert "away: s1" in service.health({"": "NOT_SERVING", "x/s0": "SERVING", "x/s1": "?"}).found


def test_fewer_processors_than_there_are_have_a_reason() -> None:
    assert machine.processors(64, 64).found == "64 of 64"
    assert "2 of 64, by affinity or a quota" in machine.processors(2, 64).found


def test_packages_are_held_to_what_the_software_was_made_for() -> None:
    required = ["torch>=2.9,<2.14", "ray[default]>=2.55,<3", "boto3>=1; extra == 's3'"]
    installed = dict.fromkeys(machine.PACKAGES, "7.0") | {"torch": "2.13.0+cpu", "ray": "3.0.1"}
    del installed["numpy"]
    found = {one.check: one for one in machine.packages(required, installed)}
    assert found["torch"].verdict is OK
    assert (found["ray"].verdict, found["numpy"].verdict) == (FAIL, FAIL)
    assert "<3,>=2.55" in found["ray"].remedy
    assert "boto3" not in found


def test_rays_variables_are_shown_and_its_secrets_are_not() -> None:
    given = {"RAY_ADDRESS": "head:6379", "RAY_AUTH_TOKEN": "hidden", "HOME": "/root"}
    (only,) = machine.ray_environment(given)
    assert only.found == "RAY_ADDRESS=head:6379, RAY_AUTH_TOKEN"
    given = {"RAY_ADDRESS": "h:1", "RAY_TMPDIR": "/a" * 20, "RAY_AUTH_MODE": "disabled"}
    assert [one.verdict for one in machine.ray_environment(given)] == [OK, WARN, WARN]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("doctor") / "ours", "ours")


def certificate_of(authority: Authority, name: str, days: int) -> certificates.Certificate:
    pair = authority.sign(name, ends_in=days * DAY)
    return certificates.read_certificate(pair.cert.read_bytes())


@pytest.mark.parametrize(("days", "verdict"), [(90, OK), (13, WARN), (-1, FAIL)])
def test_certificates_are_warned_of_before_they_end(
    authority: Authority, days: int, verdict: Verdict
) -> None:
    certificate = certificate_of(authority, f"lasts{days}", days)
    assert certificates.validity("certificate", certificate, NOW).verdict is verdict


def test_a_certificate_that_has_not_begun_points_at_the_clock(authority: Authority) -> None:
    early = certificates.validity("c", certificate_of(authority, "early", 90), NOW - 30 * DAY)
    assert early.verdict is FAIL
    assert "clock" in early.remedy


@pytest.mark.parametrize(
    ("names", "wanted", "verdict"),
    [
        (("search.example.org",), "search.example.org", OK),
        (("search.example.org",), "SEARCH.example.org", OK),
        (("*.example.org",), "search.example.org", OK),
        (("*.example.org",), "a.search.example.org", FAIL),
        (("*.example.org",), "example.org", FAIL),
        (("localhost", "127.0.0.1"), "127.0.0.1", OK),
        (("*.0.0.1",), "127.0.0.1", FAIL),
        ((), "search.example.org", FAIL),
    ],
)
def test_names_are_compared_as_tls_does(
    authority: Authority, names: tuple[str, ...], wanted: str, verdict: Verdict
) -> None:
    certificate = replace(certificate_of(authority, "named", 90), names=names)
    assert certificates.names("names", certificate, wanted).verdict is verdict


def test_files_of_a_server_are_checked(authority: Authority, tmp_path: Path) -> None:
    server, other = authority.sign("server", ends_in=90 * DAY), authority.sign("other")
    good = ServerTls(server.cert, server.key, authority.ca)
    assert [one.verdict for one in file_checks(good, "127.0.0.1", NOW)] == [OK] * 4
    assert [one.verdict for one in file_checks(good, "0.0.0.0", NOW)] == [OK] * 3
    mixed = {one.check: one for one in file_checks(replace(good, key=other.key), "::", NOW)}
    assert mixed["private key"].verdict is FAIL
    (missing,) = file_checks(replace(good, cert=tmp_path / "none.pem"), "::", NOW)
    assert (missing.verdict, "none.pem" in missing.found) == (FAIL, True)


def test_a_port_is_free_or_not() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = free_port("127.0.0.1", port)
        assert busy.verdict is WARN
        assert f"--target 127.0.0.1:{port}" in busy.remedy
    assert free_port("127.0.0.1", port).verdict is OK


def test_a_model_that_does_not_load_is_a_finding() -> None:
    def load() -> Any:
        raise ModelError("there is no model at /gone")

    assert encodes(False, load).verdict is OK
    failed = encodes(True, load)
    assert (failed.verdict, failed.found) == (FAIL, "there is no model at /gone")


def test_shards_without_servers_are_a_failure(serving: LocalCluster) -> None:
    shards = (ServedShard("s0", 10, 100, 2), ServedShard("s1", 10, 100, 0))
    info = IndexInfo("g", 20, 200, 8, 4, "tartan", 2, "", shards, serving.pipeline.limits)
    (found,) = service.shards(info)
    assert (found.verdict, "s1" in found.found) == (FAIL, True)


def until_ready(cluster: LocalCluster) -> None:
    """Wait for the gateway to have connected to its shards."""
    end = time.monotonic() + 30.0
    while health_of(cluster.address, [""], access_from_environment()) != {"": "SERVING"}:
        assert time.monotonic() < end, "waited 30 s for the gateway to say SERVING"
        time.sleep(0.02)


def by_check(patient: Patient) -> dict[str, Finding]:
    return {one.check: one for one in examine(patient)}


def test_a_service_and_its_index_are_well(serving: LocalCluster, small_index: Path) -> None:
    until_ready(serving)
    found = by_check(Patient(small_index, serving.address))
    served = ("index", "model", "target", "version", "clock", "shards", "health", "generation")
    assert [found[check].verdict for check in served] == [OK] * 8, found
    assert own_version() in found["version"].found
    assert "port" not in found


def test_a_damaged_index_and_a_lost_gateway_are_failures(small_index: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "index"
    shutil.copytree(small_index, damaged)
    codes = next(damaged.glob("shards/*/codes.npy"))
    codes.write_bytes(codes.read_bytes()[:-1])
    found = by_check(Patient(damaged, "127.0.0.1:1"))
    assert found["index"].verdict is FAIL
    assert "codes.npy" in found["index"].found
    assert found["target"].verdict is FAIL
    (missing,) = [one for one in examine(Patient(tmp_path / "none")) if one.check == "index"]
    assert missing.verdict is FAIL


def test_the_certificate_that_a_gateway_shows_is_checked(
    small_index: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.sign("short", ends_in=2 * DAY)
    config = GatewayConfig(port=0, tls=ServerTls(pair.cert, pair.key))
    with LocalCluster(small_index, gateway=config) as cluster:
        monkeypatch.setenv("TARTAN_TLS_CA", str(authority.ca))
        until_ready(cluster)
        found = by_check(Patient(target=cluster.address))
        assert found["certificate"].verdict is WARN
        assert (found["names"].verdict, found["health"].verdict) == (OK, OK)
        monkeypatch.delenv("TARTAN_TLS_CA")
        assert by_check(Patient(target=cluster.address))["target"].verdict is FAIL


@pytest.mark.parametrize(("target", "code"), [(True, 0), (False, 1)])
def test_the_command_prints_json_and_its_exit_code_says_the_verdict(
    serving: LocalCluster, target: bool, code: int
) -> None:
    until_ready(serving)
    asked = serving.address if target else "127.0.0.1:1"
    run = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "doctor", "--target", asked, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if "TARTAN" not in name},
    )
    report = json.loads(run.stdout)
    assert run.returncode == code, run.stderr
    assert (report["verdict"] == "fail") == bool(code)
    assert {"check", "found", "verdict", "remedy"} == set(report["findings"][0])
