import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.model.batch import ArrowRows, Row
from data_bridge.testing import StageContract, assert_same_however_cut, forms, run_stage, stage_of

TEXT = st.text(
    st.sampled_from(
        " \t\n\x00\x07\x1c\x85\xa0\u00b4\u0301\u0345\u1fb3\u03a9\u2126\ufb01\u212a\u0130\u1e9e\u3000aA\u00e9e\u0308"
    )
    | st.characters(codec="utf-8"),
    max_size=12,
)


def normal(text: str, **options: Any) -> str:
    run = run_stage({"text_normalize": {"fields": ["x"], **options}}, [{"x": text}])
    return str(run.samples[0]["x"])


class TestEverything(StageContract):
    kind = "text_normalize"
    options = {"fields": ["a", "b"], "form": "NFKC", "remove_control": True, "lower": True, "collapse_whitespace": True}
    samples = [
        {"a": "\ufb01ne\u0301", "b": " A\x07 \n B ", "c": "  C "},
        {"a": None, "b": "", "c": ""},
        {"b": "x", "c": ""},
        {"a": 5, "b": "x", "c": ""},
        {"a": "x", "b": ["x"], "c": ""},
    ]
    refused = [
        {},
        {"fields": []},
        {"fields": ["d"]},
        {"fields": ["a"], "form": "none"},
        {"fields": ["a"], "form": "nfc"},
    ]

    def test_only_the_named_fields_change(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.samples == [
            {"a": "fin\u00e9", "b": "a b", "c": "  C "},
            {"a": None, "b": "", "c": ""},
            {"b": "x", "c": ""},
        ]
        assert run.reasons == {3: "field 'a' is of type int, not text", 4: "field 'b' is of type list, not text"}


class TestTexts(StageContract):
    kind = "text_normalize"
    options = {"fields": ["a"]}
    samples = [{"a": "e\u0301", "b": 1}, {"a": "", "b": 2}, {"a": None, "b": 3}, {"a": "plain", "b": 4}]
    refused = [{"fields": ["b"]}]


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "e\u0301 \ufb01 ", "\u00e9 \ufb01 "),
        ({"form": "NFD"}, "\u00e9", "e\u0301"),
        ({"form": "NFKC"}, "\ufb01\uff21", "fiA"),
        ({"form": "none", "strip": True}, "\u3000e\u0301\n", "e\u0301"),
        ({"collapse_whitespace": True}, " a\t\n b\u00a0c ", "a b c"),
        ({"remove_control": True}, "a\x00b\tc\nd\x9fe\x7f", "ab\tc\nde"),
        ({"remove_control": True}, "e\x07\u0301", "\u00e9"),
        ({"lower": True}, "ÀÉ STRASSE", "àé strasse"),
    ],
)
def test_each_option_does_what_it_says(options: dict[str, Any], text: str, expected: str) -> None:
    assert normal(text, **options) == expected


@settings(deadline=None, max_examples=150)
@given(TEXT, st.sampled_from(["NFC", "NFKC", "NFD", "NFKD"]), st.booleans(), st.booleans(), st.booleans())
def test_what_it_has_made_it_does_not_change_again(
    text: str, form: str, control: bool, lower: bool, collapse: bool
) -> None:
    stage: Any = stage_of(
        {"text_normalize": {"fields": ["x"], "form": form, "remove_control": control, "lower": lower, "collapse_whitespace": collapse}}
    )  # fmt: skip

    once = stage.normal(text)

    assert stage.normal(once) == once
    assert unicodedata.is_normalized(form, once)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.none() | TEXT, max_size=6), st.integers(0, 2))
def test_columns_and_single_values_are_spelled_alike(values: list[str | None], first: int) -> None:
    column = pa.array(values, pa.string())
    config = {"text_normalize": {"fields": ["x"], "form": "NFKC", "lower": True}}
    table = ArrowRows(pa.record_batch({"x": column})).slice(min(first, len(values)), len(values))

    found = run_stage(config, table)

    assert found.samples == run_stage(config, [{"x": value} for value in values[first:]]).samples


@settings(deadline=None, max_examples=25)
@given(st.lists(st.fixed_dictionaries({"x": st.none() | TEXT}), max_size=8))
def test_it_makes_the_same_however_samples_are_cut(samples: list[Row]) -> None:
    assert_same_however_cut({"text_normalize": {"fields": ["x"], "strip": True}}, samples)


def test_the_version_of_unicode_is_part_of_what_its_bytes_depend_on() -> None:
    assert stage_of({"text_normalize": {"fields": ["x"]}}).libraries() == {"Unicode": unicodedata.unidata_version}


def test_its_report_has_the_characters_of_the_texts_of_a_sample() -> None:
    samples: list[Row] = [{"a": " x  y ", "b": "z"}, {"a": None, "b": 5}, {"a": "", "b": "ok"}]

    for _, rows in forms(samples):
        run = run_stage({"text_normalize": {"fields": ["a", "b"], "collapse_whitespace": True}}, rows)
        assert run.report == [
            {"index": 0, "characters_before": 7, "characters": 4},
            {"index": 2, "characters_before": 2, "characters": 2},
        ]
