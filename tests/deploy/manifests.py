"""The files of ray_configs/, and the misspelt copies of them that every check must refuse."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "ray_configs").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return loaded


LAUNCHER = [path for path in CONFIGS if "apiVersion" not in documents(path)[0]]
KUBERNETES = [path for path in CONFIGS if path not in LAUNCHER]


def misspelt(document: Any, free: re.Pattern[str]) -> Iterator[tuple[str, Any]]:
    """Copies of a document with one key each misspelt, and where that is.

    Args:
        free: paths of mappings whose keys are anybody's choice, such as labels.
    """
    for path in mappings(document, ()):
        name = "/".join(map(str, path))
        if free.search(name):
            continue
        for key in value_at(document, path):
            copied = copy.deepcopy(document)
            mapping = value_at(copied, path)
            mapping[f"{key}x"] = mapping.pop(key)
            yield f"{name}/{key}", copied


def mappings(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Where there are mappings in a document."""
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            yield from mappings(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from mappings(inner, (*path, number))


def value_at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def commands_said(path: Path) -> list[list[str]]:
    """Command lines in the comments of a file, with those that go on in the next line."""
    comments = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(comments).replace("\\\n", " ")
    lines = [re.sub(r"^(\w+=\S+ )+", "", line) for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("tartan ")]


def our_command(words: list[str]) -> dict[str, Any]:
    """What our command line makes of words; raises click's UsageError for what it does not know."""
    import typer

    from cluster.cli import app

    program, *rest = words
    assert program == "tartan", words
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    parameters: dict[str, Any] = command.make_context("tartan", rest).params
    return parameters
