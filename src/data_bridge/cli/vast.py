"""`data-bridge vast`: what is rented, and ending it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_bridge.cli.words import harmless, say
from data_bridge.errors import ConfigError, FatalError

if TYPE_CHECKING:
    from data_bridge.clients.vast import VastClient
    from data_bridge.compute.reaping import Held
    from data_bridge.compute.rentals import Rentals

app = typer.Typer(name="vast", help="Rented machines: see what there is, follow, give back.", no_args_is_help=True)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Config with the account's key.", show_default=False)
]
Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="Its number or its label, as `vast list` shows it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it, it is only shown.")]


@app.command(epilog="Example: data-bridge vast offers --config configs/rented.yaml")
def offers(
    config: Annotated[Path, typer.Option("--config", "-c", help="Config with `vast.search` and the limits.")],
) -> None:
    """Show what may be rented for the run of a config, the cheapest run first; rents nothing."""
    from data_bridge import api
    from data_bridge.cli import renting
    from data_bridge.config import load_settings

    settings = load_settings(config)
    renting.show(settings, api.plan(settings), config, None)


@app.command("list", epilog="Example: data-bridge vast list")
def list_(config: Config = None) -> None:
    """Show the machines that runs of this product hold, on this account, from whatever computer."""
    found = _held(*_account(config))
    say("\n".join(map(_line, found)) if found else "nothing is rented")


@app.command(epilog="Example: data-bridge vast reap --yes")
def reap(
    config: Config = None,
    everything: Annotated[bool, typer.Option("--all", help="Also machines that may still be at work.")] = False,
    yes: Yes = False,
) -> None:
    """Destroy machines that nobody needs any more: past their time, or of a rental whose answer was lost."""
    from data_bridge.compute.reaping import end

    client, rentals = _account(config)
    doomed = [one for one in _held(client, rentals) if one.overdue or everything]
    failed = []
    for one in doomed:
        say(f"{'destroying' if yes else 'would destroy'}  {_line(one)}")
        if yes:
            try:
                end(client, rentals, one)
            except FatalError as error:
                failed.append(error)
    if failed:
        raise failed[0]
    if not doomed:
        say("nothing to destroy")
    elif not yes:
        say("add --yes to do it")


@app.command(epilog="Example: data-bridge vast destroy 9000001 --yes")
def destroy(machine: Machine, config: Config = None, yes: Yes = False) -> None:
    """Destroy one machine, and wait until it is proved to be gone."""
    from data_bridge.compute.reaping import end

    client, rentals = _account(config)
    one = _one(client, rentals, machine)
    if not yes:
        say(f"would destroy  {_line(one)}\nadd --yes to do it")
        return
    end(client, rentals, one)
    say(f"{one.name} is gone")


@app.command(epilog="Example: data-bridge vast logs 9000001")
def logs(machine: Machine, config: Config = None) -> None:
    """Show what the machine itself wrote, for one that does not start. A run's own log: `vast attach`."""
    client, rentals = _account(config)
    one = _one(client, rentals, machine)
    if one.instance is None:
        raise ConfigError(f"{machine} is not there any more", hint="`data-bridge vast list` shows what is")
    say(
        harmless(client.logs(one.instance.id))
        or one.instance.message
        or "it has written nothing that the service gives out"
    )


@app.command(epilog="Example: data-bridge vast attach 9000001 --config configs/rented.yaml")
def attach(machine: Machine, config: Config = None) -> None:
    """Follow a run that an earlier command started, from its first line on, and give its machine back at the end."""
    from data_bridge.cli import renting
    from data_bridge.cli.far import mirror_of
    from data_bridge.cli.words import Relay, hide_secrets_of, tell
    from data_bridge.compute.runner import attached
    from data_bridge.config import load_settings

    client, rentals = _account(config)
    one = _one(client, rentals, machine)
    rental = one.rental
    if rental is None or not rental.config:
        raise ConfigError(f"{machine} was not rented from this computer", hint="the key to it is where it was rented")
    if one.instance is not None:  # the answer to the rental may have been lost
        rental = replace(rental, instance=one.instance.id)
    settings = load_settings(config or Path(rental.config))
    hide_secrets_of(settings)
    relay, mirror = Relay(), mirror_of(rental.destination, config or Path(rental.config))
    try:
        ended = attached(
            client, rentals, rental, settings, tell=tell, log=relay, hear=mirror, on_interrupt=renting.ask_how_to_stop
        )
    finally:
        relay.flush()
    say(renting.told(ended))
    raise typer.Exit(ended.exit_code)


def _account(config: Path | None) -> "tuple[VastClient, Rentals]":
    from data_bridge.cli.words import hide_secrets_of
    from data_bridge.compute.rentals import Rentals
    from data_bridge.compute.vast import connect
    from data_bridge.config import load_settings, rentals_folder

    settings = load_settings(config) if config is not None else None
    if settings is not None:
        hide_secrets_of(settings)
    return connect(settings), Rentals(rentals_folder())


def _held(client: "VastClient", rentals: "Rentals") -> "list[Held]":
    from data_bridge.compute.reaping import held

    return held(client, rentals)


def _one(client: "VastClient", rentals: "Rentals", machine: str) -> "Held":
    for one in _held(client, rentals):
        label: Any = one.rental.label if one.rental else one.instance.label if one.instance else None
        if machine in (one.name, label):
            return one
    raise ConfigError(f"no machine {machine}", hint="`data-bridge vast list` shows what is rented")


def _line(one: "Held") -> str:
    rental, instance = one.rental, one.instance
    parts = [one.name, (instance.status or "created") if instance else "not there"]
    if rental is not None:
        hours = (rental.deadline - time.time()) / 3600
        parts += [rental.label, rental.destination, f"${rental.cost(time.time()):.2f} so far"]
        parts.append(f"{hours:.1f} h left" if hours > 0 else "its time is over")
    elif instance is not None:
        parts += [instance.label, "rented elsewhere", f"${instance.usd_hour:.3f}/h"]
    return "  ".join(parts)
