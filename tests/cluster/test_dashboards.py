"""The dashboard and the alert rules: well-formed, and of metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from cluster.telemetry.metric_table import TABLE

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "ray_configs/grafana/tartan.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "ray_configs/prometheus/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
SERIES = {
    name + suffix: set(metric.labels) | ({"le"} if suffix == "_bucket" else set())
    for name, metric in TABLE.items()
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
SCRAPED = {"job", "instance"}  # what Prometheus adds


def filled(expression: str) -> str:
    """The expression as Grafana asks it."""
    for variable, value in (("${prefix}", ""), ("$job", "tartan"), ("$__rate_interval", "5m")):
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def check_query(expression: str) -> set[str]:
    """That it is PromQL, of series and labels that exist; the series that it asks for."""
    promql_parser.parse(expression)
    bare = re.sub(r'"[^"]*"', '""', expression)
    asked = set(re.findall(r"\b(?:tartan|process)_\w+", bare))
    assert asked <= set(SERIES), expression
    labels = {label for series in asked for label in SERIES[series]} | SCRAPED
    grouped = re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", bare)
    used = {one.strip() for names in grouped for one in names.split(",") if one.strip()}
    used |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]~?", bare))
    assert used <= labels, f"{expression}: {used - labels}"
    return asked


def test_the_check_finds_what_is_wrong() -> None:
    """Else all below could pass without looking."""
    good = 'sum by (code) (rate(tartan_queries_total{job="a"}[5m]))'
    assert check_query(good) == {"tartan_queries_total"}
    for wrong in (
        "sum(rate(tartan_queries[5m]))",
        "sum(rate(tartan_query_seconds[5m]))",
        "sum by (client) (tartan_queries_total)",
        'tartan_queries_total{shard="s0"}',
    ):
        with pytest.raises(AssertionError):
            check_query(wrong)
    with pytest.raises(ValueError):
        check_query("sum(rate(tartan_queries_total[5m])")


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert {"uid", "title", "schemaVersion", "templating", "time", "panels"} <= set(DASHBOARD)
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD  # it is Grafana's own
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {option["value"] for option in variables["prefix"]["options"]} == {"", "ray_"}


def test_panels_lie_beside_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_asks_for_what_exists(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("timeseries", "stat", "table")
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    for target in panel["targets"]:
        assert "${prefix}" in target["expr"]
        assert check_query(filled(target["expr"]))


def test_every_metric_is_on_the_dashboard() -> None:
    """One that is not is one that nobody looks at, but for what others imply."""
    asked = {
        series
        for panel in PANELS
        for target in panel["targets"]
        for series in check_query(filled(target["expr"]))
    }
    shown = {re.sub(r"_(bucket|sum|count)$", "", series) for series in asked}
    implied = {
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "tartan_server_touched_passages",
        "tartan_server_scored_passages",
    }
    assert set(TABLE) - shown <= implied


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_can_fire_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Tartan[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert check_query(rule["expr"]) or rule["expr"].startswith("up{")
    assert re.search(r"[<>]|==", rule["expr"])
    assert re.fullmatch(r"\d+[sm]", rule.get("for", "1m"))
    assert rule["annotations"]["summary"]
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert anchor in [heading.lower() for heading in headings]


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    headings = re.findall(r"^### (Tartan\w+)$", (ROOT / "docs/operations.md").read_text(), re.M)
    assert sorted(headings) == sorted(rule["alert"] for rule in RULES)
