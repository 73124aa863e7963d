"""Values that are legal in a source and that Python has no form for, or none of such depth."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_bridge.config import Settings
from data_bridge.io.sources.observed import observed_fields
from data_bridge.io.sources.stream import SampleStream


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


def test_a_probe_looks_at_lists_of_any_depth() -> None:
    assert observed_fields([{"deep": nested(900)}])[0].type == "json"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([-(2**62), 0, 2**62], pa.timestamp("us")),
        pa.array([[2**62], [0], []], pa.list_(pa.timestamp("us", "UTC"))),
        pa.array([2**31 - 1, 0, -(2**31)], pa.date32()),
    ],
)
def test_times_outside_of_the_years_python_knows_can_be_probed(column: "pa.Array", tmp_path: Path) -> None:  # type: ignore[type-arg]
    path = tmp_path / "far.parquet"
    pq.write_table(pa.table({"id": [0, 1, 2], "when": column}), path)
    stream = SampleStream(Settings.model_validate({"pipeline": {"input_uri": str(path)}}))

    rows = stream.probe(stream.listing()).rows

    assert [row["id"] for row in rows] == [0, 1, 2]
    assert all("when" in row for row in rows)
