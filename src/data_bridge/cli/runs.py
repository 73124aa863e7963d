"""Run ids this user has seen: which destination and config each belongs to, so that an id alone names a run."""

import json
import re
from pathlib import Path

from data_bridge.config.places import runs_folder
from data_bridge.events import Event, Notice, Observer, RunPlanned

RUN_ID = re.compile(r"[0-9a-f]{16}(-\d+of\d+)?")
"""That of a run, and what names a slice of it."""


class Remembering:
    """Passes events on and notes a run as soon as it has an id. Where it cannot, it says so, and the run goes on."""

    def __init__(self, observer: Observer, config: Path) -> None:
        self._observer = observer
        self._config = config.absolute()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RunPlanned):
            try:
                noted(event.run, event.destination, self._config)
            except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
                self._observer(Notice(f"this run will not be known by its id on this machine: {error}"))
        self._observer(event)


def noted(run: str, destination: str, config: Path) -> None:
    """From now on the id of this run names it here. Raises OSError, or RuntimeError where this user has no home."""
    runs_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    note = {"destination": destination, "config": str(config.absolute())}
    (runs_folder() / f"{run}.json").write_text(json.dumps(note), encoding="utf-8")


def recalled(run: str) -> tuple[str, Path] | None:
    """Destination and config of a run id that was noted on this machine; None for anything else."""
    if RUN_ID.fullmatch(run) is None:
        return None
    note = runs_folder() / f"{run}.json"
    if not note.is_file():
        return None
    found = json.loads(note.read_text(encoding="utf-8"))
    return found["destination"], Path(found["config"])
