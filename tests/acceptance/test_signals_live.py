"""A recording of many channels goes through a filter whose coefficients are changed while it runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support.kill import tree
from support.leaks import LeakDetector
from support.live_calls import Watched
from support.own_sources import Amplifier, AmplifierSettings
from support.readers import read_json_samples

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.events import Event, RunPlanned, SamplesPacked

EPOCHS, CHANNELS, FRAMES = 1200, 8, 16
SMOOTH, SHARP = [0.25, 0.5, 0.25], [1.0, -1.0]


@dataclass(frozen=True)
class Recording:
    """Epochs as an amplifier gives them, whole numbers, and where they are read from."""

    uri: str
    raw: NDArray[np.int16]
    """Of the shape (epochs, channels, frames), or (epochs, frames) with a single channel."""
    parts: int = 0
    """Of a source that gives arrays, each a partition; 0 = columns, in one."""

    def convolved(self, epoch: int, coeffs: list[float]) -> NDArray[np.float64]:
        signals = self.raw[epoch].reshape(-1, FRAMES) * 0.5
        return np.array([np.convolve(one, coeffs)[:FRAMES] for one in signals]).reshape(self.raw[epoch].shape)


@pytest.fixture(scope="module", params=["a channel of a file", "channels of a file", "channels of an array source"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    if "array" in request.param:
        parts = Amplifier(AmplifierSettings(frames=FRAMES, channels=CHANNELS))
        raw = np.array([row["eeg"] for part in parts.parts() for row in parts.read(part, 0)])
        return Recording("python://support.own_sources:Amplifier", raw, len(parts.parts()))
    shape = (EPOCHS, CHANNELS, FRAMES) if "channels" in request.param else (EPOCHS, FRAMES)
    raw = np.random.default_rng(3).integers(-3000, 3000, shape, dtype=np.int16)
    kind: Any = pa.list_(pa.int16())
    lists = [list(epoch) for epoch in raw]
    eeg = pa.array(lists, pa.list_(kind) if "channels" in request.param else kind)
    path = tmp_path_factory.mktemp("eeg") / "recording.parquet"
    pq.write_table(pa.table({"epoch": range(EPOCHS), "eeg": eeg}), path, row_group_size=100)
    return Recording(str(path), raw)


def settings(recording: Recording, out: Path, fir: str = "signal") -> Settings:
    stages: list[dict[str, Any]] = [
        {"signal": {"field": "eeg", "scale": 0.5}, "name": "volts"},
        {fir: {"field": "eeg", "coeffs": SMOOTH}, "name": "fir"},
    ]
    return pipeline(recording, out, stages)


def pipeline(recording: Recording, out: Path, stages: list[dict[str, Any]], **more: Any) -> Settings:
    values = {
        "input_uri": recording.uri,
        "output_uri": str(out),
        "samples_per_shard": 100,
        "stages": stages,
        **more,
    }
    return Settings.model_validate({"pipeline": values})


def pooled(recording: Recording, out: Path) -> Settings:
    """The same in threads whose packets draw on one pool, and a branch that looks behind a lossy queue of another."""
    threads: dict[str, Any] = {"executor": "thread", "workers": 3, "pool": "epochs"}
    stages: list[dict[str, Any]] = [
        {"signal": {"field": "eeg", "scale": 0.5}, "name": "volts", **threads},
        {"signal": {"field": "eeg", "coeffs": SMOOTH}, "name": "fir", **threads},
        {"preview": {"samples": 4}, "name": "look", "input": "fir", "pool": "looking"},
    ]
    return pipeline(recording, out, stages, pools={"epochs": {"bytes": 400_000}, "looking": {"bytes": 200_000}})


def of_each(recording: Recording, out: Path) -> list[list[float]]:
    """By which coefficients each epoch should be filtered, as the manifest tells."""
    told: list[dict[str, Any]] = json.loads((out / "manifest.json").read_text())["provenance"]["live_changes"]
    assert {(change["stage"], change["key"]) for change in told} == {("fir", "coeffs")}
    assert all(change["value"] == SHARP for change in told)
    starts = {change["partition"]: change["from"] for change in told}
    size = EPOCHS // max(recording.parts, 1)
    found = [SHARP if n % size >= starts.get(n // size, size) else SMOOTH for n in range(EPOCHS)]
    assert SMOOTH in found
    assert SHARP in found
    return found


def assert_filtered(recording: Recording, out: Path) -> None:
    found = written(out)
    assert sorted(found) == list(range(EPOCHS))
    for epoch, coeffs in enumerate(of_each(recording, out)):
        assert np.allclose(found[epoch], recording.convolved(epoch, coeffs), atol=1e-9), epoch


def written(out: Path) -> dict[int, Any]:
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


def test_coefficients_are_changed_live_and_the_manifest_says_from_where(recording: Recording, tmp_path: Path) -> None:
    out = tmp_path / "out"
    technician = Technician(out)

    report = api.run_pipeline(settings(recording, out), observer=technician, workers=0)

    assert report.samples == EPOCHS
    assert "coeffs" in technician.refused
    assert_filtered(recording, out)


def test_an_undisturbed_run_filters_every_epoch_alike_whatever_the_number_of_workers(
    recording: Recording, tmp_path: Path
) -> None:
    for workers in (0, 2):
        api.run_pipeline(settings(recording, tmp_path / str(workers)), workers=workers)

    alone, together = ({k: v for k, v in tree(tmp_path / name).items() if k.endswith(".tar")} for name in ("0", "2"))
    assert alone == together
    assert np.allclose(written(tmp_path / "0")[EPOCHS - 1], recording.convolved(EPOCHS - 1, SMOOTH), atol=1e-9)


@pytest.mark.parametrize("workers", [0, 2])
def test_pools_get_everything_back_though_coefficients_are_changed_meanwhile(
    recording: Recording, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
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
    if not recording.parts:  # those are read too fast for a level to be seen in between
        assert leaks.peak("epochs") > 0
    assert "coeffs" in technician.refused
    assert_filtered(recording, out)


def test_the_filter_works_in_the_memory_of_the_numbers_that_were_scaled(recording: Recording, tmp_path: Path) -> None:
    def planned(event: Event, /) -> None:
        if isinstance(event, RunPlanned):
            Watched.seen.clear()  # the plan looks at what every stage makes of the first samples

    kind = f"{Watched.__module__}:{Watched.__qualname__}"

    api.run_pipeline(settings(recording, tmp_path, kind), workers=0, observer=planned)

    assert sum(len(given) for given, _ in Watched.seen) == (EPOCHS * CHANNELS if recording.parts else 12)
    assert all(given == made for given, made in Watched.seen)
    assert np.allclose(written(tmp_path)[EPOCHS - 1], recording.convolved(EPOCHS - 1, SMOOTH), atol=1e-9)
