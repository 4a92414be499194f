"""The Grafana dashboard and the alert rules ask for what the worker exports. test_alerts.py plays the rules."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.errors import Reason
from consumers.image_status import ImageStatus
from worker.metrics import Metrics
from worker.pipeline_state import PipelineState
from worker.publish import Passed

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "nametag.json"

OF_PROMETHEUS = {"up": {"job", "instance"}}
TARGET_LABELS = {"job", "instance"}

VALUES = {
    "status": set(map(str, ImageStatus)),
    "reason": set(map(str, Reason)),
    "outcome": {"event", "dead_letter", "tombstone", *map(str, Passed)},
    "kind": {"post", "padding"},
    "of": {"posts", "padded_tokens", "images"},
    "result": {"swapped", "refused", "rolled_back"},
    "job": {"nametag"},
}


def exported() -> dict[str, set[str]]:
    """Every series that a worker may export, with its labels."""
    metrics = Metrics()
    metrics.watch(PipelineState)
    metrics.watch_tagger(os.getpid)
    found = dict(OF_PROMETHEUS)
    labels = {each._name: set(each._labelnames) for each in vars(metrics).values() if hasattr(each, "_labelnames")} | {
        "nametag_partition_processable_lag": {"topic", "partition"},
        "nametag_queue_posts": {"queue"},
    }
    for family in metrics.registry.collect():
        own = labels.get(family.name, set()) | TARGET_LABELS
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in suffixes:
            found[family.name + suffix] = own | ({"le"} if suffix == "_bucket" else set())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    yield from (
        panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"
    )


def queries() -> Iterator[tuple[str, str]]:
    """Each expression, and where it stands."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in panels():
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["definition"].removeprefix("label_values(").rpartition(",")[0]
    yield from ((each["name"], each["expr"]) for each in dashboard["annotations"]["list"])


def series(expression: str) -> Iterator[tuple[str, str]]:
    """Each series that a PromQL expression selects: its name and its matchers."""
    bare = re.sub(r'"[^"]*"', lambda text: text[0].replace("(", "_").replace(")", "_"), expression)
    for found in re.finditer(r"(?<![\w:$])([a-z_][a-z0-9_:]*)(?![\w:]|\s*\()(?:\{([^}]*)\})?", without_groupings(bare)):
        if found[1] not in {"and", "or", "unless", "on", "ignoring", "offset", "bool"} and not found[1].endswith(
            "_over"
        ):
            yield found[1], found[2] or ""


def without_groupings(expression: str) -> str:
    """Without `by (…)` and the like, whose labels look like series, and without durations."""
    shorn = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    return re.sub(r"\[[^\]]*\]|\boffset \w+|(?<![\w{,=~\"])\d[\w.]*", " ", shorn)


def groupings(expression: str) -> set[str]:
    found = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for each in found for label in each.split(",")}


def test_every_query_names_what_the_worker_exports() -> None:
    """A metric, label or label's value that there is not would leave a panel empty, and an alert silent for ever."""
    known = exported() | {rule["record"]: {"job", "instance", "le"} for rule in rules() if "record" in rule}
    num_series = 0
    for where, expression in queries():
        labels: set[str] = set()
        for name, matchers in series(expression):
            num_series += 1
            assert name in known, f"{where}: {name} is exported by nobody"
            labels |= known[name]
            for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
                assert label in known[name], f"{where}: {name} has no label {label}"
                if label in VALUES and "$" not in value:
                    assert set(value.split("|")) <= VALUES[label], f"{where}: {label}{operator}{value}"
        assert groupings(expression) <= labels, f"{where}: {groupings(expression) - labels}"
    assert num_series > 50


@pytest.mark.parametrize("broken", ["nametag_post_total", 'nametag_images_total{state="used"}'])
def test_a_wrong_query_would_be_found(broken: str) -> None:
    """The reading of queries that the test above rests on sees a misspelt metric, and a misspelt label."""
    (name, matchers), *_ = series(f"sum by (job) (rate({broken}[5m]))")
    known = exported()
    assert name not in known or not set(re.findall(r"(\w+)=", matchers)) <= known[name]


def test_every_metric_is_looked_at() -> None:
    """What the worker of nametag exports stands on the dashboard or in an alert."""
    asked = {name for _, expression in queries() for name, _ in series(expression)}
    ours = {name for name in exported() if name.startswith("nametag_")}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
    unseen = {name for name in families if not any(each.startswith(name) for each in asked)}
    # Of its processes a worker tells what all programs do, and not all of it matters here.
    assert {name for name in unseen if not name.startswith("nametag_tagger_process_")} == set()


def test_the_dashboard_is_whole() -> None:
    """Panels have distinct ids, don't overlap, name the data source that is provisioned, and say their unit."""
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    places: set[tuple[int, int]] = set()
    identities = []
    for panel in panels():
        identities.append(panel["id"])
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert not cells & places, panel["title"]
        assert all(x < 24 for x, _ in cells)
        places |= cells
    assert len(set(identities)) == len(identities)


def test_every_alert_says_what_to_do() -> None:
    """A severity, one sentence of what is wrong, and where to look."""
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
            assert len(rule["annotations"]["summary"]) > 10, rule["alert"]
            assert len(rule["annotations"]["description"]) > 40, rule["alert"]
