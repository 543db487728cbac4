"""Publishing in a bucket: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from s3_server import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN
from storage_sizes import DIM

from colbert_core import Index
from colbert_core.errors import (
    IndexCorrupt,
    IndexExists,
    IndexMissing,
    StorageError,
    TartanError,
    Unavailable,
)
from colbert_core.index import (
    check_remote_place,
    fetched_afresh,
    live_generation,
    push,
    read_current,
    verify,
)
from colbert_core.storage import RemotePath, location, store_of
from colbert_core.storage import s3 as s3_module
from colbert_core.storage.store import Conflict

QUERY = np.random.default_rng(2).standard_normal((5, DIM), dtype=np.float32)


@pytest.fixture
def remote(s3, bucket: str) -> RemotePath:
    place = location(f"s3://{bucket}/indexes/mine")
    assert isinstance(place, RemotePath)
    return place


@pytest.fixture
def other_index(tmp_path: Path) -> Path:
    """Another small index."""
    rng = np.random.default_rng(12)
    vectors = [rng.standard_normal((5, DIM), dtype=np.float32) for _ in range(40)]
    Index.build(tmp_path / "other", vectors, shards=2, centroids=16, normalize=True)
    return tmp_path / "other"


def objects(s3, bucket: str) -> dict[str, str]:
    """Key → ETag and time of everything in a bucket."""
    listed = s3.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {item["Key"]: f"{item['ETag']} {item['LastModified']}" for item in listed}


def test_what_was_pushed_answers_as_the_local_index(remote, local_index):
    sent: list[int] = []
    manifest = push(local_index, remote, overwrite=False, on_sent=sent.append)
    assert sum(sent) == sum(entry.size_bytes for entry in manifest.files.values())
    assert manifest == read_current(local_index) == read_current(remote)
    assert Index.open(str(remote)).search(QUERY, k=9) == Index.open(local_index).search(QUERY, k=9)
    with fetched_afresh(remote) as copy:
        assert verify(copy) == manifest


def test_the_same_push_again_sends_nothing(remote, local_index, s3, bucket):
    push(local_index, remote, overwrite=False)
    before = objects(s3, bucket)
    push(local_index, remote, overwrite=False)
    assert objects(s3, bucket) == before


def test_a_place_that_is_taken_is_refused_unless_overwritten(remote, local_index, other_index):
    first = push(local_index, remote, overwrite=False)
    for refuse in (
        lambda: check_remote_place(remote, overwrite=False),
        lambda: push(other_index, remote, overwrite=False),
    ):
        with pytest.raises(IndexExists, match="--overwrite"):
            refuse()
    opened = Index.open(str(remote))
    second = push(other_index, remote, overwrite=True)
    assert second.parent == first.generation
    assert live_generation(remote) == second.generation
    assert len(opened.search(QUERY, k=99)) == 90  # who opened the old one goes on with it
    assert len(Index.open(str(remote))) == 40


def test_what_is_no_index_is_not_written_into(remote, s3, bucket):
    s3.put_object(Bucket=bucket, Key=f"{remote.key}/thesis.pdf", Body=b"...")
    with pytest.raises(IndexExists, match=r"holds 'thesis\.pdf'"):
        check_remote_place(remote, overwrite=True)


def test_two_builds_at_once_lose_no_update(remote, local_index, other_index, monkeypatch):
    """Another generation is published between our look at the pointer and our swap."""
    swap = s3_module.S3Store.swap

    def late(store, key, data, expected):
        monkeypatch.undo()
        push(other_index, remote, overwrite=True)
        swap(store, key, data, expected)

    with monkeypatch.context() as patched:
        patched.setattr(s3_module.S3Store, "swap", late)
        monkeypatch = patched
        with pytest.raises(IndexExists, match="was published while this one was built on nothing"):
            push(local_index, remote, overwrite=True)
    assert live_generation(remote) == read_current(other_index).generation


def test_the_pointer_is_swapped_only_from_what_was_expected(remote):
    store, key = store_of(remote), f"{remote.key}/CURRENT"
    store.swap(key, b"one", None)
    for expected in (None, '"00000000000000000000000000000000"'):
        with pytest.raises(Conflict):
            store.swap(key, b"two", expected)
    version = store.head(key).version
    store.swap(key, b"two", version)
    with pytest.raises(Conflict):
        store.swap(key, b"three", version)
    assert (remote / "CURRENT").read_bytes() == b"two"
    with pytest.raises(Conflict):
        store.swap(f"{key}-gone", b"x", version)


def test_a_server_killed_in_the_middle_leaves_the_old_generation_and_a_push_goes_on(
    remote, local_index, other_index, s3, bucket, door, s3_server
):
    size = sum(entry.size_bytes for entry in read_current(local_index).files.values())
    door.start()
    push(other_index, remote, overwrite=False)
    old, before = live_generation(remote), objects(s3, bucket)
    door.kill()
    for share in (0.05, 0.5, 0.9):
        door.start("die", after_bytes=int(share * size), up=True)
        with pytest.raises(Unavailable, match=r"s3://.*does not answer"):
            push(local_index, remote, overwrite=True)
        assert door.dead
        door.kill()
        now = objects(s3, bucket)
        assert {key: now[key] for key in before} == before  # CURRENT among them
    arrived = objects(s3, bucket).keys() - before.keys()
    assert arrived
    assert not [key for key in arrived if "/generations/" in key]  # the manifest comes last
    middle = objects(s3, bucket)
    door.start()
    assert Index.open(str(remote)).manifest.generation == old
    manifest = push(local_index, remote, overwrite=True)
    after = objects(s3, bucket)
    assert manifest.parent == old
    assert {key: after[key] for key in arrived} == {key: middle[key] for key in arrived}
    with fetched_afresh(remote) as copy:
        verify(copy)


def test_a_server_that_lost_everything_is_filled_again(
    local_index, other_index, environment, tmp_path
):
    """A real SIGKILL of the server itself; moto's forgets what it held."""
    from s3_server import S3Server

    server = S3Server()
    environment.setenv("AWS_ENDPOINT_URL", server.url)
    remote = location("s3://bucket-of-its-own/index")
    assert isinstance(remote, RemotePath)

    def start() -> None:
        import boto3

        server.start()
        boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket=remote.bucket)

    try:
        start()
        sent: list[int] = []

        def kill_after_the_third(size: int) -> None:
            sent.append(size)
            if len(sent) == 3:
                server.kill()

        with pytest.raises(Unavailable, match=r"s3://bucket-of-its-own/.*does not answer"):
            push(local_index, remote, overwrite=False, on_sent=kill_after_the_third)
        start()
        with pytest.raises(IndexMissing):
            Index.open(str(remote))
        push(local_index, remote, overwrite=False)
        assert len(Index.open(str(remote))) == 90
    finally:
        server.kill()


