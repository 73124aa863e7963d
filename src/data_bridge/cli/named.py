"""What a command line names: the settings of a config, a destination, a run that works."""

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

    elsewhere = elsewhere_of(run, config, prefix, limit)
    if elsewhere is not None:
        return elsewhere
    if RUN_ID.fullmatch(run):
        return RunControl(named(run, part), socket_folders())
    from data_bridge import api

    return api.control(*destination_of(run, config, prefix, limit), slice=part)


def elsewhere_of(run: str, config: Path | None, prefix: str | None, limit: int | None):  # type: ignore[no-untyped-def]
    """The same on a rented machine; None when it is on none."""
    from data_bridge.cli import far

    return far.found(run, lambda: str(destination_of(run, config, prefix, limit)[0]))
