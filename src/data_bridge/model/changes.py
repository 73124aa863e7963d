"""A change of a running graph, as the user ordered it."""

from typing import Any

from data_bridge.model.source import Document

ENABLED = "enabled"
"""The key that every stage has: false = samples pass it unchanged."""


class Change(Document, frozen=True, kw_only=True):
    """One option of one stage gets another value, from some sample on; `ChangeRecord` says from which."""

    number: int
    """Its place among the changes of the run: they are made in this order."""
    id: str
    stage: str
    key: str
    value: Any