def test_a_hanging_server_is_a_time_out_and_nothing_is_live(
    remote, local_index, s3_server, environment
):
    environment.setenv("TARTAN_STORAGE_TIMEOUT", "0.3")
    stopped = False

    def stop(_size: int) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            s3_server.send(signal.SIGSTOP)

    try:
        with pytest.raises(Unavailable, match=r"s3://.*0\.3 s"):
            push(local_index, remote, overwrite=False, on_sent=stop)
    finally:
        s3_server.send(signal.SIGCONT)
    with pytest.raises(IndexMissing):
        read_current(remote)
    push(local_index, remote, overwrite=False)


def test_an_answer_that_is_lost_after_the_swap_is_no_failure(remote, local_index, monkeypatch):
    swap = s3_module.S3Store.swap

    def twice(store, key, data, expected):
        swap(store, key, data, expected)
        swap(store, key, data, expected)  # as botocore does where the answer was lost

    monkeypatch.setattr(s3_module.S3Store, "swap", twice)
    manifest = push(local_index, remote, overwrite=False)
    assert live_generation(remote) == manifest.generation


def test_large_files_go_in_parts_and_are_checked(remote, tmp_path, monkeypatch, s3, bucket):
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    data = np.random.default_rng(0).bytes(12 << 20)
    file = tmp_path / "large"
    file.write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    store = store_of(remote)
    read_back = []
    monkeypatch.setattr(
        s3_module.S3Store, "_read_back", lambda *about: read_back.append(about) or checksum
    )
    store.put("large", file, checksum)
    stored = store.head("large")
    assert (stored.st_size, stored.sha256) == (len(data), checksum)
    assert stored.version.endswith('-3"')
    assert not read_back  # the ETag is the one that these parts have
    with pytest.raises(IndexCorrupt, match="no longer the one it was written with"):
        store.put("other", file, "0" * 64)
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    with pytest.raises(FileNotFoundError):
        store.head("other")


