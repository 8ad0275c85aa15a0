"""Judging stored decisions on purses and group packets again, event by event.

It shares the folds with nobody and no code with the decisions: what was sent, taken and returned
is recomputed, and every share once the seed is shown. A group's takings are kept until then.
What is found is a value; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from msgspec import UNSET

from campaigns.campaign import Campaign, Terms
from campaigns.groups.group import (
    GroupClosed,
    GroupFunded,
    GroupGivenUp,
    GroupGivingUpProposed,
    GroupShareTaken,
)
from campaigns.groups.purse import (
    PurseEmptied,
    PurseFilled,
    PurseFillingProposed,
    PurseReturned,
    PurseSent,
)
from campaigns.groups.resharing import Take, wrong_takes
from campaigns.packets.judging import PotOf
from campaigns.packets.packet import PacketClaimed
from campaigns.resplitting import is_seed_of
from ledger.events import Event

_ALIVE: Final = frozenset({"funded", "open", "paused"})
_DAY: Final = timedelta(hours=24)


class Judge(NamedTuple):
    """What the judging of a whole book lends: the campaigns, and where findings go."""

    pots: Mapping[UUID, PotOf]
    here: Callable[[str, object, object], bool]
    """Report a broken rule at this position; False, for chains of checks."""
    at: Callable[[int, str, object, object], None]
    """Report one at an earlier position."""
    unknown: Callable[[str, object, object], bool]
    """Report a reference to nothing, unless a missing part of the book may explain it."""
    take: Callable[[UUID, int, int], None]
    """Change what is issued and granted of a campaign."""
    owe: Callable[[UUID, type[Event]], None]
    """Ask that the next event be of this stream and kind."""
    was_owed: Callable[[], bool]
    """Whether this event is the one that the event before it asked for."""


@dataclass(slots=True)
class _Purse:
    campaign: UUID
    person: str
    balance_minor: int = 0
    filling: tuple[int, str] | None = None
    commitment: tuple[str, int] | None = None


@dataclass(slots=True)
class _Sending:
    """What a purse has just sent, until the group says the same."""

    purse: UUID
    event: PurseSent
    commitment: tuple[str, int] | None


@dataclass(slots=True)
class _Group:
    funded: GroupFunded
    takes: list[Take] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    taken: int = 0
    left_minor: int = 0
    closed: bool = False
    giving_up: tuple[str, str] | None = None
    """Who asked that it be given up, and why."""


class GroupAudit:
    """Judges the events of purses and groups, and of packets that are shares of groups."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._purses: dict[UUID, _Purse] = {}
        self._groups: dict[UUID, _Group] = {}
        self._sending: _Sending | None = None
        self._claimed: PacketClaimed | None = None
        self._returning: tuple[UUID, int] | None = None
        self._position = 0
        self._rules: dict[type[Event], Callable[[Any], None]] = {
            PurseFillingProposed: self._filling_proposed,
            PurseFilled: self._filled,
            PurseSent: self._sent,
            PurseReturned: self._returned,
            PurseEmptied: self._emptied,
            GroupFunded: self._funded,
            GroupShareTaken: self._share_taken,
            GroupClosed: self._closed,
            GroupGivingUpProposed: self._giving_up_proposed,
            GroupGivenUp: self._given_up,
            PacketClaimed: self._share_claimed,
        }

    @property
    def kinds(self) -> tuple[type[Event], ...]:
        """The events that are judged here; of claimed packets, those with a group."""
        return tuple(self._rules)

    def feed(self, position: int, event: Event) -> None:
        """Judge one event."""
        self._position = position
        self._rules[type(event)](event)

    def skip(self, stream: UUID) -> None:
        """Judge nothing of a purse or group any more whose stream is broken."""
        self._purses.pop(stream, None)
        self._groups.pop(stream, None)

    def is_group(self, stream: UUID) -> bool:
        """Whether a stream is a group that is known."""
        return stream in self._groups

    def balances(self) -> Iterator[tuple[str, UUID, str, int]]:
        """Yield what must be in each purse and group: kind of account, stream, currency, amount."""
        for stream, purse in self._purses.items():
            pot = self._judge.pots.get(purse.campaign)
            if pot is not None:
                yield "purse", stream, pot.campaign.terms.currency, purse.balance_minor
        for stream, group in self._groups.items():
            yield "group", stream, group.funded.currency, group.left_minor

    # Purses

    def _filling_proposed(self, event: PurseFillingProposed) -> None:
        purse = self._purses.setdefault(event.originator_id, _Purse(event.campaign, event.person))
        purse.filling = (event.amount_minor, event.by.id)
        campaign = self._campaign(event.campaign)
        if campaign is None or not self._is_own(event):
            return
        if not _has_purses(campaign.terms):
            self._judge.here("purse_not_due", "money that is promised to nobody", event.TOPIC)
        elif campaign.state not in _ALIVE:
            self._judge.here("illegal_step", "a campaign that is alive", campaign.state)
        elif event.by.id == event.person:
            self._judge.here("own_purse", "another person's purse", event.person)

    def _is_own(self, event: PurseFillingProposed) -> bool:
        own = uuid5(event.campaign, f"purse:{event.person}")
        if event.originator_id == own:
            return True
        return self._judge.here("purse_id", own.hex, event.originator_id.hex)

    def _filled(self, event: PurseFilled) -> None:
        purse = self._purse(event)
        if purse is None:
            return
        filling, purse.filling = purse.filling, None
        purse.balance_minor += event.amount_minor
        purse.commitment = (event.seed_commitment, event.originator_version)
        self._judge.take(event.campaign, 0, event.amount_minor)
        campaign = self._campaign(event.campaign)
        if campaign is None:
            return
        if campaign.state not in _ALIVE:
            self._judge.here("illegal_step", "a campaign that is alive", campaign.state)
        elif filling != (event.amount_minor, event.proposed_by):
            self._judge.here("not_as_proposed", filling, (event.amount_minor, event.proposed_by))
        elif event.by.id in (event.proposed_by, event.person):
            code = "own_purse" if event.by.id == event.person else "self_approval"
            self._judge.here(code, "another person", event.by.id)

    def _sent(self, event: PurseSent) -> None:
        purse = self._purse(event)
        if purse is None:
            return
        self._sending = _Sending(event.originator_id, event, purse.commitment)
        purse.balance_minor -= event.amount_minor
        purse.commitment = (event.seed_commitment, event.originator_version)
        self._judge.owe(event.group, GroupFunded)
        campaign = self._campaign(event.campaign)
        if campaign is None or not self._is_open(campaign, event.at):
            return
        if purse.balance_minor < 0 or self._sending.commitment is None:
            balance_minor = purse.balance_minor + event.amount_minor
            self._judge.here("over_sent", f"{balance_minor} at most", event.amount_minor)

    def _returned(self, event: PurseReturned) -> None:
        purse, returning = self._purse(event), self._returning
        self._returning = None
        if purse is None:
            return
        purse.balance_minor += event.amount_minor
        found = (event.group, event.amount_minor)
        if not self._judge.was_owed() or returning is None:
            self._judge.here("illegal_step", f"{event.TOPIC} right after its close", "elsewhere")
        elif found != returning:
            self._judge.here("other_amount", returning, found)

    def _emptied(self, event: PurseEmptied) -> None:
        purse = self._purse(event)
        if purse is None:
            return
        balance_minor = purse.balance_minor
        purse.balance_minor -= event.amount_minor
        self._judge.take(event.campaign, 0, -event.amount_minor)
        pot = self._judge.pots.get(event.campaign)
        if pot is None:
            return
        if event.to == "sponsor":
            pot.budget_minor -= event.amount_minor
        if pot.judged:
            self._judge_emptying(pot.campaign, event, balance_minor)

    def _judge_emptying(self, campaign: Campaign, event: PurseEmptied, balance_minor: int) -> None:
        is_closed = campaign.state == "closed"
        expected = (campaign.returns_to if is_closed else "campaign", campaign.sponsor)
        in_time = is_closed or event.at >= campaign.terms.claim_until
        if event.amount_minor != balance_minor or balance_minor <= 0:
            self._judge.here("other_amount", balance_minor, event.amount_minor)
        elif (event.to, event.sponsor) != expected:
            self._judge.here("other_destination", expected, (event.to, event.sponsor))
        elif not isinstance(event.reason, str) and not in_time:
            self._judge.here("illegal_step", f"after {campaign.terms.claim_until}", event.at)

    # Groups

    def _funded(self, event: GroupFunded) -> None:
        if event.originator_id in self._groups:
            self._judge.here("illegal_step", "a group that is new", event.TOPIC)
            return
        group = _Group(event, left_minor=event.total_minor)
        self._groups[event.originator_id] = group
        self._judge.take(event.campaign, event.shares, 0)
        sending, self._sending = self._sending, None
        if not self._judge.was_owed() or sending is None:
            self._judge.unknown(
                "illegal_step", f"{event.TOPIC} right after purse.sent", "elsewhere"
            )
            return
        campaign = self._campaign(event.campaign)
        if campaign is not None:
            self._judge_funding(campaign, event, sending)

    def _judge_funding(self, campaign: Campaign, event: GroupFunded, sending: _Sending) -> None:
        sent = sending.event
        expected = (sending.purse, sent.campaign, sent.person, sent.amount_minor, sent.currency)
        found = (event.purse, event.campaign, event.person, event.total_minor, event.currency)
        committed = (event.seed_commitment, event.committed_by)
        until = min(event.at + _DAY, campaign.terms.claim_until)
        if expected != found or sent.currency != campaign.terms.currency:
            self._judge.here("other_amount", expected, found)
        elif committed != sending.commitment:
            self._judge.here("group_commitment", sending.commitment, committed)
        elif not 1 <= event.shares <= event.total_minor:
            self._judge.here("shares_differ", "a minor unit for each", event.shares)
        elif isinstance(event.members, list) == isinstance(event.code_sha256, str):
            self._judge.here("illegal_step", "members or a code", "both or neither")
        elif event.until != until:
            self._judge.here("group_time", until, event.until)

    def _share_claimed(self, event: PacketClaimed) -> None:
        """A packet of a group is claimed in the decision that takes the share."""
        self._claimed = event
        assert isinstance(event.group, UUID), "a share names its group"
        self._judge.owe(event.group, GroupShareTaken)
        campaign = self._campaign(event.campaign)
        own = uuid5(event.group, f"{event.person}:1")
        if campaign is None:
            return
        if event.originator_id != own:
            self._judge.here("coupon_id", own.hex, event.originator_id.hex)
        elif self._is_open(campaign, event.at):
            self._check_terms(campaign, event)

    def _check_terms(self, campaign: Campaign, event: PacketClaimed) -> None:
        terms = campaign.terms
        expected = (1, terms.currency, terms.valid_from, terms.valid_until)
        found = (event.n, event.currency, event.valid_from, event.valid_until)
        if event.campaign_version != campaign.version:
            self._judge.here("claim_other_version", campaign.version, event.campaign_version)
        elif expected != found or event.award is not UNSET:
            self._judge.here("claim_other_terms", expected, found)

    def _share_taken(self, event: GroupShareTaken) -> None:
        group = self._groups.get(event.originator_id)
        claimed, self._claimed = self._claimed, None
        if group is None:
            self._judge.unknown("group_unknown", "group.funded first", event.TOPIC)
            return
        is_new = event.index not in group.numbers and 1 <= event.index <= group.funded.shares
        group.numbers.add(event.index)
        group.taken += 1
        group.left_minor -= event.amount_minor
        group.takes.append(Take(self._position, event.share, event.index, event.amount_minor))
        if group.taken == group.funded.shares:
            self._judge.owe(event.originator_id, GroupClosed)
        if not self._judge.was_owed() or claimed is None:
            self._judge.here("illegal_step", f"{event.TOPIC} right after its packet", "elsewhere")
        elif not is_new:
            self._judge.here("shares_differ", "a share that is left", event.index)
        else:
            self._judge_taking(group, event, claimed)

    def _judge_taking(self, group: _Group, event: GroupShareTaken, claimed: PacketClaimed) -> None:
        funded = group.funded
        expected = (claimed.originator_id, claimed.campaign, claimed.person, claimed.amount_minor)
        found = (event.share, event.campaign, event.person, event.amount_minor)
        if expected != found or funded.campaign != event.campaign:
            self._judge.here("other_amount", expected, found)
        elif group.closed or event.at >= funded.until:
            self._judge.here("group_time", f"before {funded.until}", event.at)
        elif not _may_take(funded, event.person):
            self._judge.here("not_invited", "somebody whom the group is for", event.person)

    def _closed(self, event: GroupClosed) -> None:
        group = self._groups.get(event.originator_id)
        if group is None:
            self._judge.unknown("group_unknown", "group.funded first", event.TOPIC)
            return
        self._judge_end(group, event)
        self._reshare(group, event)
        group.left_minor -= event.returned_minor
        group.closed, group.takes = True, []

    def _judge_end(self, group: _Group, event: GroupClosed | GroupGivenUp) -> None:
        """What nobody took goes back, all of it, once, and not before its time."""
        funded, left = group.funded, group.funded.shares - group.taken
        self._judge.take(event.campaign, -event.returned, 0)
        if group.closed:
            self._judge.here("after_end", "one close", "another")
        if left:
            self._returning = (event.originator_id, event.returned_minor)
            self._judge.owe(funded.purse, PurseReturned)
            if event.at < funded.until:
                self._judge.here("group_time", f"from {funded.until} on", event.at)
        expected = (funded.campaign, left, group.left_minor, funded.currency)
        found = (event.campaign, event.returned, event.returned_minor, event.currency)
        if expected != found:
            self._judge.here("other_amount", expected, found)

    def _giving_up_proposed(self, event: GroupGivingUpProposed) -> None:
        group = self._groups.get(event.originator_id)
        if group is None:
            self._judge.unknown("group_unknown", "group.funded first", event.TOPIC)
            return
        group.giving_up = (event.by.id, event.reason)
        if group.closed:
            self._judge.here("after_end", "a group that is open", event.TOPIC)
        elif event.at < group.funded.until:
            self._judge.here("group_time", f"from {group.funded.until} on", event.at)

    def _given_up(self, event: GroupGivenUp) -> None:
        """Two operators agree; which shares were right nobody can say any more."""
        group = self._groups.get(event.originator_id)
        if group is None:
            self._judge.unknown("group_unknown", "group.funded first", event.TOPIC)
            return
        self._judge_end(group, event)
        if group.giving_up != (event.proposed_by, event.reason):
            found = (event.proposed_by, event.reason)
            self._judge.here("not_as_proposed", group.giving_up, found)
        elif event.by.id == event.proposed_by:
            self._judge.here("self_approval", "another person", event.by.id)
        elif group.taken == group.funded.shares:
            self._judge.here("illegal_step", "a group with shares that are left", event.TOPIC)
        group.left_minor -= event.returned_minor
        group.closed, group.takes = True, []

    def _reshare(self, group: _Group, event: GroupClosed) -> None:
        """Hand out every share again, now that the seed is shown."""
        funded = group.funded
        if not is_seed_of(event.seed, funded.seed_commitment):
            self._judge.here("seed_differs", f"the seed of {funded.seed_commitment}", event.seed)
            return
        wrong = wrong_takes(
            event.seed,
            event.originator_id,
            funded.salt,
            funded.kind,
            funded.total_minor,
            funded.shares,
            group.takes,
        )
        for take, number, amount_minor in wrong:
            expected = f"share {number} of {amount_minor} {funded.currency}"
            found = f"share {take.number} of {take.amount_minor} to {take.share.hex}"
            self._judge.at(take.position, "wrong_share", expected, found)

    # What they share

    def _campaign(self, campaign: UUID) -> Campaign | None:
        """Return a campaign that can be judged."""
        pot = self._judge.pots.get(campaign)
        if pot is None:
            self._judge.unknown("campaign_unknown", "a campaign that was drafted", campaign.hex)
            return None
        return pot.campaign if pot.judged else None

    def _purse(self, event: Any) -> _Purse | None:
        purse = self._purses.get(event.originator_id)
        if purse is None:
            self._judge.unknown("purse_unknown", "purse.filling_proposed first", event.TOPIC)
            return None
        if (event.campaign, event.person) != (purse.campaign, purse.person):
            self._judge.here("purse_id", purse.person, event.person)
        return purse

    def _is_open(self, campaign: Campaign, at: datetime) -> bool:
        terms = campaign.terms
        if campaign.state != "open":
            return self._judge.here("claim_not_open", "an open campaign", campaign.state)
        if not terms.claim_from <= at < terms.claim_until:
            window = f"{terms.claim_from} up to {terms.claim_until}"
            return self._judge.here("claim_outside_window", window, at)
        return True


def _has_purses(terms: Terms) -> bool:
    packet, intake = terms.packet, terms.intake
    is_free = terms.public_draw is None and (packet is None or not (packet.tiers or packet.split))
    return terms.kind == "packet" and is_free and (intake is None or intake.kind != "lottery")


def _may_take(funded: GroupFunded, person: str) -> bool:
    if person == funded.person:
        return funded.sender_may_take is True
    return not isinstance(funded.members, list) or person in funded.members
