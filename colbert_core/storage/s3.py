"""S3 by boto3: time-outs that hold on Linux, checksums, and conditional writes.

Credentials, region and endpoint are botocore's to find: the environment (AWS_ACCESS_KEY_ID,
AWS_PROFILE, AWS_ENDPOINT_URL, HTTPS_PROXY, …), ~/.aws, or the machine's role. Where there are none,
requests are anonymous, which is enough for a public bucket.

An object that `put` writes bears its SHA-256 as metadata; the server checks a SHA-256 of each part
it takes, and its ETag is compared with the MD5 of what was sent, or the object read back.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from colbert_core.errors import IndexCorrupt, InvalidInput, StorageError, Unavailable
from colbert_core.storage.scrub import scrubbed
from colbert_core.storage.store import ByteStream, Conflict, Stored, timeout_s

PART_BYTES = 16 << 20
MAX_PARTS = 9_000  # S3 allows 10,000
ATTEMPTS = 3  # of botocore, with its own pauses between them
CONNECTIONS = 16
_MISSING = {"NoSuchKey", "404", "NotFound"}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "503"}
_REFUSED = {
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
}  # fmt: skip


class S3Store:
    """One bucket on S3, or on a server that speaks its protocol (`Store`)."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._client, self._signed = _client(_environment(), timeout_s())

    def head(self, key: str) -> Stored:
        try:
            with self._translated(key):
                answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except FileNotFoundError:  # of the object or of the bucket: this answer has no body
            next(self._pages(Bucket=self._bucket, Prefix=key, MaxKeys=1))
            raise
        return Stored(
            key,
            answer["ContentLength"],
            answer["ETag"],
            answer.get("Metadata", {}).get("sha256"),
            int(answer["LastModified"].timestamp() * 1e9),
        )

    def open(self, key: str, start: int, version: str) -> ByteStream:
        options: dict[str, Any] = {"IfMatch": version} if version else {}
        if start:
            options["Range"] = f"bytes={start}-"
        try:
            with self._translated(key):
                answer = self._client.get_object(Bucket=self._bucket, Key=key, **options)
        except Conflict as error:
            raise StorageError(
                f"{self._uri(key)}: it was replaced while it was being read; run it again"
            ) from error
        return _Body(self, key, answer["Body"])

    def objects(self, prefix: str) -> Iterator[Stored]:
        for page in self._pages(Bucket=self._bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                yield Stored(item["Key"], item["Size"], item["ETag"])

    def names(self, prefix: str) -> list[str]:
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        found: set[str] = set()
        for page in self._pages(Bucket=self._bucket, Prefix=below, Delimiter="/"):
            found |= {item["Key"] for item in page.get("Contents", ())}
            found |= {item["Prefix"] for item in page.get("CommonPrefixes", ())}
        return sorted(key[len(below) :].rstrip("/") for key in found if key != below)

    def _pages(self, **options: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            with self._translated(options["Prefix"]):
                page = self._client.list_objects_v2(**options, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, key: str, local: Path, sha256: str) -> None:
        size = local.stat().st_size
        with self._translated(key):
            etag = self._put(key, local, size, sha256)
        stored = self.head(key)
        if stored.st_size != size or stored.sha256 != sha256:
            raise IndexCorrupt(
                f"{self._uri(key)}: {size:,} bytes were sent and the bucket holds "
                f"{stored.st_size:,}; run it again"
            )
        # An ETag is no MD5 under KMS encryption and on some servers; then the bytes decide.
        if stored.version.strip('"') != etag and self._read_back(key, stored) != sha256:
            raise IndexCorrupt(f"{self._uri(key)}: it did not arrive as it was sent; run it again")

    def _put(self, key: str, local: Path, size: int, sha256: str) -> str:
        """Send a file in one request or in parts; gives the ETag that it should have."""
        about: dict[str, Any] = {"Bucket": self._bucket, "Key": key}
        metadata = {"Metadata": {"sha256": sha256}}
        whole, parts = hashlib.sha256(), _parts(local, size)
        if size <= PART_BYTES:
            data = next(parts, b"")
            whole.update(data)
            self._check_local(local, whole.hexdigest(), sha256)
            self._client.put_object(**about, **metadata, Body=data, ChecksumSHA256=_base64(data))
            return hashlib.md5(data, usedforsecurity=False).hexdigest()
        upload = self._client.create_multipart_upload(
            **about, **metadata, ChecksumAlgorithm="SHA256"
        )
        about["UploadId"] = upload["UploadId"]
        try:
            sent: list[dict[str, Any]] = []
            sums = b""
            for number, data in enumerate(parts, 1):
                whole.update(data)
                checksum = _base64(data)
                answer = self._client.upload_part(
                    **about, PartNumber=number, Body=data, ChecksumSHA256=checksum
                )
                sent.append(
                    {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}
                )
                sums += hashlib.md5(data, usedforsecurity=False).digest()
            self._check_local(local, whole.hexdigest(), sha256)
            self._client.complete_multipart_upload(**about, MultipartUpload={"Parts": sent})
        except BaseException:
            with suppress(Exception):  # what is left over is invisible, but costs money
                self._client.abort_multipart_upload(**about)
            raise
        return f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(sent)}"

    def _check_local(self, local: Path, found: str, wanted: str) -> None:
        if found != wanted:
            raise IndexCorrupt(
                f"{local}: its SHA-256 is no longer the one it was written with; nothing was "
                "uploaded in its place; build again"
            )

    def _read_back(self, key: str, stored: Stored) -> str:
        digest = hashlib.sha256()
        stream = self.open(key, 0, stored.version)
        while block := stream.read(1 << 20):
            digest.update(block)
        stream.close()
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        with self._translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            with self._translated(key):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=data, **condition)
        except FileNotFoundError as error:  # it was to be replaced, and is gone
            raise Conflict(str(error)) from error

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """botocore's errors as Tartan's."""
        from botocore import exceptions as aws
        from urllib3.exceptions import HTTPError

        uri = self._uri(key)
        try:
            yield
        except aws.ClientError as error:
            raise self._error_of(uri, error) from None  # the answer may repeat the request
        except aws.IncompleteReadError as error:
            raise Unavailable(f"{uri}: the connection broke: {scrubbed(error)}") from None
        except (aws.HTTPClientError, aws.ConnectionError, HTTPError, TimeoutError) as error:
            raise Unavailable(
                f"{uri}: the server does not answer (up to {ATTEMPTS} attempts, {timeout_s():g} s "
                f"each): {scrubbed(error)}; check the network, AWS_ENDPOINT_URL and proxies, and "
                "run it again"
            ) from None
        except (aws.BotoCoreError, ValueError) as error:
            raise StorageError(f"{uri}: S3 cannot be asked: {scrubbed(error)}") from None

    def _error_of(self, uri: str, error: Any) -> Exception:
        about = error.response.get("Error", {})
        code = str(about.get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return StorageError(
                f"{uri}: there is no bucket {self._bucket!r} on this server; check the name, and "
                "AWS_ENDPOINT_URL and the region if it lies elsewhere"
            )
        if code in _MISSING:
            return FileNotFoundError(2, "there is no such object", uri)
        if code in _CONFLICT:
            return Conflict(uri)
        if code in _REFUSED:
            whose = "the credentials that were found" if self._signed else "anonymous requests"
            return StorageError(
                f"{uri}: access is denied ({code}) to {whose}; give others in the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's "
                "role), or a permission to them"
            )
        message = scrubbed(about.get("Message", error))
        if code in _BUSY or status >= 500 or status == 429:
            return Unavailable(f"{uri}: the server is failing ({code}: {message}); try again later")
        return StorageError(f"{uri}: S3 refuses ({code}: {message})")


class _Body:
    """An answer's body, with Tartan's errors."""

    def __init__(self, store: S3Store, key: str, body: Any) -> None:
        self._store, self._key, self._body = store, key, body

    def read(self, count: int) -> bytes:
        with self._store._translated(self._key):
            data: bytes = self._body.read(count)
        return data

    def close(self) -> None:
        self._body.close()


def _parts(local: Path, size: int) -> Iterator[bytes]:
    part = max(PART_BYTES, -(-size // MAX_PARTS))
    with local.open("rb") as file:
        while data := file.read(part):
            yield data


def _base64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _environment() -> tuple[str | None, ...]:
    """What another client would be made for, but for secrets, which are botocore's to read."""
    names = ("ENDPOINT_URL", "ENDPOINT_URL_S3", "PROFILE", "ACCESS_KEY_ID", "DEFAULT_REGION")
    return tuple(os.environ.get(f"AWS_{name}") for name in names)


@lru_cache(8)
def _client(_environment: tuple[str | None, ...], timeout: float) -> tuple[Any, bool]:
    """A client, safe to share between threads, and whether it signs its requests."""
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "s3:// needs boto3, which is not installed: pip install 'tartan-search[s3]'"
        ) from error
    config = Config(
        connect_timeout=min(timeout, 10.0),
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
    )
    try:
        session = boto3.Session()
        signed = session.get_credentials() is not None
        if not signed:
            config = config.merge(Config(signature_version=UNSIGNED))
        region = session.region_name or "us-east-1"
        return session.client("s3", region_name=region, config=config), signed
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"S3 cannot be asked: {scrubbed(error)}") from None
