"""A change of a running graph, as the user ordered it."""

from typing import Any

from data_bridge.model.source import Document

ENABLED = "enabled"
"""The key that every stage has: false = samples pass it unchanged."""
SET = "set"
"""The command that gives an option another value. Every other is one of the stage's own, for its `control`."""


class Change(Document, frozen=True, kw_only=True):
    """One option of one stage gets another value, or its instances do a command of its own, from some sample on;
    `ChangeRecord` says from which."""

    number: int
    """Its place among the changes of the run: they are made in this order."""
    id: str
    stage: str
    key: str
    """The option; of the stage's own commands what it is about, or nothing."""
    value: Any
    command: str = SET

    @property
    def subject(self) -> str:
        """What is changed, in two words."""
        return f"{self.stage}.{self.key if self.command == SET else self.command}"

    @property
    def words(self) -> str:
        """What was ordered of the stage, for a person."""
        if self.command == SET:
            return f"{self.key} = {self.value!r}"
        return " ".join([self.command, *filter(None, [self.key]), *([] if self.value is None else [repr(self.value)])])
