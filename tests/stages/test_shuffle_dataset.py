"""`shuffle` with `scope: dataset`: row groups of all files in an order of the seed."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.errors import ConfigError, ConflictError
from data_bridge.runtime.stage import Stage
from data_bridge.stages.shuffle import Shuffle, ShuffleOptions

ROWS = 600
FILES = 3
SHARD = 50


def write(folder: Path, number: int, rows: int = ROWS // FILES) -> None:
    table = pa.table({"n": list(range(number * rows, (number + 1) * rows)), "text": ["x" * 40] * rows})
    pq.write_table(table, folder / f"{number}.parquet", row_group_size=10, compression="none")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(FILES):
        write(folder, number)
    return folder


def run(source: Path, out: Path, *stages: dict[str, Any], uri: str = "*.parquet", workers: int = 0) -> list[int]:
    """The samples' numbers in the order of the shards."""
    shuffles = stages or ({"shuffle": {"scope": "dataset", "window": 20, "seed": 1}},)
    pipeline = {
        "input_uri": f"{source}/{uri}",
        "output_uri": str(out),
        "samples_per_shard": SHARD,
        "partition_bytes": 6_000,
        "workers": workers,
        "stages": list(shuffles),
    }
    run_pipeline(Settings.model_validate({"pipeline": pipeline}))
    found = []
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as shard:
            found += [json.load(shard.extractfile(m))["n"] for m in shard if m.name.endswith(".json")]  # type: ignore[arg-type]
    return found


def test_every_sample_is_there_once_and_shards_mix_all_files(source: Path, tmp_path: Path) -> None:
    found = run(source, tmp_path / "out")

    assert sorted(found) == list(range(ROWS))
    files = [{n // (ROWS // FILES) for n in found[at : at + SHARD]} for at in range(0, ROWS, SHARD)]
    assert sum(len(one) > 1 for one in files) > len(files) // 2
    assert set().union(*files) == set(range(FILES))


def test_samples_of_one_row_group_stay_within_two_windows(source: Path, tmp_path: Path) -> None:
    found = run(source, tmp_path / "out")

    places = {n: place for place, n in enumerate(found)}
    spread = [
        max(places[n] for n in range(at, at + 10)) - min(places[n] for n in range(at, at + 10))
        for at in range(0, ROWS, 10)
    ]
    assert 10 < max(spread) < 40


def test_another_seed_is_another_order_and_workers_change_nothing(source: Path, tmp_path: Path) -> None:
    one = run(source, tmp_path / "a")

    assert run(source, tmp_path / "b", workers=2) == one
    assert run(source, tmp_path / "c", {"shuffle": {"scope": "dataset", "window": 20, "seed": 2}}) != one


def test_a_source_that_grew_is_refused(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    write(source, FILES)

    with pytest.raises(ConflictError, match="has grown, but this destination holds it shuffled as a whole"):
        run(source, tmp_path / "out")


def test_an_unchanged_source_is_done_already(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out") == run(source, tmp_path / "out")


def test_a_source_that_is_not_counted_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')

    with pytest.raises(ConfigError, match="the whole dataset cannot be shuffled"):
        run(tmp_path, tmp_path / "out", uri="a.jsonl")


def test_record_batches_of_arrow_files_and_streams_are_put_in_another_order(tmp_path: Path) -> None:
    for number in range(FILES):
        table = pa.table({"n": list(range(number * 200, number * 200 + 200))})
        new = pa.ipc.new_stream if number == 1 else pa.ipc.new_file
        with new(str(tmp_path / f"{number}.arrow"), table.schema) as file:
            file.write_table(table, max_chunksize=10)

    found = run(tmp_path, tmp_path / "out", uri="*.arrow")

    assert sorted(found) == list(range(ROWS))
    assert len({n // 200 for n in found[:SHARD]}) > 1


def test_plain_files_are_put_in_another_order(tmp_path: Path) -> None:
    names = [f"{number:03d}.txt" for number in range(130)]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_text(name)
    pipeline = {
        "input_uri": f"{tmp_path}/in/",
        "input_format": "files",
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": SHARD,
        "stages": [{"shuffle": {"scope": "dataset", "window": 20}}],
    }

    run_pipeline(Settings.model_validate({"pipeline": pipeline}), workers=0)

    found = []
    for path in sorted((tmp_path / "out").rglob("*.tar")):
        with tarfile.open(path) as shard:
            found += [shard.extractfile(m).read().decode() for m in shard if m.name.endswith(".txt")]  # type: ignore[union-attr]
    assert sorted(found) == names
    assert len([name for name in found[:20] if name in names[:20]]) < 15


def test_two_of_them_are_refused(source: Path, tmp_path: Path) -> None:
    one = {"shuffle": {"scope": "dataset", "window": 20}}

    with pytest.raises(ConfigError, match="each put the whole source in order"):
        run(source, tmp_path / "out", one, {**one, "name": "again"})


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**63 - 1), st.integers(0, 500))
def test_the_order_of_runs_is_a_permutation(seed: int, runs: int) -> None:
    stage: Stage[Any] = Shuffle(ShuffleOptions(scope="dataset", seed=seed))

    order = stage.source_order(runs)

    assert order is not None
    assert sorted(order.tolist()) == list(range(runs))


def test_the_order_of_runs_never_changes_from_one_version_to_the_next() -> None:
    order = Shuffle(ShuffleOptions(scope="dataset", seed=7)).source_order(8)

    assert order is not None
    assert order.tolist() == [1, 2, 3, 7, 4, 5, 0, 6]
