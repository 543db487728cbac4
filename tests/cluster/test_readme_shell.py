"""The README's first search from a shell: the command as it is printed, against a real gateway."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from local_cluster import LocalCluster, unit_vectors

from cluster.gateway_encoder import LazyEncoder

ROOT = Path(__file__).parents[2]
BUF = ROOT / ".venv" / "buf" / "node_modules" / ".bin" / "buf"


class AnyText:
    """Encodes every text to the same vectors."""

    def encode_queries(self, texts: list[str]) -> list[Any]:
        return [unit_vectors(np.random.default_rng(0), 4) for _ in texts]

    def query_tokens(self, text: str) -> list[str]:
        return ["t"] * 4

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        return []


@pytest.fixture(scope="module")
def address(small_index: Path) -> Iterator[str]:
    encoder: Any = LazyEncoder("any", AnyText)
    with LocalCluster(small_index, encoder=encoder) as cluster:
        yield cluster.address


@pytest.fixture(scope="module")
def command() -> list[str]:
    """`grpcurl -plaintext -d JSON ADDRESS SERVICE/METHOD`, as the README has it."""
    (printed,) = re.findall(r"^grpcurl (?:.*\\\n)*.*$", (ROOT / "README.md").read_text(), re.M)
    words = shlex.split(printed.replace("\\\n", ""))
    assert words[:3] == ["grpcurl", "-plaintext", "-d"]
    assert len(words) == 6
    return words


def test_it_is_a_call_that_the_server_itself_describes(address: str, command: list[str]) -> None:
    """What grpcurl does: resolve the method by reflection, make its request of the JSON, call."""
    _, _, _, data, target, called = command
    assert target == "127.0.0.1:50051"  # where `tartan serve` listens unless told otherwise
    service, method = called.split("/")
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        described = pool.FindServiceByName(service).FindMethodByName(method)
        make_request = message_factory.GetMessageClass(described.input_type)
        make_answer = message_factory.GetMessageClass(described.output_type)
        request = json_format.Parse(data, make_request())
        call = channel.unary_unary(
            f"/{called}",
            request_serializer=make_request.SerializeToString,
            response_deserializer=make_answer.FromString,
        )
        answer = json_format.MessageToDict(call(request, timeout=30.0))
    assert len(answer["hits"]) == json.loads(data)["k"]


@pytest.mark.skipif(
    not (BUF.exists() and shutil.which("node")), reason="buf comes with `make check`"
)
def test_buf_curl_takes_the_same_json(address: str, command: list[str]) -> None:
    data, called = command[3], command[5]
    url = f"http://{address}/{called}"
    run = subprocess.run(
        [str(BUF), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", data, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(json.loads(run.stdout)["hits"]) == json.loads(data)["k"]
