"""A run on several rented machines as a person meets it: prices first, then a question, then every machine's words."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from data_bridge.cli import renting, words
from data_bridge.cli.words import Relay, hide_secrets_of, say, tell
from data_bridge.errors import ConfigError

if TYPE_CHECKING:
    from data_bridge.compute.fleet import Row, VastFleet
    from data_bridge.config import Settings
    from data_bridge.model.report import PlanReport


def wanted(machines: int | None, report: "PlanReport") -> int:
    """How many machines there is work for."""
    if machines is None or machines <= 1:
        return 1
    if report.partitions < machines:
        tell(f"the source has {report.partitions} partitions: there is no work for {machines} machines")
    return max(1, min(machines, report.partitions))


def run(
    settings: "Settings",
    report: "PlanReport",
    config: Path,
    prefix: str | None,
    arguments: tuple[str, ...],
    *,
    machines: int,
    fresh: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """The whole of it; returns the exit code."""
    if report.partitions_done == report.partitions:
        from data_bridge import api

        say(words.result(api.finalize(settings, prefix=prefix), ""))
        return 0
    relays: list[Relay] = []

    def relay(part: str) -> Relay:
        relays.append(Relay(f"[{part}] "))
        return relays[-1]

    found = fleet(settings, report, config, prefix, arguments, machines=machines, fresh=fresh, log=relay)
    for warning in found.keys().warnings:
        tell(f"warning: {warning}")
    candidates = found.candidates()
    tell(renting.table(candidates, machines))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("renting machines costs money", hint="add --yes to rent without being asked")
        typer.confirm(f"Rent {machines} machines?", abort=True)
    try:
        ended = found.run(candidates[:machines])
    finally:
        for each in relays:
            each.flush()
    say(words.json_of(asdict(ended)) if as_json else renting.told(ended))
    return ended.exit_code


def fleet(
    settings: "Settings",
    report: "PlanReport",
    config: Path,
    prefix: str | None,
    arguments: tuple[str, ...] = (),
    *,
    machines: int,
    fresh: bool = False,
    log: "Callable[[str], Callable[[bytes], None]]" = lambda _: lambda _: None,
) -> "VastFleet":
    """All that is needed for it; nothing is rented yet."""
    from data_bridge import api
    from data_bridge.cli.far import mirror_of
    from data_bridge.compute.fleet import VastFleet
    from data_bridge.compute.rentals import Rentals
    from data_bridge.compute.vast import connect
    from data_bridge.config import rentals_folder
    from data_bridge.pipelines.destination import output_uri

    hide_secrets_of(settings)
    destination = output_uri(settings, prefix)
    return VastFleet(
        connect(settings), Rentals(rentals_folder()), settings, config, renting.need_of(settings, report),
        machines=machines, partitions=report.partitions, prefix=prefix, arguments=arguments, fresh=fresh, tell=tell, log=log,
        hear=lambda _: mirror_of(destination, config), show=lambda rows: tell(table(rows)),
        finish=partial(api.finalize, settings, prefix=prefix), on_interrupt=renting.ask_how_to_stop,
    )  # fmt: skip


def table(rows: "Sequence[Row]") -> str:
    """How every slice stands."""
    lines = [f"{'slice':>7} {'machine':>10} {'partitions':>12} {'samples':>12} {'shards':>8} {'$':>7}  state"]
    for row in rows:
        made = row.ledger
        done = f"{made.partitions_done} of {made.partitions}" if made else "-"
        samples, shards = (f"{made.samples:,}", f"{made.shards:,}") if made else ("-", "-")
        lines.append(
            f"{row.slice:>7} {row.machine or '-':>10} {done:>12} {samples:>12} {shards:>8} {row.hours_usd:>7.2f}  {row.state}"
        )
    return "\n".join(lines)
