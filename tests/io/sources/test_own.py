"""A function or class of the user's own is a source like any other: resumed in the middle, told apart by its code."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.kill import tree
from support.own_sources import Feed
from support.readers import read_json_samples
from support.source_contract import Case, SourceContract

from data_bridge.api import run_pipeline
from data_bridge.config import Settings, SourceOptions
from data_bridge.errors import ConfigError, ConflictError, SourceError
from data_bridge.io.own import parts_of
from data_bridge.io.sources.own import Own
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile

FEED = "python://support.own_sources:Feed"
FAULTY = "python://support.own_sources:Faulty"


def settings(out: Path, uri: str, arguments: dict[str, Any] | None = None, **more: Any) -> Settings:
    values = {
        "input_uri": uri,
        "source_options": {"arguments": arguments or {}},
        "output_uri": str(out),
        "samples_per_shard": 20,
        "on_error": "skip",
        **more,
    }
    return Settings.model_validate({"pipeline": values})


class TestOwn(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        arguments = {"parts": 2, "each": 1300}
        chosen = settings(tmp_path, FEED, arguments)
        expected = [{"id": n, "text": "x" * (n % 1300 % 30)} for n in range(2600) if n % 17 != 16]
        reader = Own(chosen.pipeline.source_options, Transport(chosen))
        return Case(reader, parts_of(FEED, arguments), expected, 2600 // 17)

    @pytest.fixture
    def wrong(self) -> SourceFile:
        return SourceFile(uri="python://support.own_sources:broken")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_samples_of_all_parts_are_packed(tmp_path: Path, workers: int) -> None:
    report = run_pipeline(settings(tmp_path / "out", FEED), workers=workers)

    assert (report.samples, report.failed) == (210 - 12, 12)
    assert [row["id"] for row in read_json_samples(tmp_path / "out")] == [n for n in range(210) if n % 17 != 16]


def test_a_function_is_a_source(tmp_path: Path) -> None:
    run_pipeline(settings(tmp_path / "out", "python://support.own_sources:letters", {"text": "hello"}), workers=0)

    assert [row["letter"] for row in read_json_samples(tmp_path / "out")] == list("hello")


def test_a_source_may_use_one_dictionary_for_all_its_samples(tmp_path: Path) -> None:
    run_pipeline(settings(tmp_path / "out", "python://support.own_sources:reused"), workers=0)

    assert [row["n"] for row in read_json_samples(tmp_path / "out")] == [0, 1, 2]


def test_a_secret_that_a_source_tells_is_not_stored(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "out", "python://support.own_sources:locked", {"token": "tk-secret-17"})
    with pytest.raises(SourceError):
        run_pipeline(chosen, workers=0)

    stored = [p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file() and b"login" in p.read_bytes()]
    assert len(stored) == 1, "the record of the partition that was given up"
    assert not any(b"tk-secret-17" in content for content in stored)


def test_parts_may_be_generated_and_a_function_may_have_its_arguments_already(tmp_path: Path) -> None:
    generated = run_pipeline(settings(tmp_path / "a", "python://support.own_sources:Generating", {"at": ""}), workers=0)
    run_pipeline(settings(tmp_path / "b", "python://support.own_sources:five"), workers=0)

    assert generated.samples == 2
    assert [row["id"] for row in read_json_samples(tmp_path / "b")] == list(range(5))


def test_a_file_of_python_is_enough(tmp_path: Path) -> None:
    (tmp_path / "feed.py").write_text("def feed(start=0):\n    yield from ({'n': n} for n in range(start, 5))\n")

    run_pipeline(settings(tmp_path / "out", f"python://{tmp_path}/feed.py:feed"), workers=0)

    assert [row["n"] for row in read_json_samples(tmp_path / "out")] == list(range(5))


def test_another_package_offers_a_source_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "feeds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: feeds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[data_bridge.sources]\nletters = support.own_sources:letters\n")
    monkeypatch.syspath_prepend(tmp_path)

    run_pipeline(settings(tmp_path / "out", "python://letters"), workers=0)
    for name, words in (("letters", "is a source and no format"), ("lettres", "unknown format 'lettres'")):
        with pytest.raises(ConfigError, match=words) as refused:
            run_pipeline(settings(tmp_path / "no", "python://letters", input_format=name), workers=0)
        assert "letters" not in str(refused.value.hint).replace("python://letters", "")

    assert [row["letter"] for row in read_json_samples(tmp_path / "out")] == list("abc")


@pytest.mark.parametrize(
    ("uri", "arguments"),
    [(FEED, {"parts": 1, "each": 2500}), ("python://support.own_sources:numbers", {"count": 2500})],
)
def test_what_breaks_off_goes_on_behind_the_last_shard(
    tmp_path: Path, uri: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pipeline(settings(tmp_path / "whole", uri, arguments), workers=0)
    reads: list[int] = []
    broken = Own._samples

    def breaking(self: Own, file: SourceFile, start: int) -> Any:
        reads.append(start)
        for number, row in enumerate(broken(self, file, start)):
            if len(reads) == 2 and number == 2200:  # the first one was the look that planning takes
                raise SourceError("the line is down")
            yield row

    monkeypatch.setattr(Own, "_samples", breaking)
    with pytest.raises(SourceError):
        run_pipeline(settings(tmp_path / "out", uri, arguments), workers=0)
    run_pipeline(settings(tmp_path / "out", uri, arguments), workers=0)

    assert reads[-1] == 1000, "the batch that holds the next sample"
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_exception_names_the_part_and_the_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Feed#day%2F1: OSError behind sample 30: the line is down"):
        run_pipeline(settings(tmp_path / "out", FEED, {"fails_at": 100}), workers=0)


def test_other_content_is_not_packed_into_the_same_dataset_and_new_parts_are(tmp_path: Path) -> None:
    run_pipeline(settings(tmp_path / "out", FEED), workers=0)
    plan = next((tmp_path / "out" / "_bridge").glob("*/plan/000000.json"))
    recorded = json.loads(plan.read_bytes())
    for file in recorded["files"]:
        file["etag"] += "x"
    plan.write_text(json.dumps(recorded))

    with pytest.raises(ConflictError, match="its ETag was"):
        run_pipeline(settings(tmp_path / "out", FEED), workers=0)


@pytest.mark.parametrize(
    ("uri", "arguments", "words"),
    [
        ("python://support.own_sources:Fed", {}, "has no function or class 'Fed'"),
        ("python://nowhere:Feed", {}, "the module nowhere cannot be imported"),
        (FEED, {"part": 1}, "pipeline.source_options.arguments: part"),
        ("python://support.own_sources:FeedSettings", {}, "is no source"),
        ("python://support.own_sources:numbers", {"start": 30}, "arguments: `start` says where"),
        (
            "python://support.own_sources:numbers",
            {"cuont": 30},
            "arguments: got an unexpected keyword argument 'cuont'",
        ),
        (FAULTY, {"at": "making"}, "Faulty: making it: OSError: the line is down"),
        (FAULTY, {"at": "parts"}, "Faulty: asking for its parts: OSError: the line is down"),
        (FAULTY, {"at": "version"}, "Faulty: asking for its version: OSError: the line is down"),
        (FAULTY, {"at": "fields"}, "Faulty: asking for its fields: OSError: the line is down"),
        (FAULTY, {"at": "numbers"}, "the part 1 is no text"),
    ],
)
def test_what_cannot_be_read_is_told_by_the_plan(
    tmp_path: Path, uri: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_pipeline(settings(tmp_path / "out", uri, arguments), workers=0)


def test_arguments_are_for_such_sources_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(ConfigError, match=r"source_options\.arguments does not apply to jsonl"):
        run_pipeline(settings(tmp_path / "out", str(tmp_path / "a.jsonl"), {"x": 1}), workers=0)


def test_a_source_needs_no_arguments() -> None:
    assert Feed(Feed.Options()).parts() == ["day/0", "day/1", "day/2"]
    assert SourceOptions().arguments == {}
