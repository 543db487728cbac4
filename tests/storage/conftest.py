"""One S3 server for all storage tests, an empty bucket and an empty cache for each."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from s3_server import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, Door, S3Server
from storage_sizes import DIM, PASSAGES

from colbert_core import Index

# Tiny checkpoints and processes are made as other tests make them.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("core", "end_to_end")]

_buckets = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def environment(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """Credentials where S3's own tools look for them, short time-outs, a cache of its own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": SESSION_TOKEN,
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "TARTAN_CACHE": str(tmp_path / "cache"),
        "TARTAN_STORAGE_TIMEOUT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def s3(environment: pytest.MonkeyPatch, s3_server: S3Server):
    """A client of the tests' own, which goes past doors."""
    return boto3.client("s3", endpoint_url=s3_server.url)


@pytest.fixture
def bucket(s3) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{next(_buckets)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def door(s3_server: S3Server, environment: pytest.MonkeyPatch) -> Iterator[Door]:
    """A door before the server, closed; everything under test goes through it."""
    door = Door(s3_server.port)
    environment.setenv("AWS_ENDPOINT_URL", door.url)
    yield door
    door.kill()


@pytest.fixture(scope="session")
def local_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 passages in 3 shards, built from vectors."""
    rng = np.random.default_rng(11)
    path = tmp_path_factory.mktemp("storage") / "index"
    vectors = [rng.standard_normal((7, DIM), dtype=np.float32) for _ in range(PASSAGES)]
    Index.build(
        path,
        vectors,
        shards=3,
        centroids=16,
        normalize=True,
        texts=[f"text {number}" for number in range(PASSAGES)],
        metadata=[{"number": number} for number in range(PASSAGES)],
    )
    return path


@pytest.fixture
def remote_index(s3, bucket: str, local_index: Path) -> str:
    """The same in a bucket, put there by hand."""
    for path in local_index.rglob("*"):
        if path.is_file():
            key = f"some/index/{path.relative_to(local_index).as_posix()}"
            s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    return f"s3://{bucket}/some/index"
