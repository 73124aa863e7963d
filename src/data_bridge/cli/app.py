"""The commands. Heavy modules are imported inside them: `--help` must stay fast."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from data_bridge.cli import report, stages, vast, words
from data_bridge.cli.named import (
    command_line,
    control_of,
    destination_of,
    elsewhere_of,
    refuse_together,
    same_config,
    settings_of,
)
from data_bridge.cli.words import say
from data_bridge.errors import BridgeError, ConfigError
from data_bridge.runtime.process import begin_a_run

if TYPE_CHECKING:
    from data_bridge.model.report import RunReport

app = typer.Typer(
    name="data-bridge",
    help="Any training dataset to verified, training-ready shards in your own bucket; survives everything on the way.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigArgument = Annotated[Path | None, typer.Argument(help="Config file (.yaml, .toml or .json).", show_default=False)]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The same, as an option.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Prefix = Annotated[
    str | None, typer.Option("--prefix", help="Name of the dataset at the destination.", show_default=False)
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N samples (a dataset of its own).")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Worker processes; 0 = in this process. [default: usable cores]")
]
Machines = Annotated[
    int | None,
    typer.Option("--machines", min=1, help="With --use-vast: so many, a slice for each.", show_default=False),
]
UseVast = Annotated[bool, typer.Option("--use-vast", help="On a machine rented for it from Vast.ai.")]
Slice = Annotated[
    str | None, typer.Option("--slice", metavar="i/N", help="Slice i of N of the run.", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Config, destination, run id or rented machine.")]
RunConfig = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Config with the credentials of a destination.", show_default=False),
]


app.add_typer(stages.app, name="stages")
app.command(epilog="Example: data-bridge report configs/mine.yaml word_count --filter 'words>100'")(report.report)
app.add_typer(vast.app, name="vast")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        say(f"data-bridge {installed('train-data-bridge')}")
        raise typer.Exit


@app.command(epilog="Example: data-bridge init --config configs/mine.yaml")
def init(
    config: Annotated[Path, typer.Option("--config", "-c", help="Where to write it.")] = Path("data-bridge.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented config to start from."""
    from data_bridge.cli.template import TEMPLATE

    if config.exists() and not force:
        raise ConfigError(
            f"{config} exists already", hint="name another file with --config, or replace it with --force"
        )
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {config}: {error.strerror}", hint="name another file with --config") from None
    say(f"wrote {config}\nnext: edit it, then  data-bridge plan {config}")


