"""Whether a machine's links are what was offered, as far as it matters to the run."""

from dataclasses import replace

from data_bridge.compute.choice import SETUP_H, Candidate, Need

SLOW = 2.0
"""So many times longer than expected is too slow; less may be chance."""
WORST_MBIT = 50.0
"""A link that may be as slow as this is worth a look, where that would cost more than another machine."""


class Links:
    """What one command has learnt of them. A source or a store may be slower than any link: so a machine is held to what
    was offered, and to what the best machine before it had."""

    def __init__(self, need: Need) -> None:
        self._need = need
        self._best_down = self._best_up = float("inf")

    def matter(self, chosen: Candidate) -> bool:
        """Whether a slow link would make the run longer by more than another machine takes to set up."""
        offer = chosen.offer
        worst = replace(offer, inet_down=WORST_MBIT, inet_up=WORST_MBIT)
        return self._need.hours(worst) - self._need.hours(offer) > SETUP_H

    def too_slow(self, chosen: Candidate, down: float, up: float) -> str:
        """Why links that were measured will not do; "" when they will."""
        offer = chosen.offer
        wanted_down, wanted_up = min(offer.inet_down, self._best_down), min(offer.inet_up, self._best_up)
        if self._best_down == float("inf"):
            self._best_down, self._best_up = down, up
        else:
            self._best_down, self._best_up = max(self._best_down, down), max(self._best_up, up)
        wanted = self._need.hours(replace(offer, inet_down=wanted_down, inet_up=wanted_up)) - SETUP_H
        real = self._need.hours(replace(offer, inet_down=down, inet_up=up)) - SETUP_H
        if real <= SLOW * wanted or real - wanted <= SETUP_H:
            return ""
        return f"{offer.inet_down:.0f} and {offer.inet_up:.0f} were offered; the run would take {real:.1f} h, not {wanted:.1f} h"
