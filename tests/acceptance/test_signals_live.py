"""A recording of many channels goes through a filter whose coefficients are changed while it runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support.kill import tree
from support.leaks import LeakDetector
from support.readers import read_json_samples

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.events import Event, SamplesPacked

EPOCHS, FRAMES = 1200, 64
SMOOTH, SHARP = [0.25, 0.5, 0.25], [1.0, -1.0]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Epochs of one channel as an amplifier gives them: whole numbers."""
    raw = np.random.default_rng(3).integers(-3000, 3000, (EPOCHS, FRAMES), dtype=np.int16)
    table = pa.table({"epoch": range(EPOCHS), "eeg": pa.array(list(raw), pa.list_(pa.int16()))})
    path = tmp_path_factory.mktemp("eeg") / "recording.parquet"
    pq.write_table(table, path, row_group_size=100)
    return path


def settings(recording: Path, out: Path) -> Settings:
    stages = [
        {"signal": {"field": "eeg", "scale": 0.5}, "name": "volts"},
        {"signal": {"field": "eeg", "coeffs": SMOOTH}, "name": "fir"},
    ]
    values = {"input_uri": str(recording), "output_uri": str(out), "samples_per_shard": 100, "stages": stages}
    return Settings.model_validate({"pipeline": values})


def pooled(recording: Path, out: Path) -> Settings:
    """The same in threads whose packets draw on one pool, and a branch that looks behind a lossy queue of another."""
    stages = [
        {
            "signal": {"field": "eeg", "scale": 0.5},
            "name": "volts",
            "executor": "thread",
            "workers": 3,
            "pool": "epochs",
        },
        {
            "signal": {"field": "eeg", "coeffs": SMOOTH},
            "name": "fir",
            "executor": "thread",
            "workers": 3,
            "pool": "epochs",
        },
        {"preview": {"samples": 4}, "name": "look", "input": "fir", "pool": "looking"},
    ]
    values = {"input_uri": str(recording), "output_uri": str(out), "samples_per_shard": 100, "stages": stages}
    values |= {"pools": {"epochs": {"bytes": 200_000}, "looking": {"bytes": 100_000}}}
    return Settings.model_validate({"pipeline": values})


def convolved(recording: Path, epoch: int, coeffs: list[float]) -> NDArray[np.float64]:
    raw = pq.read_table(recording)["eeg"][epoch].as_py()
    return np.convolve(np.array(raw) * 0.5, coeffs)[:FRAMES]


def written(out: Path) -> dict[int, list[float]]:
    return {row["epoch"]: row["eeg"] for row in read_json_samples(out)}


class Technician:
    """At the fourth packet: no coefficients at all, then others."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.packets = 0
        self.refused = ""

    def __call__(self, event: Event, /) -> None:
        if not isinstance(event, SamplesPacked):
            return
        self.packets += 1
        if self.packets == 4:
            control = api.control(str(self.out))
            with pytest.raises(ConfigError) as refusal:
                control.set("fir", "coeffs", [])
            self.refused = str(refusal.value)
            control.set("fir", "coeffs", SHARP)


def test_coefficients_are_changed_live_and_the_manifest_says_from_where(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    technician = Technician(out)

    report = api.run_pipeline(settings(recording, out), observer=technician, workers=0)

    assert report.samples == EPOCHS
    assert "coeffs" in technician.refused
    told: list[dict[str, Any]] = json.loads((out / "manifest.json").read_text())["provenance"]["live_changes"]
    assert [(change["stage"], change["key"], change["value"]) for change in told] == [("fir", "coeffs", SHARP)]
    start = told[0]["from"]
    assert 0 < start < EPOCHS
    found = written(out)
    for epoch in (0, start - 1, start, EPOCHS - 1):
        coeffs = SMOOTH if epoch < start else SHARP
        assert np.allclose(found[epoch], convolved(recording, epoch, coeffs), atol=1e-9), epoch


def test_an_undisturbed_run_filters_every_epoch_alike_whatever_the_number_of_workers(
    recording: Path, tmp_path: Path
) -> None:
    for workers in (0, 2):
        api.run_pipeline(settings(recording, tmp_path / str(workers)), workers=workers)

    alone, together = ({k: v for k, v in tree(tmp_path / name).items() if k.endswith(".tar")} for name in ("0", "2"))
    assert alone == together
    assert np.allclose(written(tmp_path / "0")[EPOCHS - 1], convolved(recording, EPOCHS - 1, SMOOTH), atol=1e-9)


@pytest.mark.parametrize("workers", [0, 2])
def test_pools_get_everything_back_though_coefficients_are_changed_meanwhile(
    recording: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    technician, leaks = Technician(out), LeakDetector()

    def observer(event: Event, /) -> None:
        leaks(event)
        technician(event)

    report = api.run_pipeline(pooled(recording, out), observer=observer, workers=workers)

    assert (report.samples, report.failed) == (EPOCHS, 0)
    leaks.assert_none("epochs", "looking")
    assert leaks.peak("epochs") > 0
    assert "coeffs" in technician.refused
    (change,) = json.loads((out / "manifest.json").read_text())["provenance"]["live_changes"]
    found, start = written(out), change["from"]
    for epoch in (0, start - 1, start, EPOCHS - 1):
        coeffs = SMOOTH if epoch < start else SHARP
        assert np.allclose(found[epoch], convolved(recording, epoch, coeffs), atol=1e-9), epoch