@app.command(epilog="Example: data-bridge plan configs/quickstart.yaml")
def plan(
    path: ConfigArgument = None,
    config: ConfigOption = None,
    prefix: Prefix = None,
    limit: Limit = None,
    use_vast: UseVast = False,
    machines: Machines = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do and what is already done; writes nothing."""
    from data_bridge import api

    refuse_together(None, machines, use_vast=use_vast)
    settings = settings_of(path, config, limit)
    report = api.plan(settings, prefix=prefix)
    say(words.as_json(report) if as_json else words.plan(report))
    if use_vast:
        from data_bridge.cli import renting

        renting.show(settings, report, path or config or Path(), prefix, machines=machines)


@app.command(epilog="Example: data-bridge run configs/quickstart.yaml --workers 4")
def run(
    path: ConfigArgument = None,
    config: ConfigOption = None,
    prefix: Prefix = None,
    limit: Limit = None,
    workers: Workers = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what an earlier run made there and start over.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting or renting.")] = False,
    steal: Annotated[bool, typer.Option("--steal", help="Take over from a run that only seems alive.")] = False,
    part: Annotated[
        str | None, typer.Option("--slice", metavar="i/N", help="Only slice i of N; `finalize` ends the run.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan; write nothing.")] = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="A source without samples is no error.")] = False,
    use_vast: UseVast = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the run to work in the background; say where to find it.")
    ] = False,
    machines: Machines = None,
    as_json: Json = False,
) -> None:
    """Bring the source to verified shards. Run it again after any crash: it goes on where it stopped."""
    from data_bridge import api

    settings = settings_of(path, config, limit, allow_empty=allow_empty)
    refuse_together(part, machines, use_vast=use_vast, detach=detach, fresh=fresh)
    if use_vast:
        from data_bridge.cli import renting

        if fresh and not yes and not dry_run:
            _confirm_fresh(settings, prefix)
        given = renting.passed_on(limit=limit, workers=workers, steal=steal, allow_empty=allow_empty)
        runner = partial(renting.run, settings, path or config or Path(), prefix, given, fresh=fresh)
        raise typer.Exit(runner(machines=machines, yes=yes, dry_run=dry_run, as_json=as_json))
    if dry_run:
        report = api.plan(settings, prefix=prefix, fresh=fresh)
        say(words.as_json(report) if as_json else words.plan(report))
        return
    if fresh and not yes and part is None:
        _confirm_fresh(settings, prefix)
    job = partial(api.run_pipeline, settings, workers=workers, prefix=prefix, fresh=fresh, steal=steal, slice=part)
    _followed(job, path or config or Path(), as_json=as_json, detach=detach)


@app.command(epilog="Example: data-bridge finalize configs/quickstart.yaml")
def finalize(
    path: ConfigArgument = None,
    config: ConfigOption = None,
    prefix: Prefix = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Publish what the slices of a run (`run --slice`) have made, once all are done; names those that are not."""
    from data_bridge import api

    settings = settings_of(path, config, limit)
    job = partial(api.finalize, settings, prefix=prefix, called=same_config(path or config or Path(), prefix, limit))
    _followed(job, path or config or Path(), as_json=as_json)


@app.command(epilog="Example: data-bridge retry-failed configs/quickstart.yaml")
def retry_failed(
    path: ConfigArgument = None,
    config: ConfigOption = None,
    prefix: Prefix = None,
    limit: Limit = None,
    workers: Workers = None,
    steal: Annotated[bool, typer.Option("--steal", help="Take over from a run that only seems alive.")] = False,
    as_json: Json = False,
) -> None:
    """Try the failed samples of a finished dataset again, once what failed was mended; adds shards of their own."""
    from data_bridge import api

    settings = settings_of(path, config, limit)
    job = partial(api.retry_failed, settings, workers=workers, prefix=prefix, steal=steal)
    _followed(job, path or config or Path(), as_json=as_json)


def _followed(job: "Callable[..., RunReport]", config: Path, *, as_json: bool, detach: bool = False) -> NoReturn:
    """Do it under the eyes of the user or in the background, say how it ended, and exit accordingly."""
    from data_bridge.cli.detaching import attached, detached
    from data_bridge.cli.progress import observer_for
    from data_bridge.cli.runs import Remembering

    with (detached if detach else attached)(as_json=as_json) as telling:
        as_json = as_json and not detach  # what it says then is a log for people
        with observer_for(sys.stderr, quiet=as_json) as shown:
            result = job(observer=Remembering(telling(shown), config))
        say(words.as_json(result) if as_json else words.result(result, command_line()))
        raise typer.Exit(result.exit_code)


@app.command(epilog="Example: data-bridge bench configs/quickstart.yaml")
def bench(
    path: ConfigArgument = None,
    config: ConfigOption = None,
    prefix: Prefix = None,
    limit: Limit = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes of the run to foretell. [default: as a run would]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to measure, at most about.")] = 60,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Measure the destination, by writing to it.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Measure source, packing and destination for a minute: what limits a run, and what to change."""
    from data_bridge import api
    from data_bridge.cli import bench as words_of_bench

    settings = settings_of(path, config, limit)
    with words_of_bench.observer_for(sys.stderr, quiet=as_json) as observer:
        report = api.bench(
            settings, seconds=seconds, workers=workers, prefix=prefix, use_store=store, observer=observer
        )
    say(words.as_json(report) if as_json else words_of_bench.told(report))


@app.command(epilog="Example: data-bridge status r2://bucket/laion2B-en --config configs/mine.yaml")
def status(
    run: RunArgument, config: RunConfig = None, prefix: Prefix = None, limit: Limit = None, as_json: Json = False
) -> None:
    """Show what the ledger of a destination says."""
    from dataclasses import asdict

    from data_bridge import api

    elsewhere = elsewhere_of(run, config, prefix, limit, only=False)
    destination, settings = destination_of(elsewhere.run if elsewhere else run, config, prefix, limit)
    report = api.status(destination, settings)
    now = api.now(report.run)
    files = api.stage_files(report.run)
    background = api.detached(report.run)
    stages = [asdict(stage) for stage in api.stage_statuses(report)]
    if as_json:
        say(
            words.as_json(report, now=now, stage_files=files, stages=stages, background=words.in_background(background))
        )
    else:
        say(words.status(report, now, files, background))


@app.command(epilog="Example: data-bridge watch configs/quickstart.yaml")
def watch(
    run: RunArgument, config: RunConfig = None, prefix: Prefix = None, limit: Limit = None, part: Slice = None
) -> None:
    """Watch a running run from another terminal: rates, queues, slots, events; q leaves it alone."""
    try:
        from data_bridge.cli.watch import WatchApp
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`watch` needs {error.name}, which is not installed", hint="pip install 'train-data-bridge[watch]'"
        ) from None
    from data_bridge.cli import far
    from data_bridge.config import run_folder

    control = control_of(run, config, prefix, limit, part)
    with far.heard(control):
        WatchApp(run_folder(control.run), control).run()


@app.command(epilog="Example: data-bridge verify ./data-bridge-out/photos --deep")
def verify(
    run: RunArgument,
    config: RunConfig = None,
    prefix: Prefix = None,
    limit: Limit = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every shard: SHA-256, counts, structure.")] = False,
    as_json: Json = False,
) -> None:
    """Check that a finished dataset is whole: objects, sizes, and with --deep their content."""
    from data_bridge import api

    destination, settings = destination_of(run, config, prefix, limit)
    report = api.verify(destination, settings, deep=deep)
    say(words.as_json(report) if as_json else words.verified(report))
    raise typer.Exit(report.exit_code)


@app.command(epilog="Example: data-bridge ctl configs/mine.yaml set filter at_least 20")
def ctl(
    run: RunArgument,
    command: Annotated[
        str,
        typer.Argument(
            help="pause, resume, drain, stop, set STAGE KEY VALUE, bypass STAGE, enable STAGE, describe, export-config.",
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STAGE [KEY VALUE]]", help="What the command is about.", show_default=False),
    ] = None,
    config: RunConfig = None,
    prefix: Prefix = None,
    limit: Limit = None,
    part: Slice = None,
    as_json: Json = False,
) -> None:
    """Tell a running run what to do, from another terminal of the same user."""
    from data_bridge.cli import ctl as words_of_control

    said = words_of_control.request(command, arguments or [])
    replies = control_of(run, config, prefix, limit, part).ask(*said)
    say(words_of_control.as_json(replies) if as_json else words_of_control.told(command, replies))


@app.command(epilog="Example: data-bridge graph configs/quickstart.yaml --svg pipeline.svg")
def graph(
    path: ConfigArgument = None,
    config: ConfigOption = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw it to this file.", show_default=False)] = None,
) -> None:
    """Draw how source, stages and writers of a config hang together; reads and starts nothing."""
    from data_bridge import api
    from data_bridge.cli import graph as drawing

    boxes = api.graph(settings_of(path, config))
    if svg is None:
        say(drawing.text(boxes))
        return
    try:
        svg.write_text(drawing.svg(boxes), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {svg}: {error.strerror}", hint="name another file with --svg") from None
    say(f"wrote {svg}")


@app.command(epilog="Example: data-bridge schema > data-bridge.schema.json")
def schema() -> None:
    """Print the JSON Schema of the config file."""
    import json

    from data_bridge.config import Settings

    say(json.dumps(Settings.model_json_schema(), indent=2))


def main() -> None:
    """Entry point of both console scripts: the only place that turns errors into words and exit codes."""
    begin_a_run()
    try:
        app()
    except BridgeError as error:
        words.fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        words.tell("interrupted; run the same command again to go on")
        sys.exit(130)


def _confirm_fresh(settings, prefix: str | None) -> None:  # type: ignore[no-untyped-def]
    from data_bridge import api

    doomed = api.made_there(settings, prefix=prefix)
    if not doomed:
        return
    paid = api.paid_there(settings, prefix=prefix)
    answers = f", and answers that cost ${paid:,.2f}" if paid else ""
    if not sys.stdin.isatty():
        raise ConfigError(f"--fresh would delete {doomed} objects{answers}", hint="add --yes to do it without asking")
    typer.confirm(f"--fresh deletes {doomed} objects of the dataset that is there{answers}. Go on?", abort=True)
