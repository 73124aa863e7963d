"""The commands there are, those of groups too, as one types them: `plan`, `stages list`."""

from typing import Any

from typer.main import get_command

from data_bridge.cli import app

COMMANDS: dict[str, Any] = {
    f"{name} {sub}" if sub else name: command
    for name, group in get_command(app).commands.items()  # type: ignore[attr-defined]  # typer's group has them
    for sub, command in getattr(group, "commands", {"": group}).items()
}
