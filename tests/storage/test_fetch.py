"""Reading an index from a bucket: fetched, verified, mapped; whatever happens on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from s3_server import SECRET_KEY, SESSION_TOKEN
from storage_sizes import DIM

from colbert_core import Index
from colbert_core.errors import (
    IndexCorrupt,
    IndexMissing,
    InvalidInput,
    StorageError,
    Unavailable,
)
from colbert_core.index import open_generation, read_current
from colbert_core.index.fetch import fetched
from colbert_core.storage import location
from workers.held_shard import HeldShard

QUERY = np.random.default_rng(2).standard_normal((5, DIM), dtype=np.float32)


def content(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "content").iterdir() if p.is_dir())


def shard_keys(s3, bucket: str, name: str) -> list[str]:
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    return sorted(item["Key"] for item in listed if item["Key"].endswith(name))


def test_a_remote_index_answers_as_the_local_one(remote_index, local_index):
    wanted = Index.open(local_index).search(QUERY, k=10)
    remote = Index.open(remote_index)
    found = remote.search(QUERY, k=10)
    assert found == wanted
    assert [(h.text, h.metadata) for h in found] == [(h.text, h.metadata) for h in wanted]


def test_a_file_uri_is_the_local_path(local_index):
    opened = Index.open(local_index.as_uri())
    assert opened.generation.path == local_index
    assert opened.generation.lease is not None


def test_what_is_cached_is_not_fetched_again(remote_index, s3, bucket, tmp_path):
    fetched = []
    Index.open(remote_index, on_fetch=lambda done, total: fetched.append(done))
    assert fetched
    for key in shard_keys(s3, bucket, ".npy"):
        s3.delete_object(Bucket=bucket, Key=key)
    fetched.clear()
    assert len(Index.open(remote_index).search(QUERY, k=3)) == 3
    assert not fetched
    assert not [name for name in content(tmp_path / "cache") if "partial" in name]


def test_only_what_is_opened_is_fetched(remote_index, tmp_path):
    manifest = open_generation(remote_index, shards=()).manifest
    assert len(content(tmp_path / "cache")) == 1  # a gateway: the codec
    HeldShard.open(remote_index, manifest.generation, manifest.shards[1].id)
    assert len(content(tmp_path / "cache")) == 2  # and a shard server: its shard


def test_a_single_file_is_a_part_too(remote_index, local_index, tmp_path):
    remote = location(remote_index)
    manifest = read_current(remote)
    name = next(name for name in manifest.files if name.endswith("ids.arrow"))
    local, pin = fetched(remote, manifest, [name, f"global/{manifest.codec_id}/"])
    assert (local / name).read_bytes() == (local_index / name).read_bytes()
    assert len(content(tmp_path / "cache")) == 2
    pin.close()


def test_nothing_there_is_no_index(environment, bucket):
    with pytest.raises(IndexMissing, match=rf"s3://{bucket}/nothing: there is no index here"):
        Index.open(f"s3://{bucket}/nothing")


def test_a_missing_bucket_is_named(environment, s3_server):
    with pytest.raises(StorageError, match="there is no bucket 'nowhere-at-all'"):
        Index.open("s3://nowhere-at-all/index")


def test_altered_bytes_are_refused_and_named(remote_index, s3, bucket):
    key = shard_keys(s3, bucket, "residuals.npy")[0]
    data = bytearray(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[-1] ^= 1
    s3.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    with pytest.raises(IndexCorrupt, match=rf"{key}: its bytes were altered \(fetched 3 times"):
        Index.open(remote_index)


def test_truncated_and_missing_files_are_named(remote_index, s3, bucket):
    key = shard_keys(s3, bucket, "codes.npy")[-1]
    data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=data[:-3])
    with pytest.raises(IndexCorrupt, match=rf"{key}: it has .* bytes and the manifest says"):
        Index.open(remote_index)
    s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(IndexCorrupt, match=rf"{key}: the manifest lists this file"):
        Index.open(remote_index)


def test_a_damaged_cache_is_fetched_again(remote_index, tmp_path):
    manifest = open_generation(remote_index).manifest
    cached = sorted((tmp_path / "cache" / "content").glob("*/residuals.npy"))
    for path in cached[:2]:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data if path == cached[0] else data[:-1])
    for shard in manifest.shards:
        HeldShard.open(remote_index, manifest.generation, shard.id)


def test_names_in_a_manifest_cannot_leave_the_cache(remote_index, s3, bucket):
    manifest = read_current(location(remote_index))
    raw = json.loads(manifest.to_json())
    raw["codec_id"] = "../../../outside"
    raw["files"] = {
        name.replace(manifest.codec_id + "/", "../../../outside/")
        if name.startswith("global/")
        else name: entry
        for name, entry in raw["files"].items()
    }
    key = f"some/index/generations/{manifest.generation}.json"
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(raw).encode())
    with pytest.raises(IndexCorrupt, match="which is no name of a file"):
        open_generation(remote_index, generation=manifest.generation)


def test_a_connection_that_is_cut_goes_on_where_it_was(remote_index, door, local_index):
    door.start("cut", after_bytes=9_000)  # smaller than the largest files
    assert Index.open(remote_index).search(QUERY, k=5) == Index.open(local_index).search(QUERY, k=5)


def test_a_server_killed_in_the_middle_ends_clearly_and_a_later_run_goes_on(
    remote_index, door, local_index, tmp_path
):
    door.start("die", after_bytes=30_000)
    with pytest.raises(Unavailable, match=r"s3://.*(reading stopped at byte|does not answer)"):
        Index.open(remote_index)
    assert door.dead
    partial = [p for p in (tmp_path / "cache" / "content").iterdir() if p.suffix == ".partial"]
    assert partial
    door.kill()
    door.start()
    assert Index.open(remote_index).search(QUERY, k=5) == Index.open(local_index).search(QUERY, k=5)


def test_a_server_that_stops_answering_is_a_time_out(remote_index, s3_server, environment):
    environment.setenv("TARTAN_STORAGE_TIMEOUT", "0.3")
    s3_server.send(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r"CURRENT: .*0\.3 s"):
            Index.open(remote_index)
    finally:
        s3_server.send(signal.SIGCONT)
    assert len(Index.open(remote_index)) == 90


def test_an_answer_that_stalls_is_a_time_out(remote_index, door, environment):
    environment.setenv("TARTAN_STORAGE_TIMEOUT", "0.3")
    door.start("stall", after_bytes=30_000)
    with pytest.raises(Unavailable, match=r"s3://"):
        Index.open(remote_index)


def test_secrets_are_in_no_message(remote_index, environment, s3_server, bucket):
    messages = []
    for uri, endpoint in (
        (f"s3://{bucket}/none", s3_server.url),
        ("s3://nowhere-at-all/index", s3_server.url),
        (remote_index, "http://127.0.0.1:9"),
        (remote_index, f"http://user:{SECRET_KEY}@127.0.0.1:9"),
    ):
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(Exception) as raised:
            Index.open(uri)
        messages.append(str(raised.value))
    assert all("s3://" in message for message in messages)
    assert not [m for m in messages if SECRET_KEY in m or SESSION_TOKEN in m]


def test_a_uri_holds_no_credentials():
    with pytest.raises(InvalidInput) as raised:
        location(f"s3://key:{SECRET_KEY}@bucket/index")
    assert SECRET_KEY not in str(raised.value)
    assert "environment" in str(raised.value)
