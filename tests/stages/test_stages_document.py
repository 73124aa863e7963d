"""`docs/stages.md` says what the stages are: every kind, every option, and examples that run."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_bridge.config import Settings
from data_bridge.io.sources.stream import SampleStream
from data_bridge.model.batch import DictRows
from data_bridge.model.source import Probe
from data_bridge.runtime.flow import Flow, Lot
from data_bridge.runtime.graph import SOURCE
from data_bridge.stages.build import build
from data_bridge.stages.reference import with_tables
from data_bridge.stages.registry import BUILT_IN

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## `([a-z_]+)`$(.*?)(?=^## |\Z)", TEXT))


def blocks(text: str) -> list[str]:
    return re.findall(r"(?ms)^```yaml\n(.*?)^```$", text)


def test_every_kind_has_a_section_and_an_example_that_uses_it() -> None:
    for kind in BUILT_IN:
        used = [s for b in blocks(SECTIONS.get(kind, "")) for s in yaml.safe_load(b)["pipeline"]["stages"]]

        assert any(kind in stage for stage in used), f"docs/stages.md shows no {kind}"


def test_no_section_is_there_twice() -> None:
    headings = re.findall(r"(?m)^## .*$", TEXT)

    assert [heading for heading in headings if headings.count(heading) > 1] == []


def test_the_tables_of_options_are_those_of_the_kinds() -> None:
    assert with_tables(TEXT) == TEXT, "run `python -m data_bridge.stages.reference docs/stages.md`"


@pytest.mark.parametrize("text", [pytest.param(block, id=str(n)) for n, block in enumerate(blocks(TEXT))])
def test_every_example_can_be_built_and_makes_something_of_a_local_source(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    settings = Settings.model_validate(yaml.safe_load(text))
    graph = build(settings.pipeline)
    if "://" in str(settings.pipeline.input_uri):
        return
    probe = probe_of(settings)
    indices = np.arange(len(probe.rows), dtype=np.int64)
    if any(node.stage.executor == "thread" for node in graph.nodes):
        graph.fields(probe.fields, {})
        return  # it would ask the network
    flow = Flow(graph)

    flow.setup()
    passed = flow(Lot(DictRows(probe.rows), indices, indices))
    flow.close()

    assert passed.failures == ()
    assert all(len(lot) for lot in passed.lots.values())
    for node in graph.nodes:
        if node.inputs == (SOURCE,):
            node.stage.fields(probe.fields)


def probe_of(settings: Settings) -> Probe:
    stream = SampleStream(settings)
    return stream.probe(stream.listing())
