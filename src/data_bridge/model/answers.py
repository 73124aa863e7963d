"""Answers that were paid for, as they are kept, and what they cost together."""

from collections.abc import Iterable, Mapping

import msgspec

from data_bridge.model.source import Document

_DIGITS = 9
"""Of a dollar: sums of costs rounded to them are the same in any order."""


class Paid(Document, frozen=True, kw_only=True):
    """What was paid for."""

    answers: int = 0
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0

    def plus(self, other: "Paid") -> "Paid":
        """Both together."""
        return Paid(
            answers=self.answers + other.answers,
            cost_usd=round(self.cost_usd + other.cost_usd, _DIGITS),
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
        )


def together(parts: Iterable[Mapping[str, Paid]]) -> dict[str, Paid]:
    """What was paid for in all of them, by stage."""
    found: dict[str, Paid] = {}
    for part in parts:
        for stage, paid in part.items():
            found[stage] = found.get(stage, Paid()).plus(paid)
    return dict(sorted(found.items()))


class AnswerRecord(Document, frozen=True, kw_only=True):
    """One answer: a line of a journal."""

    stage: str
    key: str
    """Digest of the stage's name and options, of the sample's place in the source, and of what the stage was given."""
    index: int
    """Source index of the sample."""
    value: msgspec.Raw
    """As JSON."""
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def paid(self) -> Paid:
        cost = round(self.cost_usd, _DIGITS)
        return Paid(answers=1, cost_usd=cost, tokens_in=self.tokens_in, tokens_out=self.tokens_out)


class SegmentHead(Document, frozen=True, kw_only=True):
    """The first line of a part of a journal at the destination."""

    v: int = 1
    token: str
    """Of the attempt that wrote it."""
    totals: dict[str, Paid]
    """By stage, in this and all earlier parts."""
