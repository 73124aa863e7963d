"""`ctl`, `watch` and `status` of a run that works on a rented machine: RUN is what it is anywhere, or the machine."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from data_bridge.cli.words import redacted
from data_bridge.errors import ConfigError

if TYPE_CHECKING:
    from data_bridge.compute.far import FarControl
    from data_bridge.compute.rentals import Rentals
    from data_bridge.model.rental import Rental
    from data_bridge.monitor.mirror import Mirror
    from data_bridge.runtime.control import RunControl


def found(
    run: str, destination: Callable[[], str], part: str | None = None, *, only: bool = True
) -> "FarControl | None":
    """The run, or the slice `part` of it, on a rented machine that RUN names, None where this computer has rented none for it. What it said of itself
    is kept here as if it ran here. `destination` finds that of RUN where RUN is no machine. Where several machines work on it, it has
    to be named unless `only` is False, and then is none of them."""
    from data_bridge.config import load_settings, rentals_folder

    if not rentals_folder().is_dir():
        return None
    from data_bridge.cli.words import hide_secrets_of
    from data_bridge.compute.far import FarControl, latest_of, link_to
    from data_bridge.compute.rentals import Rentals
    from data_bridge.compute.vast import connect

    rentals = Rentals(rentals_folder())
    rental = _rental(rentals, run, destination, part, only=only)
    if rental is None:
        return None
    settings = load_settings(Path(rental.config))
    hide_secrets_of(settings)
    link = link_to(connect(settings), rentals, rental)
    if link is None:
        return None
    begun: list[str] = []
    mirror = mirror_of(rental.destination, Path(rental.config), begun.append)
    for line in latest_of(link):
        mirror(line)
    if not begun:
        raise ConfigError(f"the run on machine {rental.instance} has not begun yet", hint="try again in a minute")
    return FarControl(begun[0], link, mirror, kept=mirror.kept_already)


def heard(control: "RunControl") -> AbstractContextManager[object]:
    """Goes on keeping what a run elsewhere says, while the block lasts, where nobody else does."""
    from data_bridge.compute.far import FarControl
    from data_bridge.compute.said import Said

    if not isinstance(control, FarControl) or control.kept:
        return nullcontext()
    return Said(control.link, control.hear)


def mirror_of(destination: str, config: Path, began: Callable[[str], object] = lambda _: None) -> "Mirror":
    """Keeps what a run elsewhere says, and notes its id."""
    from data_bridge.cli.runs import noted
    from data_bridge.monitor.mirror import Mirror

    def begun(run: str) -> None:
        began(run)
        noted(run, destination, config)

    return Mirror(redacted, begun)


def _rental(
    rentals: "Rentals", run: str, destination: Callable[[], str], part: str | None, *, only: bool
) -> "Rental | None":
    from data_bridge.compute.far import at_work

    working = at_work(rentals)
    named = [r for r in working if run in (str(r.instance), r.label)]
    if named or not working:
        return named[0] if named else None
    place = destination()
    mine = [r for r in working if r.destination == place and part in (None, r.slice)]
    if len(mine) > 1 and not only:
        return None
    if len(mine) > 1:
        names = ", ".join(str(r.instance) for r in mine)
        raise ConfigError(
            f"{len(mine)} machines work on {place}: {names}", hint="name one of them instead, or its --slice"
        )
    return mine[0] if mine else None
