"""A run that takes commands: its socket, and the changes it starts with."""

from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager

from data_bridge.config import socket_folders
from data_bridge.engine.orders import Orders
from data_bridge.engine.switchboard import Switchboard
from data_bridge.events import Notice, Observer
from data_bridge.model.changes import Change
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.source import Field
from data_bridge.pipelines.base import Pipeline
from data_bridge.runtime.control_server import ControlServer


@contextmanager
def listening(pipeline: Pipeline, orders: Orders, observer: Observer, name: str) -> Generator[None]:
    """Take commands under this name while the block lasts; a run that cannot be told anything says so and goes on."""
    if changes := orders.standing.changes:
        names = ", ".join(dict.fromkeys(change.subject for change in changes))
        observer(Notice(f"changes made while it ran before stay in force: {names}"))
    fields = tuple(Field.model_validate(field) for field in pipeline.plan.first.fields)
    switchboard = Switchboard(pipeline.settings, pipeline.plan.run, orders, fields)
    with ExitStack() as stack:
        try:
            stack.enter_context(ControlServer(socket_folders(), name, switchboard.answer))
        except OSError as error:
            observer(Notice(f"this run takes no commands: {error}"))
        yield


def ordered(logs: Iterable[PartitionLog]) -> list[Change]:
    """Every change that any partition has recorded, once, in order: one that one of them knows concerns all."""
    found = {record.id: record.change for log in logs for record in log.changes}
    return sorted(found.values(), key=lambda change: (change.number, change.id))
