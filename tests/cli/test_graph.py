"""A pipeline is drawn as it is wired."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.console import data_bridge

from data_bridge import api
from data_bridge.cli.graph import svg, text
from data_bridge.config import load_settings
from data_bridge.errors import ConfigError
from data_bridge.model.outline import Box, layers, tree

CONFIG = """\
pipeline:
  input_uri: rows.jsonl.gz
  stages:
    - map: {call: "json:dumps"}
      name: tidy
    - filter: {call: "json:dumps"}
      name: long
    - map: {call: "json:dumps"}
      name: upper
      input: tidy
      enabled: false
    - map: {call: "json:dumps"}
      name: both
      input: [upper, long]
  writers:
    - {name: all, input: tidy}
    - {name: joined, input: both, format: litdata}
"""
DRAWN = """\
source           jsonl
tidy             map
├ long           filter
├ upper          map  (off: samples pass unchanged)
│ both           map  ← upper, long
│ writer joined  litdata
└ writer all     webdataset
"""
SPLIT = (
    Box("source", "jsonl", (), ("source",)),
    Box("parts", "split", ("source",), ("parts.train", "parts.test")),
    Box("writer train", "webdataset", ("parts.train",)),
    Box("writer <b>", "webdataset", ("parts.test",)),
)


def written(tmp_path: Path) -> Path:
    path = tmp_path / "graph.yaml"
    path.write_text(CONFIG)
    return path


def test_the_text_has_a_line_for_each_box_under_what_it_reads(tmp_path: Path) -> None:
    said = data_bridge("graph", written(tmp_path), cwd=tmp_path)

    assert (said.returncode, said.stdout) == (0, DRAWN)
    assert text(SPLIT).splitlines()[2:] == [
        "├ writer train  webdataset  ← parts.train",
        "└ writer <b>    webdataset  ← parts.test",
    ]


def test_a_pipeline_without_stages_is_a_source_and_a_writer(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("pipeline: {input_uri: 'hf://org/name', name: litdata}")

    boxes = api.graph(load_settings(tmp_path / "plain.yaml"))

    assert text(boxes) == "source  huggingface\nwriter  litdata"


def test_the_picture_has_every_box_and_line_and_nothing_overlaps(tmp_path: Path) -> None:
    out = tmp_path / "graph.svg"
    said = data_bridge("graph", written(tmp_path), "--svg", out, cwd=tmp_path)

    assert said.stdout == f"wrote {out}\n"
    drawn = ET.fromstring(out.read_text())
    name = "{http://www.w3.org/2000/svg}"
    groups = drawn.findall(f"{name}g")
    titles = [group.findall(f"{name}text")[0].text for group in groups]
    assert titles == ["source", "tidy", "long", "upper", "both", "writer all", "writer joined"]
    assert [group.get("class") for group in groups].count("stage off") == 1
    assert len(drawn.findall(f"{name}path")) == 7
    places = [
        tuple(float(rect.get(side) or 0) for side in ("x", "y", "width", "height"))
        for group in groups
        for rect in group.findall(f"{name}rect")
    ]
    assert all(
        a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
        for i, a in enumerate(places)
        for b in places[:i]
    )
    assert all(x >= 0 and x + w <= float(drawn.get("width") or 0) for x, _, w, _ in places)


def test_names_of_outputs_are_drawn_and_names_are_escaped() -> None:
    drawn = svg(SPLIT)

    ET.fromstring(drawn)
    assert re.findall(r'class="port"[^>]*>([^<]+)<', drawn) == ["train", "test"]
    assert "writer &lt;b&gt;" in drawn


def test_names_of_outputs_stand_on_plates_above_all_lines_and_beside_each_other() -> None:
    drawn = svg(SPLIT)

    assert drawn.rindex("<path d=") < drawn.index('class="plate"')
    plates = re.findall(r'class="plate" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawn)
    (x, y, width, height), (other, *_) = ([float(side) for side in plate] for plate in plates)
    assert x + width < other
    boxes = re.findall(r'<g class="\w+"><rect x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', drawn)
    assert all(y + height < float(top) or y > float(top) + float(tall) for top, tall in boxes)


def test_a_join_stands_below_all_it_reads() -> None:
    boxes = (
        Box("source", "x", (), ("source",)),
        Box("a", "x", ("source",), ("a",)),
        Box("b", "x", ("a",), ("b",)),
        Box("join", "x", ("source", "b"), ("join",)),
        Box("writer", "x", ("join",)),
    )

    assert [[box.name for box in row] for row in layers(boxes)] == [["source"], ["a"], ["b"], ["join"], ["writer"]]
    assert [branch + box.name for branch, box in tree(boxes)] == ["source", "a", "b", "join", "writer"]


def test_inputs_that_a_stage_tells_apart_are_drawn_with_their_names() -> None:
    boxes = (
        *SPLIT[:2],
        Box("joined", "bill", ("parts.train", "parts.test"), ("joined",), names=("buyers", "wares")),
    )

    assert text(boxes).endswith("joined  bill  ← buyers: parts.train, wares: parts.test")


def test_stages_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(CONFIG.replace("input: [upper, long]", "input: [upper, short]"))

    with pytest.raises(ConfigError, match="there is no stage 'short'"):
        api.graph(load_settings(path))


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    said = data_bridge("graph", written(tmp_path), "--svg", tmp_path / "none" / "x.svg", cwd=tmp_path)

    assert said.returncode == 2
    assert "name another file with --svg" in said.stderr
