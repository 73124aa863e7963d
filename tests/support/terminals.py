"""Another terminal, from which a run is told things while it works."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data_bridge import api
from data_bridge.events import Event, Notice, SamplesPacked
from data_bridge.runtime.control import RunControl


@dataclass
class Terminal:
    """Does something when a run's n-th packet is told, or its driver says something."""

    folder: Path
    does: dict[int | str, Callable[[RunControl], object]]
    events: list[Event] = field(default_factory=list)
    said: list[object] = field(default_factory=list)
    packets: int = 0

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)
        heard: int | str = ""
        if isinstance(event, SamplesPacked):
            self.packets += 1
            heard = self.packets
        elif isinstance(event, Notice):
            heard = event.message.partition(":")[0]
        if heard in self.does:
            self.said.append(self.does.pop(heard)(api.control(str(self.folder))))
