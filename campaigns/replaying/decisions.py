"""Recorded decisions: the events of a book, in order, those of one decision together.

Which events belong together follows from what they are and from who caused them: each decision
that writes more than one has a form of its own. Nothing here knows a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from campaigns.campaign import (
    BudgetReclaimed,
    CampaignClosed,
    CampaignOpened,
    CampaignRolledIn,
    CampaignRolledOver,
)
from campaigns.coupon import CouponReclaimed, CouponRefunded
from campaigns.draws.draw import DrawOpened
from campaigns.draws.entry import DrawEntered, DrawPhoneFreed, DrawPhoneTaken, DrawWithdrawn
from campaigns.groups.group import GroupClosed, GroupFunded, GroupGivenUp, GroupShareTaken
from campaigns.groups.purse import PurseReturned, PurseSent
from campaigns.packets.packet import PacketClaimed
from ledger.events import Event, EventMapper
from ledger.history import Entry
from ledger.verification import UNREADABLE

FOLLOWS: Final[frozenset[tuple[type[Event], type[Event]]]] = frozenset(
    {
        (CampaignClosed, BudgetReclaimed),
        (CampaignOpened, DrawOpened),
        (CampaignRolledOver, CampaignRolledIn),
        (CouponRefunded, CouponReclaimed),
        (PurseSent, GroupFunded),
        (PacketClaimed, GroupShareTaken),
        (GroupShareTaken, GroupClosed),
        (GroupClosed, PurseReturned),
        (GroupGivenUp, PurseReturned),
        (DrawEntered, DrawPhoneTaken),
        (DrawPhoneTaken, DrawEntered),
        (DrawWithdrawn, DrawPhoneFreed),
    }
)
"""An event, and the one that the same decision may have written right after it."""


class Recorded(NamedTuple):
    """One decision as it is stored; an event that cannot be read stands by itself."""

    entries: tuple[Entry, ...]
    events: tuple[Event, ...]
    problem: str | None = None
    """Why the event cannot be read."""

    @property
    def position(self) -> int:
        """The position of its last event."""
        return self.entries[-1].position


def recorded_decisions(entries: Iterable[Entry], mapper: EventMapper) -> Iterator[Recorded]:
    """Yield the decisions of stored events in order."""
    open_entries: list[Entry] = []
    open_events: list[Event] = []
    for entry in entries:
        try:
            event = mapper.decode(entry.topic, entry.state, entry.stream, entry.version)
        except UNREADABLE as error:
            if open_events:
                yield Recorded(tuple(open_entries), tuple(open_events))
                open_entries, open_events = [], []
            yield Recorded((entry,), (), str(error))
            continue
        if open_events and not _belongs(open_events[-1], event):
            yield Recorded(tuple(open_entries), tuple(open_events))
            open_entries, open_events = [], []
        open_entries.append(entry)
        open_events.append(event)
    if open_events:
        yield Recorded(tuple(open_entries), tuple(open_events))


def _belongs(before: Event, event: Event) -> bool:
    """Whether one decision wrote both. Only a batch of registrations goes on to another person."""
    return (type(before), type(event)) in FOLLOWS and (before.by, before.why) == (
        event.by,
        event.why,
    )
