"""What a user may tell a whole run, and be told of it."""

from typing import Any, Literal

from data_bridge.config import (
    PipelineSettings,
    exported,
    with_changes,
)
from data_bridge.engine.orders import Orders
from data_bridge.runtime.control import Reply, Request

WORKERS = "workers"
"""The key of what does things at the same time: it changes no bytes, so that it is no change of the ledger."""
RATE = "rate"
"""The key of how many calls of a paid stage begin a second: it changes no bytes either."""
MOST = 1024


class RunPart:
    """What concerns the whole run."""

    def __init__(self, settings: PipelineSettings, run: str, orders: Orders) -> None:
        self._settings = settings
        self._run = run
        self._orders = orders

    def __call__(self, request: Request) -> Reply | None:
        match request.command:
            case "pause" | "resume":
                return self._pause(paused=request.command == "pause")
            case "drain":
                self._orders.drain()
                return Reply(accepted=True)
            case "stop":
                self._orders.stop()
                return Reply(accepted=True)
            case "set" if request.stage is not None or request.key in ("workers", "upload_concurrency"):
                return self._set(request)
            case "describe":
                return Reply(accepted=True, data=self._described())
            case "export-config":
                return Reply(accepted=True, data={"pipeline": exported(self._now())})
            case _:
                return None

    def _pause(self, *, paused: bool) -> Reply:
        state = self.state
        if state in ("draining", "stopping"):
            return Reply(accepted=False, reason=f"the run is {state} already")
        self._orders.pause(paused=paused)
        return Reply(accepted=True)

    def _set(self, request: Request) -> Reply:
        if request.key not in ("workers", "upload_concurrency"):
            reason = f"unknown key {request.key!r}; it may set workers, upload_concurrency"
            return Reply(accepted=False, reason=reason)
        if request.key == "workers" and not self._orders.workers:
            return Reply(
                accepted=False, reason="this run works in one process; start it with `--workers` to have several"
            )
        if reason := no_number(request.key, request.value):
            return Reply(accepted=False, reason=reason)
        order = self._orders.work_with if request.key == "workers" else self._orders.upload
        order(request.value)
        return Reply(accepted=True)

    def _now(self) -> PipelineSettings:
        """The settings with everything that was changed."""
        standing = self._orders.standing
        now = with_changes(self._settings, standing.changes)
        threads = dict(standing.threads)
        stages = tuple(
            s.model_copy(update={"workers": threads[s.name]}) if s.name in threads else s for s in now.stages
        )
        rates = dict(standing.rates)
        stages = tuple(s.model_copy(update={RATE: rates[s.name] or None}) if s.name in rates else s for s in stages)
        update: dict[str, Any] = {"stages": stages}
        if standing.slots:
            update["workers"] = standing.slots
        if standing.uploads:
            update["upload_concurrency"] = standing.uploads
        return now.model_copy(update=update)

    @property
    def state(self) -> Literal["running", "paused", "draining", "stopping"]:
        """What it is told to do."""
        if self._orders.stopping:
            return "stopping"
        if self._orders.standing.draining:
            return "draining"
        return "paused" if self._orders.standing.paused else "running"

    def _described(self) -> dict[str, Any]:
        return {
            "run": self._run,
            "state": self.state,
            "options": {
                "workers": {
                    "value": self._orders.workers,
                    "live": "any" if self._orders.workers else "never",
                    "description": "worker processes at a time; 0 = the run works in its own",
                },
                "upload_concurrency": {
                    "value": self._orders.standing.uploads or self._settings.upload_concurrency,
                    "live": "any",
                    "description": "shards that each slot uploads at a time",
                },
            },
            "changes": [change.model_dump() for change in self._orders.standing.changes],
            "commands": ["pause", "resume", "drain", "stop", "set", "describe", "export-config"],
        }


def no_number(key: str | None, value: Any) -> str:
    """Why it is no number of things at a time."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
        return ""
    return f"{key}: a number from 1 to {MOST} is needed, not {value!r}"
