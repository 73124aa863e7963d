"""`data-bridge report`: what a stage measured of samples, as a table, CSV or JSON."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_bridge.cli.named import destination_of
from data_bridge.cli.words import json_of, say, tell
from data_bridge.errors import ConfigError

if TYPE_CHECKING:
    from data_bridge.pipelines.asking import Selection

SHOWN = 20
"""Rows of a table, unless told otherwise."""
_MEASURED = 100
"""Rows from which the widths of columns are taken."""
_WIDEST = 60


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Config, destination or run id.")],
    stage: Annotated[str, typer.Argument(help="The stage's name.")],
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", help="Only rows that meet this, such as 'words>100'; several: all.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N rows. [default: 20 of a table, else all]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Config with the credentials of a destination.", show_default=False),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Name of the dataset at the destination.", show_default=False)
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with all that was measured.")
    ] = False,
) -> None:
    """Show what a stage measured of each sample that is committed; also while the run goes on."""
    from data_bridge import api

    if as_csv and as_json:
        raise ConfigError("--csv and --json exclude each other", hint="give one of them")
    destination, settings = destination_of(run, config, prefix, None)
    shown = limit or (None if as_csv or as_json else SHOWN)
    found = api.report(destination, stage, settings, filters=filters or (), limit=shown)
    if as_csv:
        _csv(found)
    elif as_json:
        _json(found)
    else:
        _table(found)


class _Lines:
    """A file of which each write is a line."""

    def write(self, text: str) -> int:
        say(text.removesuffix("\n"))
        return len(text)


def _csv(found: "Selection") -> None:
    from data_bridge.pipelines.reports import write_csv

    write_csv(_Lines(), found.columns, found.rows)


def _json(found: "Selection") -> None:
    """One document, a row at a time: there may be millions."""
    head = {"stage": found.stage, "complete": found.complete, "count": found.count, "columns": found.columns}
    say(json_of(head).removesuffix("\n}") + ',\n  "rows": [')
    before = ""
    for row in found.rows:
        if before:
            say(before + ",")
        before = "    " + json_of(row).replace("\n", " ")
    say((before + "\n" if before else "") + "  ]\n}")


def _table(found: "Selection") -> None:
    lines = _cells(found)
    first = [list(found.columns), *islice(lines, _MEASURED)]
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*first, strict=True)]
    shown = -1
    for cells in (*first, *lines):
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
        shown += 1
    state = "complete" if found.complete else "until now"
    tell(f"{shown:,} of {found.count:,} rows, {state}")


def _cells(found: "Selection") -> Iterator[list[str]]:
    from data_bridge.pipelines.reports import cell

    for row in found.rows:
        yield [" ".join(cell(row.get(name)).split())[:_WIDEST] for name in found.columns]
