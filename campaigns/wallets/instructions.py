"""Instructions: what a packet's event asks of the operator, and the states of such a request.

Each event of a packet becomes at most one instruction, numbered by the event's own place, so that
it can be sent any number of times and done once. An instruction is written down as sent before it
is sent. One whose outcome is unknown is asked for by its number; it is sent again only when the
operator has nothing under that number, and then under the same number. A done or refused one is
final.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from campaigns.wallets.port import (
    NUMBER_REUSED,
    WALLET_CLOSED,
    Instruction,
    OperatorAway,
    OperatorError,
    Outcome,
)

State = Literal["due", "sent", "done", "refused", "unknown"]

OPEN: Final[frozenset[State]] = frozenset({"due", "sent", "unknown"})
"""States in which an instruction holds up the later ones of its wallet."""

NEXT: Final[Mapping[State, frozenset[State]]] = {
    "due": frozenset({"sent"}),
    "sent": frozenset({"due", "done", "refused", "unknown"}),
    "unknown": frozenset({"due", "done", "refused", "unknown"}),
    "done": frozenset(),
    "refused": frozenset(),
}
"""What may follow on a state. A `sent` one that its sender left behind is handled as unknown."""


def number_of(book: str, position: int) -> str:
    """Return the number of the instruction of an event."""
    return f"{book}:{position}"


def place_of(number: str) -> tuple[str, int] | None:
    """Return book and position that a number names; None when it is none of ours."""
    book, _, position = number.partition(":")
    if not position.isascii() or not position.isdigit() or position != str(int(position)):
        return None
    return book, int(position)


@dataclass(frozen=True, slots=True)
class Step:
    """What an instruction becomes, and the operator's code where it refused."""

    state: State
    code: str | None = None


def after_sending(found: Outcome | OperatorError) -> Step:
    """Return what a sent instruction becomes: without a believable answer nothing is known.

    Where the operator was not even reached, it was surely not done, and is due again.
    """
    match found:
        case Outcome():
            return _final(found)
        case OperatorAway():
            return Step("due")
        case _:
            return Step("unknown")


def after_asking(instruction: Instruction, found: Outcome | OperatorError | None) -> Step:
    """Return what an unknown instruction becomes when the operator was asked for its number.

    Something else under this number is refused, and for somebody to look at.
    """
    match found:
        case Outcome() if found.instruction != instruction:
            return Step("refused", NUMBER_REUSED)
        case Outcome():
            return _final(found)
        case None:
            return Step("due")
        case _:
            return Step("unknown")


def closes_packets(step: Step) -> bool:
    """Whether the ledger must hear of it: the wallet is closed, so its packets end."""
    return step.state == "refused" and step.code == WALLET_CLOSED


def _final(outcome: Outcome) -> Step:
    return Step("done") if outcome.is_done else Step("refused", outcome.code)
