"""A client in Node, from the .proto file alone, through TLS and with a key: the same answers."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from certificates import Authority
from local_cluster import DIM, LocalCluster, unit_vectors

from cluster.client import Client, Tls
from cluster.gateway import GatewayConfig
from cluster.security.api_keys import new_key
from cluster.security.tls import ServerTls
from colbert_core.api import Index

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto" / "tartan" / "v1" / "search.proto"
VENV = Path(sys.prefix)


@pytest.fixture(scope="module")
def program() -> Path:
    """search.js with what it imports, at the versions of package-lock.json, kept in the virtual
    environment; skipped where npm cannot get them."""
    folder = VENV / "foreign"
    folder.mkdir(exist_ok=True)
    fresh = True
    for name in ("package.json", "package-lock.json", "search.js"):
        here, there = Path(__file__).with_name(name), folder / name
        fresh = fresh and there.exists() and there.read_bytes() == here.read_bytes()
        shutil.copy(here, there)
    if not fresh or not (folder / "node_modules").is_dir():
        command = [str(ROOT / ".ci" / "npm"), "ci", "--no-audit", "--no-fund"]
        environment = {**os.environ, "VENV": str(VENV)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            pytest.skip(f"npm cannot get the packages: {done.stderr.strip()[-200:]}")
    return folder / "search.js"


@dataclass(frozen=True)
class Secured:
    """A gateway with TLS and keys, and how to ask it."""

    address: str
    ca: Path
    key: str
    index: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(5)
    vectors = [unit_vectors(rng, int(rng.integers(3, 9))) for _ in range(120)]
    texts = [f"Text Nr. {number}: naïve “quotes”, 漢字" for number in range(120)]
    Index.build(folder / "index", vectors, texts=texts, shards=3, centroids=32)
    authority = Authority(folder / "ca", "ours")
    pair = authority.sign("gateway")
    line, key = new_key("node", "search")
    (folder / "api-keys").write_text(line.line() + "\n")
    config = GatewayConfig(port=0, tls=ServerTls(pair.cert, pair.key), api_keys=folder / "api-keys")
    with LocalCluster(folder / "index", gateway=config) as cluster:
        port = cluster.address.rpartition(":")[2]
        yield Secured(f"localhost:{port}", authority.ca, key, folder / "index")


def ask(program: Path, secured: Secured, calls: list[dict[str, Any]], **changes: Any) -> Any:
    asked = {"proto": str(PROTO), "target": secured.address, "ca": str(secured.ca)}
    asked |= {"key": secured.key, "calls": calls, **changes}
    environment = {**os.environ, "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["node", str(program)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def matrix(query_LD: Any) -> dict[str, Any]:
    data = base64.b64encode(query_LD.astype("<f4").tobytes()).decode()
    return {"rows": query_LD.shape[0], "dim": query_LD.shape[1], "data": data}


def test_node_finds_what_we_find_with_the_same_scores(program: Path, secured: Secured) -> None:
    rng = np.random.default_rng(6)
    queries = [unit_vectors(rng, length) for length in (1, 4, 32)]
    calls = [{"method": "Search", "request": {"vectors": matrix(q), "k": 7}} for q in queries]
    answers = ask(program, secured, calls)
    with Client(secured.address, api_key=secured.key, tls=Tls(secured.ca)) as client:
        for query, answer in zip(queries, answers, strict=True):
            ours = client.search(query, k=7)
            theirs = answer["answer"]["hits"]
            assert [hit["id"] for hit in theirs] == [hit.id for hit in ours.hits]
            scores = [np.float32(hit["score"]).tobytes() for hit in theirs]
            assert scores == [np.float32(hit.score).tobytes() for hit in ours.hits]
            assert [hit["text"] for hit in theirs] == [hit.text for hit in ours.hits]
            assert answer["answer"]["generation"] == ours.generation


def test_node_is_told_what_is_wrong(program: Path, secured: Secured) -> None:
    query = {"vectors": matrix(np.ones((2, DIM), np.float32))}
    calls = [
        {"method": "Search", "request": {**query, "k": -1}},
        {"method": "Search", "request": {"text": "this index has no model"}},
    ]
    codes = [answer["code"] for answer in ask(program, secured, calls)]
    assert codes == [
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        grpc.StatusCode.FAILED_PRECONDITION.value[0],
    ]
    good = [{"method": "Search", "request": query}]
    [answer] = ask(program, secured, good, key="")
    assert answer["code"] == grpc.StatusCode.UNAUTHENTICATED.value[0]
    [answer] = ask(program, secured, good, ca=None)
    assert answer["code"] in (
        grpc.StatusCode.UNAVAILABLE.value[0],
        grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    )
