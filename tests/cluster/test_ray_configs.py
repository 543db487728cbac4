"""The cluster files: Ray's own validation, and the schemas of KubeRay's resources."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay"
CONFIGS = sorted((ROOT / "ray_configs").glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


LAUNCHER = [path for path in CONFIGS if "apiVersion" not in load(path)]
KUBERNETES = [path for path in CONFIGS if "apiVersion" in load(path)]


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_ray_accepts_the_cluster_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(path)))


def test_there_are_cluster_files() -> None:
    assert LAUNCHER
    assert KUBERNETES


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kuberay_accepts_the_manifest(path: Path) -> None:
    from jsonschema import Draft202012Validator

    manifest = load(path)
    if not SCHEMAS.is_dir():
        pytest.skip("the schemas are not beside this checkout")
    crd = load(SCHEMAS / f"{manifest['apiVersion'].split('/')[0]}_{manifest['kind'].lower()}s.yaml")
    versions = {version["name"]: version for version in crd["spec"]["versions"]}
    schema = strict(versions[manifest["apiVersion"].split("/")[1]]["schema"]["openAPIV3Schema"])
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(manifest)]
    assert errors == []
    manifest["spec"]["backOffLimit"] = 3
    assert list(Draft202012Validator(schema).iter_errors(manifest)), "a misspelt key must show"


def strict(schema: Any) -> Any:
    """The schema as the API server applies it: what has a default is not required, and there are
    no other keys than those it names."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    properties = made.get("properties")
    if isinstance(properties, dict) and made.get("type") == "object":
        required = made.get("required", [])
        made["required"] = [name for name in required if "default" not in properties[name]]
        if not made.get("x-kubernetes-preserve-unknown-fields") and set(properties) != {"metadata"}:
            made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_the_entrypoint_is_a_command_line_of_ours(path: Path) -> None:
    import typer

    from cluster.cli import app

    program, *words = shlex.split(load(path)["spec"]["entrypoint"])
    assert program == "tartan"
    command = typer.main.get_command(app)
    for name in words[:2]:
        command = command.commands[name]  # type: ignore[attr-defined]
    context = command.make_context("tartan", words[2:])
    assert context.params["out"] == "/data/notes.tartan"