def test_bytes_that_arrive_altered_are_found(remote, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"as it was sent")
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    store = store_of(remote)
    put_object = store._client.put_object

    def altering(**about):
        about["Body"] = about["Body"].replace(b"sent", b"lost")
        del about["ChecksumSHA256"]
        return put_object(**about)

    monkeypatch.setattr(store._client, "put_object", altering)
    with pytest.raises(IndexCorrupt, match="did not arrive as it was sent"):
        store.put("file", file, checksum)


def test_names_and_lists_go_over_pages(remote, s3, bucket, monkeypatch):
    for number in range(7):
        s3.put_object(Bucket=bucket, Key=f"p/{number}/x", Body=b"")
    store = store_of(remote)
    listing = store._client.list_objects_v2
    monkeypatch.setattr(
        store._client, "list_objects_v2", lambda **about: listing(**{"MaxKeys": 2, **about})
    )
    assert [item.key for item in store.objects("p/")] == [f"p/{n}/x" for n in range(7)]
    assert store.names("p") == [str(n) for n in range(7)]
    store.delete("p/0/x")
    store.delete("p/0/x")
    assert store.names("p") == [str(n) for n in range(1, 7)]


def test_denied_access_says_so_without_secrets(s3, s3_server, remote, environment, local_index):
    """moto checks signatures and policies from now on: these credentials are nobody's."""
    import requests

    url = f"{s3_server.url}/moto-api/reset-auth"
    requests.post(url, data=b"0", timeout=10)
    try:
        for attempt in (
            lambda: Index.open(str(remote)),
            lambda: push(local_index, remote, overwrite=True),
        ):
            with pytest.raises(StorageError, match="access is denied") as raised:
                attempt()
            assert not [s for s in (SECRET_KEY, SESSION_TOKEN) if s in str(raised.value)]
    finally:
        requests.post(url, data=b"inf", timeout=10)


def test_without_credentials_requests_are_anonymous(remote, local_index, environment, s3, bucket):
    push(local_index, remote, overwrite=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        environment.delenv(name)
    with pytest.raises(StorageError, match=r"denied \(403\) to anonymous requests"):
        Index.open(str(remote))
    for key in objects(s3, bucket):
        s3.put_object_acl(Bucket=bucket, Key=key, ACL="public-read")
    assert len(Index.open(str(remote))) == 90


def test_no_secret_is_stored(remote, local_index, s3, bucket, tmp_path):
    push(local_index, remote, overwrite=False)
    Index.open(str(remote))
    held = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in objects(s3, bucket)]
    held += [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    names = [str(path) for path in (tmp_path / "cache").rglob("*")] + [*objects(s3, bucket)]
    for secret in (SECRET_KEY, SESSION_TOKEN, ACCESS_KEY):
        assert not [data for data in held if secret.encode() in data]
        assert not [name for name in names if secret in name]


def test_the_library_builds_into_a_bucket(remote):
    vectors = [np.eye(DIM, dtype=np.float32)[:4]] * 20
    first = Index.build(str(remote), vectors, centroids=8)
    assert len(first) == 20
    with pytest.raises(IndexExists):
        Index.build(str(remote), vectors, centroids=8)
    second = Index.build(str(remote), vectors[:7], centroids=8, overwrite=True)
    assert (len(second), second.manifest.parent) == (7, first.manifest.generation)
    assert second.manifest.generation.startswith("g000002-")


def test_a_missing_bucket_is_named_before_any_work(environment, s3_server):
    with pytest.raises(TartanError, match="no bucket 'nowhere-at-all'"):
        check_remote_place(RemotePath("s3", "nowhere-at-all", "x"), overwrite=False)


def test_a_damaged_pointer_is_replaced_where_asked(remote, local_index, s3, bucket):
    s3.put_object(Bucket=bucket, Key=f"{remote.key}/CURRENT", Body=b"not JSON")
    with pytest.raises(IndexCorrupt, match="CURRENT: the pointer cannot be read"):
        read_current(remote)
    with pytest.raises(IndexExists):
        push(local_index, remote, overwrite=False)
    manifest = push(local_index, remote, overwrite=True)
    assert json.loads((remote / "CURRENT").read_bytes())["generation"] == manifest.generation
