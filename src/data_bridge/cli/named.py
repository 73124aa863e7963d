"""What a command line names: the settings of a config, a destination, a run that works."""

import shlex
import sys
from pathlib import Path

from data_bridge.cli import words
from data_bridge.errors import ConfigError


def settings_of(path: Path | None, config: Path | None, limit: int | None = None, *, allow_empty: bool = False):  # type: ignore[no-untyped-def]
    """The settings of the one config file named, with the flags that override it."""
    from data_bridge.config import load_settings, overridden

    if (path is None) == (config is None):
        raise ConfigError(
            "name one config file" if path is None else "name the config file once, not twice",
            hint="data-bridge run CONFIG, or data-bridge run --config CONFIG",
        )
    settings = load_settings(path or config)  # type: ignore[arg-type]
    words.hide_secrets_of(settings)
    return overridden(settings, limit=limit, allow_empty=allow_empty or None)


def destination_of(run: str, config: Path | None, prefix: str | None, limit: int | None):  # type: ignore[no-untyped-def]
    """RUN as a destination and the settings that open it: a config's own, those of a run id, or the URI given."""
    from data_bridge.cli.runs import RUN_ID, recalled
    from data_bridge.pipelines.destination import output_uri

    if Path(run).suffix in {".yaml", ".yml", ".toml", ".json"} and Path(run).is_file():
        settings = settings_of(Path(run), config, limit)
        return output_uri(settings, prefix), settings
    known = recalled(run)
    if known is not None:
        destination, its_config = known
        return destination, settings_of(None, config or its_config)
    if RUN_ID.fullmatch(run):
        raise ConfigError(f"no run {run} is known on this machine", hint="name its destination or its config file")
    return run, settings_of(None, config) if config else None


def control_of(  # type: ignore[no-untyped-def]
    run: str, config: Path | None, prefix: str | None, limit: int | None, part: str | None
):
    """Commands to the run that RUN names, or to one slice of it; its id is enough, whoever started it."""
    from data_bridge.cli.runs import RUN_ID
    from data_bridge.config import socket_folders
    from data_bridge.pipelines.slices import named
    from data_bridge.runtime.control import RunControl

    elsewhere = elsewhere_of(run, config, prefix, limit, part)
    if elsewhere is not None:
        return elsewhere
    if RUN_ID.fullmatch(run):
        return RunControl(named(run, part), socket_folders())
    from data_bridge import api

    return api.control(*destination_of(run, config, prefix, limit), slice=part)


def elsewhere_of(  # type: ignore[no-untyped-def]
    run: str, config: Path | None, prefix: str | None, limit: int | None, part: str | None = None, *, only: bool = True
):
    """The same on a rented machine; None when it is on none."""
    from data_bridge.cli import far

    return far.found(run, lambda: str(destination_of(run, config, prefix, limit)[0]), part, only=only)


def refuse_together(
    part: str | None, machines: int | None, *, use_vast: bool, detach: bool = False, fresh: bool = False
) -> None:
    """Raise ConfigError for options that do not go together."""
    if part is not None:
        from data_bridge.pipelines.slices import refuse_fresh

        refuse_fresh(fresh=fresh)
    if use_vast and detach:
        raise ConfigError(
            "--detach is for runs on this machine: who rents one stays to give it back",
            hint="Ctrl-C asks whether the run may go on there; data-bridge vast attach follows it again",
        )
    if part is not None and use_vast:
        raise ConfigError("--slice is for this machine", hint="--use-vast --machines N gives each machine its slice")
    if machines is not None and not use_vast:
        raise ConfigError("--machines is for rented machines", hint="add --use-vast, or run --slice i/N on your own")


def same_config(config: Path, prefix: str | None, limit: int | None) -> str:
    """The words that name the same dataset in another command."""
    options = {"--prefix": prefix, "--limit": limit}
    return shlex.join([str(config), *(str(w) for o in options.items() if o[1] is not None for w in o)])


def command_line() -> str:
    """The words of this command, to be given again."""

    # what was deleted once must not be deleted again
    return shlex.join(["data-bridge", *(a for a in sys.argv[1:] if a not in ("--fresh", "--yes", "-y"))])
