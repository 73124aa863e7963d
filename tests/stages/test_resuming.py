"""Whole runs of the built-in stages: killed on the way, and what they load."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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


@pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed: nothing can import it")
def test_no_stage_imports_pandas_for_columns(tmp_path: Path) -> None:
    rows = [{"id": n, "text": "a b", "tags": [n, 1], "x": [0.5, 1.0]} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    code = """
import sys
from pathlib import Path
from data_bridge import api
from data_bridge.config import Settings
api.run_pipeline(Settings.model_validate({"pipeline": {
    "input_uri": "rows.parquet", "output_uri": "out", "workers": 0,
    "stages": [
        {"filter": {"where": {"id": {"min": 3}, "text": {"matches": "a"}}}},
        {"cast": {"fields": {"id": "string"}}},
        {"text_normalize": {"fields": ["text"], "lower": True}},
        {"signal": {"field": "x", "coeffs": [0.5, 0.5]}},
        {"explode": {"field": "tags", "index_field": "place"}},
        {"rename": {"fields": {"tags": "tag"}}},
        {"sample": {"fraction": 0.9}},
        {"split": {"field": "text"}, "outputs": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]},
    ],
}}))
sys.exit("pandas" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
