"""A desk for group packets: campaigns of packets, purses that are filled, sums that are sent."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from campaigns.campaign import Terms
from campaigns.event_types import MAPPER
from campaigns.groups.commands import (
    ApproveFilling,
    EmptyPurse,
    ProposeFilling,
    ReturnGroup,
    SendGroup,
    SweepPurse,
    TakeShare,
    group_id,
)
from campaigns.groups.group import GROUP_FOLD, Group, GroupKind
from campaigns.groups.purse import PURSE_FOLD, Purse, purse_id
from campaigns.groups.sharing import code_of
from campaigns.packets.terms import PacketTerms
from campaigns.verification import verify
from ledger.commit import Answer
from ledger.events import Actor, Event
from ledger.history import History
from ledger.money import Money
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, Desk, person, terms_of, tourist

SENDER = person(9_000)
SWEEPER = Actor("sweeper", "system")
NEXT_NOON = NOON + timedelta(hours=24)
SALT = "5a" * 32


def packet_terms(**changes: Any) -> Terms:
    """Terms of a campaign of packets: claims for three days, spent within a week."""
    return terms_of(
        **{
            "kind": "packet",
            "face_minor": 100,
            "claim_until": NOON + timedelta(days=3),
            "valid_until": NOON + timedelta(days=7),
            "packet": PacketTerms(),
            **changes,
        }
    )


def key() -> bytes:
    """The ledger's draw key."""
    return DRAW_KEY


class GroupDesk(Desk):
    """Sends commands about purses and groups."""

    def purse(
        self, amount_minor: int, quota: int = 1_000, terms: Terms | None = None, name: str = "draft"
    ) -> UUID:
        """Open a campaign, and fill the sender's purse of it with all its money."""
        campaign = self.opened(quota, terms or packet_terms(), amount_minor, name)
        return self.filled(campaign, amount_minor)

    def filled(self, campaign: UUID, amount_minor: int, who: str = SENDER) -> UUID:
        """Let one operator propose money for a purse and the other approve it."""
        amount, purse = Money(amount_minor, "CNY"), purse_id(campaign, who)
        proposed = self.send(ProposeFilling(self.book, campaign, who, amount), ALICE)
        assert proposed.code == "filling_proposed", proposed
        approved = self.send(ApproveFilling(self.book, purse, amount, key), BOB)
        assert approved.code == "purse_filled", approved
        return purse

    def sending(
        self,
        purse: UUID,
        shares: int,
        total_minor: int,
        name: str,
        *,
        who: str = SENDER,
        kind: GroupKind = "random",
        members: tuple[str, ...] | None = None,
        sender_may_take: bool = False,
        salt: str = SALT,
    ) -> SendGroup:
        """Return the command that sends a group."""
        return SendGroup(
            self.book,
            purse,
            group_id(self.book, tourist(who), name),
            who,
            kind,
            shares,
            Money(total_minor, "CNY"),
            salt,
            members,
            sender_may_take,
            key,
        )

    def sent(
        self, purse: UUID, shares: int, total_minor: int, name: str = "group", **how: Any
    ) -> UUID:
        """Send a group; return its id."""
        at = how.pop("at", NOON)
        command = self.sending(purse, shares, total_minor, name, **how)
        answer = self.send(command, tourist(command.sender), name, at=at)
        assert answer.code == "group_funded", answer
        return command.group

    def taking(self, group: UUID, who: str, code: str | None = None) -> TakeShare:
        """Return the command that takes a share, with the group's code."""
        shown = code_of(DRAW_KEY, group) if code is None else code
        return TakeShare(self.book, group, who, shown, key)

    def take(
        self, group: UUID, who: str, name: str | None = None, code: str | None = None, **how: Any
    ) -> Answer:
        """Take a share for somebody."""
        return self.send(self.taking(group, who, code), tourist(who), name, **how)

    def submit_take(self, group: UUID, who: str, name: str, **how: Any) -> Future[Answer]:
        """Queue the taking of a share."""
        return self.submit(self.taking(group, who), tourist(who), name, **how)

    def give_back(self, group: UUID, at: datetime = NEXT_NOON, **how: Any) -> Answer:
        """Return what nobody took, as the sweeper does."""
        return self.send(ReturnGroup(self.book, group, key), SWEEPER, at=at, **how)

    def empty(self, purse: UUID, at: datetime = NOON) -> Answer:
        """Empty a purse, as an operator does."""
        return self.send(EmptyPurse(self.book, purse, "over"), ALICE, at=at)

    def sweep_purse(self, purse: UUID, at: datetime = NOON) -> Answer:
        """Empty a purse, as the sweeper does."""
        return self.send(SweepPurse(self.book, purse), SWEEPER, at=at)

    # What is stored

    def group(self, group: UUID) -> Group:
        """A group as its events made it."""
        state = self._folded(GROUP_FOLD, group)
        assert isinstance(state, Group)
        return state

    def purse_now(self, purse: UUID) -> Purse:
        """A purse as its events made it."""
        state = self._folded(PURSE_FOLD, purse)
        assert isinstance(state, Purse)
        return state

    def _folded(self, fold: Any, stream: UUID) -> Any:
        state: Any = None
        for event in self.stream(stream):
            state = fold.evolve(state, event)
        return state

    def events_after(self, position: int) -> list[Event]:
        """The events behind a position, in order."""
        entries = self._history.entries(position)
        return [MAPPER.decode(one.topic, one.state, one.stream, one.version) for one in entries]

    def stream(self, stream: UUID) -> list[Event]:
        """The events of a stream, in order."""
        return [one.event for one in self._history.stream(stream, 2**62)]

    @property
    def _history(self) -> History:
        return History(self.datastore, self.book, MAPPER)


def problems(desk: GroupDesk) -> list[str]:
    """What the verification of the book finds."""
    history = History(desk.datastore, desk.book, MAPPER)
    standing = history.standing()
    found = verify(desk.book, history.entries(0, standing.last), standing)
    return [f"{one.code} {one.where}: {one.expected} / {one.found}" for one in found]
