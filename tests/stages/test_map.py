from pathlib import Path
from typing import Any

import pytest

from data_bridge.errors import ConfigError
from data_bridge.model.batch import Row
from data_bridge.runtime.stage import Skip
from data_bridge.testing import StageContract, run_stage, stage_of


def squared(row: Row) -> Row:
    if row["n"] == 3:
        raise Skip("three is left out")
    return {"n": row["n"] ** 2}


def number(row: Row) -> Any:
    return row["n"]


def scaled(row: Row, factor: int) -> Row:
    return {"n": row["n"] * factor}


def mapped(name: str, samples: list[Row], **arguments: Any) -> Any:
    return run_stage({"map": {"call": f"{__file__}:{name}", "arguments": arguments}}, samples)


class TestMap(StageContract):
    kind = "map"
    options = {"call": f"{__file__}:squared"}
    samples = [{"n": 2}, {"n": 3}, {"m": 1}, {"n": "x"}, {"n": 4}]
    refused = [
        {},
        {"call": "squared"},
        {"call": f"{__file__}:cubed"},
        {"call": "no_such_module:fn"},
        {"call": __file__},
    ]

    def test_a_sample_is_what_the_function_returns_or_a_failure_with_its_reason(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.samples == [{"n": 4}, {"n": 16}]
        assert run.reasons[1] == "three is left out"
        assert run.reasons[2] == "KeyError: 'n'"
        assert run.reasons[3].startswith("TypeError: ")


def test_arguments_reach_the_function_and_may_change_in_a_running_stage() -> None:
    assert mapped("scaled", [{"n": 2}], factor=5).samples == [{"n": 10}]
    assert type(stage_of({"map": {"call": f"{__file__}:scaled"}}).options).model_fields[
        "arguments"
    ].json_schema_extra == {"live": "any"}


def test_what_is_no_dictionary_is_a_failure_that_names_the_function() -> None:
    run = mapped("number", [{"n": 1}])

    assert run.samples == []
    assert run.reasons[0].endswith(":number returned int, not a dictionary")


def test_other_code_is_another_version(tmp_path: Path) -> None:
    versions: list[str] = []
    for name, body in (("a.py", "return row"), ("b.py", "return {**row}")):
        (tmp_path / name).write_text(f"def fn(row):\n    {body}\n")
        versions += stage_of({"map": {"call": f"{tmp_path / name}:fn"}}).code().values()

    assert versions[0] != versions[1]


def test_a_file_that_cannot_be_loaded_is_refused_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")

    with pytest.raises(ConfigError, match="no_such_module"):
        stage_of({"map": {"call": f"{tmp_path}/broken.py:fn"}})
