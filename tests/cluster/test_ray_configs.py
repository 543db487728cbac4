"""Ray's own validation of the cluster files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parents[2] / "ray_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_ray_accepts_the_cluster_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(path.read_text(encoding="utf-8"))))


def test_there_is_a_cluster_file() -> None:
    assert CONFIGS
