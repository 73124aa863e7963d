"""How many rows a second the built-in stages make, on one core: `python -m benchmarks.stages [ROWS]`.

A batch at a time, of JSON lines and of Arrow columns; the median CPU time of three passes. What a line costs is mostly its parsing.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data_bridge.model.batch import ArrowRows, LineRows, Rows
from data_bridge.rows.values import dump
from data_bridge.runtime.stage import StageBatch
from data_bridge.testing import stage_of

ROWS = 100_000
BATCH = 4096
PASSES = 3
SHARES = [{"name": "train", "weight": 0.9}, {"name": "val", "weight": 0.1}]
TEXTS = (
    "To Sherlock Holmes she is always THE woman. I have seldom heard him mention her under any other name.",
    "In his eyes she eclipses and predominates  the whole of her sex.",
    "Cafe\u0301 e\u0301te\u0301 nai\u0308ve",
)
STAGES: Mapping[str, Mapping[str, Any]] = {
    "filter: min": {"filter": {"where": {"score": {"min": 0.5}}}},
    "filter: in, length, matches": {
        "filter": {"where": {"lang": {"in": ["en", "de"]}, "text": {"min_length": 10, "matches": "^[A-Z]"}}}
    },
    "select": {"select": {"fields": ["id", "text"]}},
    "drop": {"drop": {"fields": ["tags"]}},
    "rename": {"rename": {"fields": {"id": "key"}}},
    "cast: numbers": {"cast": {"fields": {"id": "int32", "score": "float32"}}},
    "cast: text to int64": {"cast": {"fields": {"number": "int64"}}},
    "cast: text to timestamp": {"cast": {"fields": {"when": "timestamp"}}},
    "text_normalize": {"text_normalize": {"fields": ["text"], "form": "NFKC", "collapse_whitespace": True}},
    "explode: 3 each": {"explode": {"field": "tags"}},
    "signal: 16 numbers, 8 taps": {"signal": {"field": "signal", "scale": 0.5, "coeffs": [0.125] * 8}},
    "split: by index": {"split": {}, "outputs": SHARES},
    "split: by a value's hash": {"split": {"field": "text"}, "outputs": SHARES},
    "split: by field": {
        "split": {"by": "field", "field": "lang", "default": "fr"},
        "outputs": [{"name": name} for name in ("en", "de", "fr")],
    },
    "sample": {"sample": {"fraction": 0.5}},
    "limit": {"limit": {"count": 50_000}},
}


def main(rows: int = ROWS) -> None:
    columns, lines = sources(rows)
    print(f"{rows:,} rows; rows a second of CPU time")
    print(f"{'stage':<30}{'columns':>16}{'JSON lines':>16}")
    for name, config in STAGES.items():
        print(f"{name:<30}{rate(config, columns):>16,.0f}{rate(config, lines):>16,.0f}", flush=True)


def sources(count: int) -> tuple[ArrowRows, LineRows]:
    """The same rows as columns and as lines."""
    chance = np.random.default_rng(0)
    rows = [
        {
            "id": i, "lang": ("en", "de", "fr")[i % 3], "score": float(score), "text": TEXTS[i % 3], "number": str(i),
            "when": f"2024-02-29T12:{i % 60:02d}:00Z", "tags": [i, i + 1, i + 2], "signal": [float(i)] * 16,
        }
        for i, score in enumerate(chance.random(count))
    ]  # fmt: skip
    lines = [dump(row) for row in rows]
    ends = np.cumsum([len(line) + 1 for line in lines], dtype=np.int64) - 1
    starts = ends - np.array([len(line) for line in lines], dtype=np.int64)
    return ArrowRows(pa.RecordBatch.from_pylist(rows)), LineRows(b"".join(x + b"\n" for x in lines), starts, ends)


def rate(config: Mapping[str, Any], rows: Rows) -> float:
    stage = stage_of(config)
    seconds = []
    for _ in range(PASSES):
        started = time.process_time()
        for low in range(0, len(rows), BATCH):
            part = rows.slice(low, min(low + BATCH, len(rows)))
            stage.process(StageBatch(part, np.arange(low, low + len(part), dtype=np.int64)))
        seconds.append(time.process_time() - started)
    return len(rows) / max(statistics.median(seconds), 1e-9)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
