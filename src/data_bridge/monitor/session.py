"""A run under observation: its events add up, and go where the settings want them."""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from data_bridge.clients.prometheus import Exposition, Page
from data_bridge.config import Settings, hidden_in, redacted, run_folder
from data_bridge.errors import BridgeError
from data_bridge.events import Event, Notice, Observer, PartitionClaimed, RunPlanned, SamplesPacked
from data_bridge.monitor.aggregate import Aggregate
from data_bridge.monitor.folder import RunFolder
from data_bridge.monitor.series import families
from data_bridge.pipelines.shape import shape

WINDOW_S = 1.0
PUSH_S = 5.0


class Monitor:
    """An observer in front of another one, while the block lasts. What goes wrong in it never stops a run: it is told
    once, as a notice. Entering raises ConfigError when `metrics.listen` cannot be had.

    `place` names the folder of a run, `name` is what a run id is called here (a slice is not the only one of its run);
    `pace` is the length of a window.
    """

    def __init__(
        self,
        observer: Observer,
        settings: Settings,
        *,
        place: Callable[[str], Path] = run_folder,
        name: Callable[[str], str] = str,
        pace_s: float = WINDOW_S,
        push_s: float = PUSH_S,
    ) -> None:
        self._observer = observer
        self._settings = settings.metrics
        self._pipeline = settings.pipeline
        self._redact = partial(redacted, secrets=hidden_in(settings))
        self._place, self._name = place, name
        self._pace_s = pace_s
        self._push_s = push_s
        self._aggregate = Aggregate()
        self._exposition = Exposition(lambda: families(self._aggregate.snapshot()))
        self._folder: RunFolder | None = None
        self._page: Page | None = None
        self._notices: deque[str] = deque()
        self._told: set[str] = set()
        self._started = False
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._tick, name="metrics", daemon=True)]
        if self._settings.pushgateway_url:
            self._threads.append(threading.Thread(target=self._push_now_and_then, name="push", daemon=True))

    def __enter__(self) -> "Monitor":
        address = self._settings.address
        if address is not None:
            self._page = self._exposition.listen(*address)
            self._notices.append(f"metrics at {self._page.url}")
        return self

    def _start(self) -> None:
        """Not before a worker works: they begin as copies of this process, which must have no other thread then."""
        self._started = True
        for thread in self._threads:
            thread.start()
        if self._page is not None:
            self._page.serve()

    def __exit__(self, *_: object) -> None:
        self._aggregate.end()
        self._over.set()
        for thread in self._threads if self._started else ():
            thread.join()
        self._aggregate.roll()
        self._write()
        self._push()
        if self._page is not None:
            self._page.close()
        self._tell()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, SamplesPacked):  # most are
            self._aggregate(event)
            self._observer(event)
            return
        if isinstance(event, RunPlanned):
            self._aggregate(replace(event, run=self._name(event.run)))
            self._open(event.run)
        else:
            self._aggregate(event)
        if isinstance(event, PartitionClaimed) and not self._started:
            self._start()
        if self._folder is not None:
            self._folder.event(event)
        self._tell()
        self._observer(event)

    @property
    def url(self) -> str | None:
        """Where `/metrics` is served."""
        return self._page.url if self._page else None

    def _open(self, run: str) -> None:
        try:
            self._folder = RunFolder(self._place(self._name(run)), self._redact)
            self._place(run).mkdir(mode=0o700, exist_ok=True)  # where stages leave what is for a person
            self._folder.graph(shape(self._pipeline))
        except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
            self._folder = None
            self._complain("files", f"`status` and `watch` will not see this run: {error}")

    def _tick(self) -> None:
        while not self._over.wait(self._pace_s):
            self._aggregate.roll()
            self._write()

    def _write(self) -> None:
        if self._folder is None:
            return
        try:
            self._folder.write(self._aggregate.snapshot())
        except OSError as error:
            self._folder = None
            self._complain("files", f"`status` and `watch` do not see this run any more: {error}")

    def _push_now_and_then(self) -> None:
        while not self._over.wait(self._push_s):
            self._push()

    def _push(self) -> None:
        snapshot = self._aggregate.snapshot()
        if not self._settings.pushgateway_url or not snapshot.run:
            return
        try:
            self._exposition.push(self._settings.pushgateway_url, snapshot.run)
        except BridgeError as error:
            self._complain("push", f"{error.message}; the run goes on")

    def _complain(self, about: str, words: str) -> None:
        if about not in self._told:
            self._told.add(about)
            self._notices.append(words)

    def _tell(self) -> None:
        """The observer is called by one thread at a time: that of the events."""
        while self._notices:
            self._observer(Notice(self._redact(self._notices.popleft())))
