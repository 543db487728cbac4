"""The manifests for Kubernetes: the schemas of KubeRay and of Kubernetes, and what they run."""

from __future__ import annotations

import importlib.resources
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from manifests import KUBERNETES, ROOT, commands_said, documents, misspelt, our_command
from referencing import Registry, Resource

SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay"
KUBERNETES_VERSION = "1.33.0"  # what the manifests ask for at most

# Keys that are anybody's choice; and pod templates, which are checked as pods.
FREE = re.compile(r"(labels|matchLabels|requests|limits|rayStartParams|data)$|/template/|template$")
FREE_IN_SERVICES = re.compile(r"labels$|^spec/selector$")
FREE_IN_PODS = re.compile(r"(labels|matchLabels|requests|limits)$")


def resources_of_all() -> Iterator[Any]:
    for path in KUBERNETES:
        for document in documents(path):
            name = f"{path.name}-{document['kind']}-{document['metadata']['name']}"
            yield pytest.param(document, id=name)


EVERYTHING = list(resources_of_all())


def test_there_are_manifests() -> None:
    assert {"RayJob", "RayCluster"} <= {d["kind"] for path in KUBERNETES for d in documents(path)}


@pytest.mark.parametrize("manifest", EVERYTHING)
def test_its_schema_accepts_it_and_no_misspelling(manifest: dict[str, Any]) -> None:
    assert problem(manifest) is None
    free = FREE_IN_SERVICES if manifest["kind"] == "Service" else FREE
    for where, wrong in misspelt(manifest, free):
        assert problem(wrong) is not None, f"{where} misspelt, and nobody says so"


@pytest.mark.parametrize("manifest", EVERYTHING)
def test_kubernetes_accepts_its_pods_and_no_misspelling(manifest: dict[str, Any]) -> None:
    for template in pod_templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        assert problem(pod) is None
        for where, wrong in misspelt(pod, FREE_IN_PODS):
            assert problem(wrong) is not None, f"{where} misspelt, and nobody says so"


def problem(manifest: dict[str, Any]) -> str | None:
    """What is wrong with a resource, by the schema of its kind."""
    if not {"apiVersion", "kind"} <= set(manifest):
        return "it does not say what it is"
    group, _, version = str(manifest["apiVersion"]).rpartition("/")
    kinds = {"ray.io": of_a_custom_kind, "monitoring.coreos.com": of_prometheus}
    validator = kinds.get(group, of_kubernetes)(group, version, manifest["kind"])
    error = next(validator.iter_errors(manifest), None)
    return None if error is None else str(error.message)


@cache
def of_kubernetes(group: str, version: str, kind: str) -> Draft202012Validator:
    """The schemas that `kubernetes-validate` ships: it reads them anew for every resource."""
    shipped = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema"
    folder = shipped / f"v{KUBERNETES_VERSION}-local-strict"
    short = f"{group.partition('.')[0]}-" if group else ""
    names = (f"{kind.lower()}-{short}{version}.json", "_definitions.json")
    schema, definitions = (json.loads((folder / name).read_text()) for name in names)
    registry = Resource.from_contents(definitions) @ Registry()
    return Draft202012Validator(schema, registry=registry)


