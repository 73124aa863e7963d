"""`data-bridge ctl`: words of a command line as a request, replies as words."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_bridge.errors import ConfigError

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "pause": (),
    "resume": (),
    "drain": (),
    "stop": (),
    "set": ("STAGE", "KEY", "VALUE"),
    "bypass": ("STAGE",),
    "enable": ("STAGE",),
    "describe": (),
    "export-config": (),
}
"""What each command needs; `describe` may name a stage. Others are passed on as they are: a stage may know them."""
AT_ONCE = {
    "pause": "paused: nothing more is read until `resume`; what is in flight goes on",
    "resume": "resumed",
    "drain": "draining: what has been read is being finished, then the run ends",
    "stop": "stopping: what is in hand is being finished",
}


def request(command: str, arguments: Sequence[str]) -> tuple[str, str | None, str | None, Any]:
    """Command, stage, key and value. Raises ConfigError for too few or too many words."""
    wanted = COMMANDS.get(command, ())
    most = 3 if command not in COMMANDS else 1 if command == "describe" else len(wanted)
    if not len(wanted) <= len(arguments) <= most:
        usage = " ".join(["data-bridge ctl RUN", command, *wanted])
        raise ConfigError(f"`{command}` takes {len(wanted) or 'no'} words, not {len(arguments)}", hint=f"write {usage}")
    stage, key, value = (*arguments, None, None, None)[:3]
    return command, stage, key, None if value is None else value_of(value)


def value_of(text: str) -> Any:
    """A value as JSON has it, text where it is none; `@file` is the JSON in a file. Raises ConfigError without one."""
    if text.startswith("@"):
        try:
            return json.loads(Path(text[1:]).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{text[1:]} holds no value: {error}", hint="write JSON to the file") from None
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_json(replies: Mapping[str, Any]) -> str:
    """What each part said."""
    return json.dumps(replies, indent=2, default=str)


def told(command: str, replies: Mapping[str, Any]) -> str:
    """The replies for a person."""
    if command == "export-config":
        import yaml

        text: str = yaml.safe_dump(replies["engine"], sort_keys=False, allow_unicode=True)
        return text.rstrip("\n")
    if command == "describe":
        return "\n\n".join(_described(name, data) for name, data in replies.items())
    return AT_ONCE.get(command) or "\n".join(f"{name}: {_answered(data)}" for name, data in replies.items())


def _answered(data: Any) -> str:
    return "accepted, from the next packet on" if data is None else json.dumps(data, ensure_ascii=False)


def _described(name: str, data: Mapping[str, Any]) -> str:
    if "run" in data:
        head = f"{name}  run {data['run']} is {data['state']}"
    else:
        head = f"{name}  ({data['kind']}{'' if data['enabled'] else ', bypassed'})"
    options = [
        f"  {key} = {json.dumps(option['value'], default=str)}  ({_when(option['live'])})  {option['description']}"
        for key, option in data["options"].items()
    ]
    own = [f"  {command}: {about}" for command, about in data.get("own_commands", {}).items()]
    changes = [f"  changed: {_changed(c)}" for c in data.get("changes", ())]
    return "\n".join([head, *options, *own, *changes, f"  commands: {', '.join(data['commands'])}"])


def _changed(change: Mapping[str, Any]) -> str:
    value = json.dumps(change["value"])
    if change["command"] == "set":
        return f"{change['stage']}.{change['key']} = {value}"
    words = [change["command"], change["key"], "" if change["value"] is None else value]
    return f"{change['stage']}: {' '.join(filter(None, words))}"


def _when(live: str) -> str:
    return {"any": "live", "paused": "live while paused"}.get(live, "fixed")
