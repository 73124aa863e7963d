"""Names that people build dashboards on: documents, dashboard and program have the same."""

import json
import re
from pathlib import Path

from data_bridge.monitor.series import CATALOGUE, PREFIX

DOCS = Path(__file__).parents[2] / "docs"
ENDINGS = ("_count", "_sum")
"""Added to the name of statistics."""


def test_the_documented_names_are_those_of_the_catalogue() -> None:
    rows = re.findall(r"(?m)^\| `(data_bridge_\w+)` \| (.+) \|$", (DOCS / "metrics.md").read_text())

    assert dict(rows) == {PREFIX + name: text for name, text in CATALOGUE.items()}


def test_the_dashboard_asks_for_names_that_there_are() -> None:
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    names = {name for expression in asked for name in re.findall(r"data_bridge_\w+", expression)}

    known = {PREFIX + name for name in CATALOGUE}
    known |= {name + ending for name in known for ending in ENDINGS}
    assert len(asked) >= 10
    assert names - known == set()
    assert all(panel["title"] for panel in panels)
