"""The committed stubs are what the .proto files give, and a stale one is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.wire import generate


def test_committed_stubs_are_fresh() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "cluster.wire.generate", "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tartan/v1").mkdir(parents=True)
    (tmp_path / "tartan/v1/a_pb2.py").write_text("fresh")
    return tmp_path


def test_each_kind_of_difference_is_named(tree: Path) -> None:
    assert generate.stale({"tartan/v1/a_pb2.py": "fresh"}, tree) == []
    assert generate.stale({"tartan/v1/a_pb2.py": "newer"}, tree) == ["tartan/v1/a_pb2.py: stale"]
    assert generate.stale({}, tree) == ["tartan/v1/a_pb2.py: has no .proto"]
    missing = {"tartan/v1/a_pb2.py": "fresh", "tartan/v1/b_pb2.py": ""}
    assert generate.stale(missing, tree) == ["tartan/v1/b_pb2.py: missing"]


def test_only_our_own_imports_are_rewritten() -> None:
    source = (
        "from tartan.v1 import search_pb2 as x\n"
        "from google.protobuf import descriptor\n"
        "import tartan.shard.v1.shard_pb2\n"
        "# from tartan to tartan.v1\n"
    )
    assert generate.rewrite_imports(source) == (
        "from cluster.wire.tartan.v1 import search_pb2 as x\n"
        "from google.protobuf import descriptor\n"
        "import cluster.wire.tartan.shard.v1.shard_pb2\n"
        "# from tartan to tartan.v1\n"
    )


def test_a_directory_without_protos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no \.proto files"):
        generate.generate(tmp_path)
