"""Whole runs of the built-in stages, killed on the way."""

from pathlib import Path

from data_bridge.testing import assert_resumes

WORDS = ["Sherlock", "Irene  Adler", "\ufb01ne", "e\u0301t\u00e9", ""]


def test_stages_that_choose_and_divide_resume_over_json_lines(tmp_path: Path) -> None:
    samples = [
        {"n": n, "text": WORDS[n % 5], "tags": ["a", "b", "c"][: n % 4], "bad": "1" if n % 11 else "x"}
        for n in range(200)
    ]

    assert_resumes(
        [
            {"filter": {"where": {"text": {"min_length": 1}}}},
            {"text_normalize": {"fields": ["text"], "form": "NFKC", "collapse_whitespace": True}},
            {"cast": {"fields": {"bad": "int8"}}},
            {"explode": {"field": "tags", "index_field": "place"}},
            {"sample": {"fraction": 0.8, "seed": 1}},
            {"split": {"field": "text"}, "outputs": [{"name": "train", "weight": 3}, {"name": "val", "weight": 1}]},
        ],
        samples,
        tmp_path,
    )  # fmt: skip


def test_stages_that_change_columns_resume_over_parquet(tmp_path: Path) -> None:
    samples = [{"id": n, "data": b"\xff\x00", "x": [float(n), 1.5, -2.0][: n % 4], "y": 1} for n in range(200)]

    assert_resumes(
        [
            {"signal": {"field": "x", "scale": 0.5, "coeffs": [0.5, 0.25, 0.25], "dtype": "float32"}},
            {"rename": {"fields": {"id": "key"}}},
            {"cast": {"fields": {"key": "string"}}},
            {"drop": {"fields": ["y"]}},
            {"limit": {"count": 150}},
        ],
        samples,
        tmp_path,
        kills=2,
        key_field="key",
    )
