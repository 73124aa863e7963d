"""A run on a rented machine as a person meets it: prices first, then a question, then the run's own words."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from data_bridge.cli import words
from data_bridge.cli.words import Relay, hide_secrets_of, json_of, say, tell
from data_bridge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from data_bridge.compute.choice import Candidate, Need
    from data_bridge.compute.runner import Remote, VastRemoteRunner
    from data_bridge.config import Settings
    from data_bridge.model.report import PlanReport

SHOWN = 8
GUESSED_BYTES = 10e9
"""Where the source does not tell its size."""


def passed_on(*, limit: int | None, workers: int | None, steal: bool, allow_empty: bool) -> tuple[str, ...]:
    """The flags of this command that are the remote run's. `--fresh` is not: each machine would begin anew."""
    numbers = {"--limit": limit, "--workers": workers}
    flags = {"--steal": steal, "--allow-empty": allow_empty}
    given = [word for name, value in numbers.items() if value is not None for word in (name, str(value))]
    return (*given, *(name for name, value in flags.items() if value))


def show(
    settings: "Settings", report: "PlanReport", config: Path, prefix: str | None, *, machines: int | None = None
) -> None:
    """What may be rented and what it would cost; rents nothing."""
    from data_bridge.cli import fleet

    many = fleet.wanted(machines, report)
    runner = (
        _runner(settings, report, config, prefix)
        if many == 1
        else fleet.fleet(settings, report, config, prefix, machines=many)
    )
    for warning in runner.keys().warnings:
        tell(f"warning: {warning}")
    say(table(runner.candidates(), many))


def run(
    settings: "Settings",
    config: Path,
    prefix: str | None,
    arguments: tuple[str, ...],
    *,
    machines: int | None,
    fresh: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """The whole of it; returns the exit code."""
    from data_bridge import api
    from data_bridge.cli import fleet

    report = api.plan(settings, prefix=prefix, fresh=fresh)
    if dry_run:
        show(settings, report, config, prefix, machines=machines)
        return 0
    if report.complete:
        say(words.plan(report))
        return 0
    if (many := fleet.wanted(machines, report)) > 1:
        return fleet.run(
            settings, report, config, prefix, arguments, machines=many, fresh=fresh, yes=yes, as_json=as_json
        )
    relay = Relay()
    runner = _runner(settings, report, config, prefix, arguments, fresh=fresh, log=relay)
    for warning in runner.keys().warnings:
        tell(f"warning: {warning}")
    candidates = runner.candidates()
    tell(table(candidates))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("renting a machine costs money", hint="add --yes to rent without being asked")
        typer.confirm(f"Rent offer {candidates[0].offer.id}?", abort=True)
    try:
        ended = runner.run(candidates[0])
    finally:
        relay.flush()
    say(json_of(asdict(ended)) if as_json else told(ended))
    return ended.exit_code


def told(ended: "Remote") -> str:
    """How it ended."""
    if ended.detached:
        labels = ended.detached.split()
        lines = ["the run goes on by itself; its machine destroys itself when it is over"]
        if len(labels) > 1:
            lines = [
                "the slices go on by themselves; each machine destroys itself when its slice is over",
                "when all of them are: the same command again, or data-bridge finalize",
            ]
        return "\n".join([*lines, *(f"to follow it: data-bridge vast attach {label}" for label in labels)])
    state = "complete" if ended.complete else "not complete"
    machines = "1 machine" if ended.machines == 1 else f"{ended.machines} machines"
    again = (
        f"repeated:    {ended.repeated_samples:,} samples, of shards that were open when machines went ({ended.repeated_shards:,})\n"
        if ended.repeated_shards
        else ""
    )
    return (
        f"{state}: {ended.samples:,} samples in {ended.shards:,} shards, on {machines}, about ${ended.hours_usd:.2f} and traffic\n"
        f"{again}dataset:     {ended.destination}"
    )


def table(candidates: "list[Candidate]", machines: int = 1) -> str:
    """The cheapest runs first; marked: what costs less by the hour than the first and yet more in the end. Of several
    machines, each does its part of the run."""
    head = f"{'offer':>10} {'total $':>8} {'$/h':>7} {'hours':>6} {'traffic $':>9} {'down':>6} {'up':>6} {'cores':>5}  where"
    rows = [head]
    first = candidates[0]
    for each in candidates[: max(SHOWN, machines)]:
        offer = each.offer
        mark = "  cheaper by the hour" if each.usd_hour < first.usd_hour else ""
        rows.append(
            f"{offer.id:>10} {each.total:>8.2f} {each.usd_hour:>7.3f} {each.hours:>6.1f} {each.traffic:>9.2f} "
            f"{offer.inet_down:>6.0f} {offer.inet_up:>6.0f} {offer.cores:>5.0f}  {offer.gpu_name}, {offer.place}{mark}"
        )
    chosen = candidates[:machines]
    total, names = sum(each.total for each in chosen), ", ".join(str(each.offer.id) for each in chosen)
    on = "" if machines == 1 else f" on {machines} machines, in about {max(each.hours for each in chosen):.1f} h"
    rows.append(
        f"to rent: offer{'' if machines == 1 else 's'} {names}, about ${total:.2f} for the whole run{on}; {len(candidates)} offers fit"
    )
    return "\n".join(rows)


def ask_how_to_stop() -> str:
    """On Ctrl-C: give the machine back, or let the run go on there. Without a terminal: give it back."""
    if not sys.stdin.isatty():
        return "destroy"
    try:
        detach = typer.confirm("\nLet the run go on there? (No: stop it and destroy the machine)", default=False)
    except (typer.Abort, KeyboardInterrupt):
        return "destroy"
    return "detach" if detach else "destroy"


def need_of(settings: "Settings", report: "PlanReport") -> "Need":
    """What the run moves, as far as the plan tells."""
    from data_bridge.compute.choice import Need
    from data_bridge.compute.runner import EXTRA_BYTES
    from data_bridge.config import VastSettings

    size = float(report.source_bytes or GUESSED_BYTES)
    made = float((report.shards_estimated or 0) * (report.shard_bytes_estimated or 0)) or size
    return Need(size + EXTRA_BYTES, made, (settings.vast or VastSettings()).storage_gb)


def _runner(
    settings: "Settings",
    report: "PlanReport",
    config: Path,
    prefix: str | None,
    arguments: tuple[str, ...] = (),
    *,
    fresh: bool = False,
    log: "Callable[[bytes], None]" = lambda _: None,
) -> "VastRemoteRunner":
    from data_bridge.cli.far import mirror_of
    from data_bridge.compute.rentals import Rentals
    from data_bridge.compute.runner import VastRemoteRunner
    from data_bridge.compute.vast import connect
    from data_bridge.config import rentals_folder
    from data_bridge.pipelines.destination import output_uri

    hide_secrets_of(settings)
    return VastRemoteRunner(
        connect(settings), Rentals(rentals_folder()), settings, config, need_of(settings, report),
        prefix=prefix, arguments=arguments, fresh=fresh, tell=tell, log=log,
        hear=mirror_of(output_uri(settings, prefix), config), on_interrupt=ask_how_to_stop,
    )  # fmt: skip
