"""Who may import whom: read from the sources, and tried in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIRE = ("ray", "grpc", "google", "grpc_health", "grpc_reflection", "grpc_status")
SERVING = (
    *(ROOT / "workers" / f"{name}.py" for name in ("held_shard", "turns")),
    *(ROOT / "workers" / f"shard_{name}.py" for name in ("server", "lines", "actor")),
    *ROOT.glob("cluster/gateway*.py"),
    *ROOT.glob("cluster/client*.py"),
)


def imports_of(path: Path) -> set[str]:
    """Dotted names of what a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def under(names: set[str], *roots: str) -> set[str]:
    return {n for n in names if any(n == root or n.startswith(f"{root}.") for root in roots)}


def sources(folder: str) -> list[Path]:
    found = [p for p in (ROOT / folder).rglob("*.py") if "wire/tartan" not in p.as_posix()]
    assert found, folder
    return found


def test_the_core_knows_neither_ray_nor_grpc_nor_the_layers_above() -> None:
    for path in sources("colbert_core"):
        assert not under(imports_of(path), *WIRE, "cluster", "workers"), path


def test_only_text_and_train_import_transformers() -> None:
    for path in sources("colbert_core"):
        if path.parts[-2] not in ("text", "train"):
            assert not under(imports_of(path), "transformers", "tokenizers"), path


def test_only_a_device_brings_torch_to_a_search() -> None:
    """The kernels in torch are imported in four places, and use nothing of what stands above."""
    for path in sources("colbert_core"):
        inside = path.parts[-2] == "torch_kernels"
        if not inside and path.name not in DEVICE:
            assert not under(imports_of(path), "colbert_core.torch_kernels"), path
        if inside:
            above = [f"colbert_core.{name}" for name in (*LAYERS, "text", "api", "build")]
            assert not under(imports_of(path), *above), path
    for path in [*sources("colbert_core/search"), *sources("colbert_core/index"), *SERVING]:
        assert not under(imports_of(path), "torch"), path


DEVICE = ("opening.py", "reader.py", "on_device.py", "assign.py")
LAYERS = {"codec": 1, "index": 2, "search": 3}


def test_only_storage_speaks_with_buckets_and_stands_beneath_the_rest() -> None:
    for path in [*sources("colbert_core"), *sources("workers"), *sources("cluster")]:
        if path.parts[-2] == "storage":
            inside = under(imports_of(path), "colbert_core")
            allowed = ("colbert_core.storage", "colbert_core.errors")
            assert inside == under(inside, *allowed), path
        else:
            libraries = ("boto3", "botocore", "fsspec", "s3fs", "pyarrow.fs")
            assert not under(imports_of(path), *libraries), path


def test_the_core_points_one_way() -> None:
    for folder, level in LAYERS.items():
        above = [f"colbert_core.{name}" for name, other in LAYERS.items() if other > level]
        for path in sources(f"colbert_core/{folder}"):
            outside = ["colbert_core.text", "colbert_core.api", "colbert_core.build"]
            assert not under(imports_of(path), *above, *outside), path


def test_workers_know_of_the_cluster_only_the_wire() -> None:
    for path in sources("workers"):
        named = under(imports_of(path), "cluster")
        assert named == under(named, "cluster.wire"), path


def test_the_cluster_package_itself_imports_nothing() -> None:
    assert not imports_of(ROOT / "cluster" / "__init__.py")


def test_the_wire_is_a_leaf() -> None:
    for path in sources("cluster/wire"):
        inside = under(imports_of(path), "cluster", "workers", "colbert_core")
        allowed = [f"colbert_core.{name}" for name in ("types", "errors", "filters")]
        assert inside == under(inside, "cluster.wire", *allowed), path


def test_telemetry_knows_no_server() -> None:
    """Servers are told of it when they are made; it knows what they say, and the wire."""
    for path in sources("cluster/telemetry"):
        inside = under(imports_of(path), "cluster", "workers")
        allowed = ("telemetry", "wire", "observer", "security.tls", "version")
        assert inside == under(inside, *(f"cluster.{name}" for name in allowed)), path
    for path in [*sources("cluster/wire"), *sources("workers"), *ROOT.glob("cluster/client*.py")]:
        assert not under(imports_of(path), "cluster.telemetry", "prometheus_client"), path


def test_only_wire_servers_and_client_touch_the_stubs() -> None:
    for path in [*sources("cluster"), *sources("workers"), *sources("colbert_core")]:
        if "wire" in path.parts or path in SERVING:
            continue
        assert not {n for n in imports_of(path) if "_pb2" in n}, path


def test_serving_never_imports_training() -> None:
    for path in [*SERVING, *sources("cluster"), *sources("workers")]:
        if "train" in path.name:
            continue
        assert not under(imports_of(path), "colbert_core.train", "workers.train"), path


def test_training_stands_above_text_alone() -> None:
    beneath = ("train", "text", "storage", "errors", "types", "npy")
    for path in sources("colbert_core/train"):
        inside = under(imports_of(path), "colbert_core")
        assert inside == under(inside, *(f"colbert_core.{name}" for name in beneath)), path
    for path in sources("colbert_core"):
        if path.parts[-2] != "train":
            assert not under(imports_of(path), "colbert_core.train"), path


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that are loaded after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        (
            "from cluster.client import Client, AsyncClient",
            "ray torch transformers pyarrow prometheus_client opentelemetry",
        ),
        ("import colbert_core; colbert_core.Index", "ray grpc google torch transformers"),
        ("import workers.shard_actor", "torch transformers prometheus_client opentelemetry"),
        (
            "import numpy, tempfile; from colbert_core import Index; "
            "index = Index.build(tempfile.mkdtemp(), [numpy.eye(8)] * 9); "
            "index.search_many([numpy.eye(8)] * 2)",
            "torch transformers",
        ),
        ("import colbert_core.importing, colbert_core.export", "ray grpc torch transformers"),
        ("import cluster.cli", "ray grpc torch transformers pyarrow prometheus_client"),
        ("import colbert_core.train.preparing", "ray grpc torch transformers"),
    ],
)
def test_imports_pull_in_no_more_than_they_need(statement: str, forbidden: str) -> None:
    assert not loaded_after(statement) & set(forbidden.split())