@cache
def of_a_custom_kind(group: str, version: str, kind: str) -> Draft202012Validator:
    if not SCHEMAS.is_dir():
        pytest.skip("the schemas are not beside this checkout")
    path = SCHEMAS / f"{group}_{kind.lower()}s.yaml"
    definition = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)  # a megabyte
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    made = strict(versions[version]["schema"]["openAPIV3Schema"])
    made["properties"] |= {
        "apiVersion": {"const": f"{group}/{version}"},
        "kind": {"const": kind},
        "metadata": {
            "type": "object",
            "properties": {"name": {}, "labels": {}, "annotations": {}},
            "required": ["name"],
            "additionalProperties": False,
        },
    }
    made["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return Draft202012Validator(made)


def only(**properties: Any) -> dict[str, Any]:
    """A mapping with just these keys, all of them."""
    required = list(properties)
    return {"properties": properties, "required": required, "additionalProperties": False}


@cache
def of_prometheus(group: str, version: str, kind: str) -> Draft202012Validator:
    """What we use of a ServiceMonitor, and no more: the operator's own schema is not at hand."""
    secret = only(secret=only(name={"type": "string"}, key={"type": "string"}))
    endpoint = only(
        port={"type": "string"},
        scheme={"enum": ["http", "https"]},
        interval={"type": "string", "pattern": r"^\d+[smh]$"},
        tlsConfig=only(ca=secret, serverName={"type": "string"}),
    )
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    return Draft202012Validator(
        only(
            apiVersion={"const": f"{group}/v1"},
            kind={"const": "ServiceMonitor"},
            metadata=only(name={"type": "string"}, labels=labels),
            spec=only(
                selector=only(matchLabels=labels), endpoints={"type": "array", "items": endpoint}
            ),
        )
    )


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


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod template in a manifest."""
    if isinstance(value, dict):
        if "containers" in value.get("template", {}).get("spec", {}):
            yield value["template"]
        for inner in value.values():
            yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


def mappings_of(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from mappings_of(inner)


def command_lines(manifest: dict[str, Any]) -> Iterator[list[str]]:
    """What the manifest has run: entrypoints, containers, probes."""
    for mapping in mappings_of(manifest):
        if "entrypoint" in mapping:
            yield shlex.split(mapping["entrypoint"])
        if isinstance(mapping.get("command"), list):
            yield [*mapping["command"], *mapping.get("args", [])]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_what_it_runs_is_a_command_line_of_ours(path: Path) -> None:
    lines = [line for document in documents(path) for line in command_lines(document)]
    assert lines
    for words in [*lines, *commands_said(path)]:
        our_command(words)
        with pytest.raises(Exception, match="No such option"):
            our_command([*words, "--no-such-option"])


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_ray_knows_its_start_parameters(path: Path) -> None:
    from ray.scripts.scripts import start

    known = {name.lstrip("-") for option in start.params for name in option.opts}
    for document in documents(path):
        for mapping in mappings_of(document):
            assert set(mapping.get("rayStartParams", {})) <= known


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_the_names_in_it_fit_together(path: Path) -> None:
    """Mounts have volumes, probes and services have ports, policies and services have pods, and
    every secret but KubeRay's own is made by a command at the top."""
    resources = documents(path)
    clusters = {r["metadata"]["name"] for r in resources if r["kind"] == "RayCluster"}
    pods = [pod for resource in resources for pod in pod_templates(resource)]
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in pod["spec"]["containers"]:
            assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes
            probes = [c for name, c in container.items() if name.endswith("Probe")]
            ports = {port["name"] for port in container.get("ports", [])}
            assert {p["tcpSocket"]["port"] for p in probes if "tcpSocket" in p} <= ports
    secrets = {
        mapping[key] for mapping in mappings_of(pods) for key in ("secretName",) if key in mapping
    } | {m["secretKeyRef"]["name"] for m in mappings_of(pods) if "secretKeyRef" in m}
    made = set(re.findall(r"kubectl create secret \w+ (\S+)", path.read_text()))
    assert secrets - clusters == made
    for resource in resources:
        for labels in selectors(resource):
            pods_here = [with_operator_labels(pod) for pod in groups(resources)]
            assert any(labels.items() <= pod.items() for pod in pods_here), labels


def selectors(resource: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Labels by which a resource chooses our pods."""
    spec = resource["spec"]
    if resource["kind"] == "Service":
        yield spec["selector"]
    elif resource["kind"] == "PodDisruptionBudget":
        yield spec["selector"]["matchLabels"]
    elif resource["kind"] == "ServiceMonitor":
        pass  # chooses the service, not pods
    elif resource["kind"] == "NetworkPolicy":
        yield spec["podSelector"]["matchLabels"]


def groups(resources: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(cluster, node type, group, template) of every kind of pod."""
    for resource in resources:
        if resource["kind"] == "RayCluster":
            name, spec = resource["metadata"]["name"], resource["spec"]
            yield name, "head", "headgroup", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield name, "worker", group["groupName"], group["template"]


def with_operator_labels(pod: tuple[str, str, str, dict[str, Any]]) -> dict[str, str]:
    """The labels of a pod, with those that KubeRay adds."""
    cluster, kind, group, template = pod
    added = {"ray.io/cluster": cluster, "ray.io/node-type": kind, "ray.io/group": group}
    return {**template.get("metadata", {}).get("labels", {}), **added}
