"""`preview` keeps the newest samples, and nothing more, for a person to look at."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.pictures import file_of, gradient

from data_bridge.config import Settings
from data_bridge.model.batch import DictRows, Media, Row
from data_bridge.model.changes import Change
from data_bridge.pipelines.flows import Flows
from data_bridge.runtime.stage import StageBatch
from data_bridge.stages import preview
from data_bridge.stages.preview import Preview, PreviewOptions
from data_bridge.testing import StageContract

JPEG = file_of(gradient(40, 30))


class TestPreview(StageContract):
    kind = "preview"
    options = {"samples": 2}
    samples = [{"text": "a", "image": JPEG}, {"text": None, "image": b""}, {"text": "c", "image": b"x"}]
    refused = [{"samples": 0}, {"folder": "/tmp"}]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preview:
    monkeypatch.setattr(preview, "EVERY_S", 0.0)
    made = Preview(PreviewOptions(samples=3))
    made.folder = tmp_path / "stages" / "preview"
    return made


def show(stage: Preview, *rows: Row, first: int = 0, prefix: str = "00002-") -> None:
    stage.look(StageBatch(DictRows(list(rows)), np.arange(len(rows), dtype=np.int64) + first, prefix))


def names(stage: Preview) -> list[str]:
    assert stage.folder is not None
    return sorted(path.name for path in stage.folder.iterdir())


def test_the_newest_samples_are_there_and_older_ones_are_gone(stage: Preview) -> None:
    for first in range(0, 12, 4):
        show(stage, *({"n": first + i} for i in range(4)), first=first)

    assert names(stage) == [f"00002-{n:010d}.json" for n in (9, 10, 11)]


def test_bytes_become_files_beside_the_json(stage: Preview) -> None:
    show(
        stage, {"a b": Media(JPEG, "cats/1.jpeg"), "png": file_of(gradient(4, 4), "PNG"), "raw": b"\0", "n": [1, None]}
    )

    assert names(stage) == [f"00002-0000000000.{end}" for end in ("a_b.jpeg", "json", "png.png", "raw.bin")]
    assert stage.folder is not None
    assert (stage.folder / "00002-0000000000.a_b.jpeg").read_bytes() == JPEG
    assert json.loads((stage.folder / "00002-0000000000.json").read_bytes()) == {
        "a b": {"file": "00002-0000000000.a_b.jpeg", "bytes": len(JPEG)},
        "png": {"file": "00002-0000000000.png.png", "bytes": len(file_of(gradient(4, 4), "PNG"))},
        "raw": {"file": "00002-0000000000.raw.bin", "bytes": 1},
        "n": [1, None],
    }


def test_fields_with_names_alike_have_files_of_their_own(stage: Preview) -> None:
    show(stage, {"a b": b"\0", "a_b": b"\1"})

    assert stage.folder is not None
    shown = json.loads((stage.folder / "00002-0000000000.json").read_bytes())
    assert [(stage.folder / shown[field]["file"]).read_bytes() for field in ("a b", "a_b")] == [b"\0", b"\1"]


def test_more_samples_are_looked_at_once_a_live_change_says_so() -> None:
    pipeline = Settings.model_validate({"pipeline": {"input_uri": "x.jsonl", "stages": [{"preview": {"samples": 2}}]}})
    flows = Flows(pipeline.pipeline, "", {})

    assert [branch.most for branch in flows(()).branches] == [2]
    change = Change(number=0, id="x", stage="preview", key="samples", value=50)
    assert [branch.most for branch in flows((change,)).branches] == [50]


def test_what_came_of_one_sample_is_numbered(stage: Preview) -> None:
    stage.look(StageBatch(DictRows([{"n": 1}, {"n": 2}]), np.array([7, 7], dtype=np.int64)))

    assert names(stage) == ["0000000007-1.json", "0000000007.json"]


def test_samples_of_less_than_a_moment_are_written_at_the_end(stage: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    show(stage, {"n": 0})
    monkeypatch.setattr(preview, "EVERY_S", 1e9)
    show(stage, {"n": 1}, first=1)
    before = names(stage)
    stage.close()

    assert before == ["00002-0000000000.json"]
    assert names(stage) == ["00002-0000000000.json", "00002-0000000001.json"]


def test_without_a_folder_it_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = Preview(PreviewOptions())
    show(stage, {"n": 1})
    stage.close()

    assert list(tmp_path.iterdir()) == []
