"""Run ids this user has seen: which destination and config each belongs to, so that an id alone names a run."""

import json
import re
from pathlib import Path

from data_bridge.config.places import runs_folder
from data_bridge.events import Event, Observer, RunPlanned

RUN_ID = re.compile(r"[0-9a-f]{16}")


class Remembering:
    """Passes events on and notes a run as soon as it has an id."""

    def __init__(self, observer: Observer, config: Path) -> None:
        self._observer = observer
        self._config = config.absolute()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RunPlanned):
            runs_folder().mkdir(parents=True, exist_ok=True)
            note = {"destination": event.destination, "config": str(self._config)}
            (runs_folder() / f"{event.run}.json").write_text(json.dumps(note), encoding="utf-8")
        self._observer(event)


def recalled(run: str) -> tuple[str, Path] | None:
    """Destination and config of a run id that was noted on this machine; None for anything else."""
    note = runs_folder() / f"{run}.json"
    if RUN_ID.fullmatch(run) is None or not note.is_file():
        return None
    found = json.loads(note.read_text(encoding="utf-8"))
    return found["destination"], Path(found["config"])
