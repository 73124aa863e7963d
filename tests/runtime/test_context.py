"""What a stage is given that looks at the run as a whole."""

from pathlib import Path

import pytest

from data_bridge.errors import ConfigError
from data_bridge.runtime.context import Context, require_same_keys


def test_a_document_that_is_not_there_is_empty_and_one_that_was_saved_is_read(tmp_path: Path) -> None:
    context = Context(folder=tmp_path / "stages" / "mine")
    assert context.load_json("a.json") == {}

    context.save_json("a.json", {"n": [1]})

    assert context.load_json("a.json") == {"n": [1]}
    assert [path.name for path in (tmp_path / "stages" / "mine").iterdir()] == ["a.json"]
    with pytest.raises(TypeError):
        context.save_json("a.json", object())
    assert context.load_json("a.json") == {"n": [1]}, "whole or not at all"


def test_where_there_is_no_folder_nothing_is_read_and_nothing_can_be_kept() -> None:
    assert Context().load_json("a.json") == {}
    with pytest.raises(ConfigError, match="no home"):
        Context().save_json("a.json", {})


def test_keys_that_only_one_side_has_are_named_up_to_ten() -> None:
    assert require_same_keys(["b", "a"], iter(["a", "b"]), "pages") == 2

    with pytest.raises(ConfigError) as refused:
        require_same_keys((f"k{n:02}" for n in range(12)), ["k00", "x"], "pages")

    assert refused.value.message == (
        "pages: 11 are missing (k01, k02, k03, k04, k05, k06, k07, k08, k09, k10, …) and 1 are there that nobody wants (x)"
    )
