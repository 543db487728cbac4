"""The files for Ray's cluster launcher: Ray's own validation, and the types of each cloud's API."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import pytest
import ray
from manifests import LAUNCHER, commands_said, documents, misspelt, our_command

NODE_CONFIGS = re.compile(r"/node_config")
# Ray's schema takes any key of a provider; names of node types, resources and mounts are free.
UNCHECKED = re.compile(r"^(provider|available_node_types|.*/resources|file_mounts)$|/node_config")

AWS_INSTANCE = (
    botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
)


def load(path: Path) -> dict[str, Any]:
    [loaded] = documents(path)
    return loaded


def test_there_is_one_for_each_place() -> None:
    assert {load(path)["provider"]["type"] for path in LAUNCHER} == {"local", "aws", "gcp"}


def refused(config: dict[str, Any]) -> str | None:
    """Why Ray, or the cloud's API, does not take a cluster file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except Exception as error:  # jsonschema's, ValueError, KeyError: each is a refusal
        return f"{type(error).__name__}: {error}"
    for name, node in config.get("available_node_types", {}).items():
        if why := refused_node(config["provider"]["type"], node["node_config"]):
            return f"{name}: {why}"
    return None


def refused_node(provider: str, node: dict[str, Any]) -> str | None:
    if provider == "gcp":
        from google.cloud import compute_v1  # here: it takes seconds

        try:
            compute_v1.Instance.from_json(json.dumps(node), ignore_unknown_fields=False)
        except Exception as error:
            return str(error)
        return None
    request = {**node, "MinCount": 1, "MaxCount": 1}
    if "SubnetIds" in request:  # Ray's own word, of which it takes one for each node
        request["SubnetId"] = request.pop("SubnetIds")[0]
    report = botocore.validate.ParamValidator().validate(request, AWS_INSTANCE.input_shape)
    return str(report.generate_report()) if report.has_errors() else None


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_ray_accepts_the_cluster_file_and_no_misspelling(path: Path) -> None:
    assert refused(load(path)) is None
    for where, wrong in misspelt(load(path), UNCHECKED):
        assert refused(wrong) is not None, f"{where} misspelt, and nobody says so"


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_the_cloud_knows_every_key_of_its_machines(path: Path) -> None:
    config = load(path)
    for node in config.get("available_node_types", {}).values():
        for where, wrong in misspelt(node["node_config"], re.compile("^$a")):
            assert refused_node(config["provider"]["type"], wrong) is not None, where


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_its_commands_exist(path: Path) -> None:
    from ray.scripts.scripts import cli

    config = load(path)
    said = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = []
    for line in said:
        words = [word for word in shlex.split(line) if not re.match(r"\w+=", word)]
        assert Path(words[0]).name == "ray"
        command = cli.commands[words[1]]
        started.append(command.make_context("ray", words[2:]).params)
    assert any(parameters.get("head") for parameters in started)
    for words in commands_said(path):
        our_command(words)


def test_settings_that_ray_reads_from_the_environment_are_known_to_it() -> None:
    said = "".join(path.read_text() for path in LAUNCHER[0].parent.glob("*.yaml"))
    names = set(re.findall(r"RAY_[a-z]\w+", said))  # those of its daemons; others are upper case
    assert names
    daemon = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    for name in names:
        assert name.encode() in daemon, name


def test_the_pool_of_gpus_scales_to_zero_and_the_servers_do_not() -> None:
    clouds = [path for path in LAUNCHER if load(path)["provider"]["type"] != "local"]
    for path in clouds:
        kinds = load(path)["available_node_types"]
        assert kinds["indexer"]["min_workers"] == 0
        assert kinds["indexer"]["resources"]["GPU"] >= 1
        assert kinds["server"]["min_workers"] >= 2
        assert "GPU" not in kinds["server"].get("resources", {})
        assert any("--device" in words for words in commands_said(path)), "nobody asks for a GPU"
