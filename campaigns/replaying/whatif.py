"""What if: the requests of the past, in their order, decided under other terms.

Everybody asks for what they asked for, when they asked for it; the decisions are the service's own,
and each sees what the imagined decisions before it left. A difference is only as good as the
`ASSUMPTIONS`, which are told with it. Nothing here writes; under the terms that were there is none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace as with_fields
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from campaigns import commands as c
from campaigns import drawing
from campaigns.accounting import postings_of
from campaigns.campaign import (
    CAMPAIGN_EVENTS,
    Campaign,
    CampaignFunded,
    CampaignOpened,
    CampaignRolledIn,
    FundingProposed,
)
from campaigns.corrections.commands import CorrectionCommand
from campaigns.coupon import Coupon, CouponClaimed, CouponEntered, CouponRedeemed
from campaigns.event_types import MAPPER
from campaigns.holding import holding_read
from campaigns.intake import hold, is_lottery
from campaigns.packets import commands as p
from campaigns.packets.packet import Packet, PacketClaimed, PacketPaid
from campaigns.replaying.asking import NotAsked, Sources, campaign_at, command_of
from campaigns.replaying.decisions import Recorded
from campaigns.replaying.refused import Recogniser, Refused, answer_at, instants
from campaigns.replaying.terms import Changed
from campaigns.replaying.world import Load, World, nothing_before
from ledger.commit import Verdict
from ledger.events import Actor, Event
from ledger.kept import Kept
from ledger.money import Money
from ledger.moulds import EncodedEvent

PAGE: Final = 2_000
"""Requests after which streams as they were are forgotten; they can be read again."""

_ASSUMED: Final = """\
Everybody asks for what they asked for, at the same moment and in the same order; nobody asks more \
or less often because the terms are others.
Who was turned away before the ledger decided (by the gate, by the pace, by a wrong form) is not \
in the record and does not ask here either.
The instant of a refusal is not kept; it is taken as early as its answer allows.
What was done with a coupon or packet is done with the one of the same claim; where there is none, \
it falls away.
Who would have won and did not has never used anything: that is held, or expired when its time was \
over and the sweeper had been there.
Whoever paid for the campaign pays for it under these terms as well; a budget that covered each \
coupon covers each one again unless it is given."""

ASSUMPTIONS: Final = tuple(_ASSUMED.splitlines())
"""What is taken for granted, told with each answer."""


class Figures(msgspec.Struct):
    """What came of a campaign: people, things and money in minor units."""

    winners: int = 0
    entered: int = 0
    claimed: int = 0
    used: int = 0
    """Redemptions and payments."""
    granted_minor: int = 0
    spent_minor: int = 0
    """What merchants have earned, less what they gave back."""
    returned_minor: int = 0
    """What holders gave back to the pot or to the sponsor: expired, voided, reclaimed."""
    held_minor: int = 0
    put_in_minor: int = 0
    """What the sponsor has put in and not got back."""
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    """Of the claims in the record, how many were refused and why."""


class Outcome(msgspec.Struct, kw_only=True):
    """What was, what would have been, and for whom it is not the same."""

    was: Figures
    would: Figures
    gained: list[str]
    """Pseudonyms of those who would have won and did not."""
    lost: list[str]
    """Pseudonyms of those who won and would not have."""
    more: int
    """How many who win both times would have been given more."""
    less: int
    fell_away: dict[str, int]
    """Uses and ends that would not have been: refusal, or `no_holding`, and how many."""
    steps_refused: list[str]
    """Steps of the campaign itself that would have been refused: position, topic, refusal."""
    not_imagined: dict[str, int]
    """Requests that could not be asked for again, by reason."""


class Asked(NamedTuple):
    """One request of the record: a decision, or a refusal that was kept."""

    recorded: Recorded | None
    kept: Kept | None


class _Side:
    """One of the two: what became of a campaign, event by event."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.refused: Counter[str] = Counter()
        self.given: defaultdict[str, int] = defaultdict(int)
        """Person → what was granted."""
        self._flows: defaultdict[tuple[str, str], int] = defaultdict(int)

    def count(self, events: Iterable[Event]) -> None:
        """Take events in."""
        for event in events:
            figures = self.figures
            if isinstance(event, CouponClaimed):
                figures.claimed += 1
                self.given[event.person] += event.face_minor
            elif isinstance(event, PacketClaimed):
                figures.claimed += 1
                self.given[event.person] += event.amount_minor
            elif isinstance(event, CouponEntered):
                figures.entered += 1
            elif isinstance(event, CouponRedeemed | PacketPaid):
                figures.used += 1
            for debit, credit, amount_minor, _ in postings_of(event):
                flow = credit.partition(":")[0], debit.partition(":")[0]
                self._flows[flow] += amount_minor

    def told(self) -> Figures:
        """Return the figures, with the money that the flows make."""
        came = {to: self._sum(to, incoming=True) for to in ("holder", "packet", "merchant")}
        went = {of: self._sum(of, incoming=False) for of in ("holder", "packet", "merchant")}
        back = sum(
            minor
            for (of, to), minor in self._flows.items()
            if of in {"holder", "packet", "merchant"} and to in {"campaign", "sponsor"}
        )
        return replace(
            self.figures,
            winners=len(self.given),
            granted_minor=sum(self.given.values()),
            spent_minor=came["merchant"] - went["merchant"],
            returned_minor=back,
            held_minor=came["holder"] + came["packet"] - went["holder"] - went["packet"],
            put_in_minor=self._sum("sponsor", incoming=False) - self._sum("sponsor", incoming=True),
            refused=dict(sorted(self.refused.items())),
        )

    def _sum(self, kind: str, *, incoming: bool) -> int:
        return sum(
            minor for flow, minor in self._flows.items() if flow[1 if incoming else 0] == kind
        )


class Imagining:
    """A campaign under other terms: feed it the requests of the record in order, then finish."""

    def __init__(
        self,
        campaign: UUID,
        changed: Changed,
        sources: Sources,
        recogniser: Recogniser,
        load: Load = nothing_before,
    ) -> None:
        """`load` reads streams as they were; without it they are kept in memory."""
        self._campaign = campaign
        self._changed = changed
        self._sources = sources
        self._recogniser = recogniser
        self._recogniser.learn(campaign)
        self._forgets = load is not nothing_before
        self._was, self._would = World(load), World()
        self._then, self._now = _Side(), _Side()
        self._holdings: dict[UUID, UUID] = {}
        """A coupon or packet of the record → the one of the same claim here."""
        self._of_campaign: set[UUID] = set()
        self._fell_away: Counter[str] = Counter()
        self._not_imagined: Counter[str] = Counter()
        self._steps_refused: list[str] = []
        self._fed = 0

    def feed(self, asked: Asked) -> None:
        """Imagine one request."""
        if asked.kept is not None:
            self._ask_refused(asked.kept)
        if asked.recorded is not None:
            self._ask_recorded(asked.recorded)
        self._fed += 1
        if self._forgets and self._fed % PAGE == 0:
            self._was.forget()

    def finish(self) -> Outcome:
        """Let what is overdue expire where the record has nothing overdue, and compare."""
        self._expire()
        was, would = self._then.given, self._now.given
        both = was.keys() & would.keys()
        return Outcome(
            was=self._then.told(),
            would=self._now.told(),
            gained=sorted(would.keys() - was.keys()),
            lost=sorted(was.keys() - would.keys()),
            more=sum(would[one] > was[one] for one in both),
            less=sum(would[one] < was[one] for one in both),
            fell_away=dict(sorted(self._fell_away.items())),
            steps_refused=self._steps_refused,
            not_imagined=dict(sorted(self._not_imagined.items())),
        )

    # What was refused

    def _ask_refused(self, kept: Kept) -> None:
        try:
            refused = self._recogniser.refused(kept)
        except NotAsked as error:
            self._not_imagined[error.reason] += 1
            return
        if refused.command.name != "claim":
            return
        self._then.refused[kept.code] += 1
        try:
            at = self._instant_of(refused)
            self._claim(None, refused.command, refused.call(), at)
        except NotAsked as error:
            self._not_imagined[error.reason] += 1

    def _instant_of(self, refused: Refused) -> datetime:
        """Return the earliest instant at which the record's answer can have been given."""
        began = self._was.now
        kept = refused.kept
        try:
            for at in list(instants(self._was, self._campaign, began, None)):
                if answer_at(refused, self._was, at) == (kept.code, kept.body):
                    return at
        finally:
            self._was.now = began
        return began

    # What was decided

    def _ask_recorded(self, recorded: Recorded) -> None:
        if not recorded.events:
            self._not_imagined["unreadable"] += 1
            return
        first = recorded.events[0]
        if first.originator_id != self._campaign and isinstance(first, CAMPAIGN_EVENTS):
            self._others(recorded)
        else:
            try:
                self._imagine(recorded)
            except NotAsked as error:
                self._not_imagined[error.reason] += 1
            self._then.count(recorded.events)
        self._was.apply(recorded.position, recorded.events)
        self._was.now = recorded.events[-1].at

    def _others(self, recorded: Recorded) -> None:
        """Take in what happened to a campaign that this one gives to or is given money by."""
        for event in recorded.events:
            own = event.originator_id == self._campaign
            if own:
                self._then.count([event])
            self._happen(recorded.position, [self._renumbered(event) if own else event])
            if own and isinstance(event, CampaignRolledIn):
                self._now.count([event])

    def _renumbered(self, event: Event) -> Event:
        version = self._would.version(event.originator_id) + 1
        return replace(event, originator_version=version)

    def _imagine(self, recorded: Recorded) -> None:
        first: Any = recorded.events[0]
        if isinstance(first, CampaignOpened):
            self._open(recorded.position, first)
            return
        call = _call_of(first)
        command = command_of(recorded.events, self._was, self._sources)
        match command:
            case c.DraftCampaign():
                command = with_fields(command, terms=self._changed.terms)
            case c.ProposeFunding() | c.ApproveFunding():
                command = self._funding(first, command)
            case c.ClaimCoupon():
                self._claim(first.originator_id, command, call, first.at)
                return
            case drawing.CloseIntake() | drawing.RecordDraw() | drawing.GiveDrawn() if (
                not is_lottery(self._changed.terms)
            ):
                return
            case drawing.RecordDraw():
                self._draw(recorded, command, call)
                return
            case CorrectionCommand():
                return  # it moves no money, and nobody wins or loses by it
            case c.CouponCommand() | p.PacketCommand():
                self._use(command, recorded.position, call, first.at)
                return
        self._step(recorded, command, call)

    def _open(self, position: int, recorded: CampaignOpened) -> None:
        """Open as it was opened: what it committed to follows from the key and not from terms."""
        opened = replace(recorded, originator_version=self._would.version(self._campaign) + 1)
        if not is_lottery(self._changed.terms):
            opened = replace(opened, seed_commitment=UNSET)
        self._happen(position, [opened])

    def _step(self, recorded: Recorded, command: c.Command, call: c.Call) -> None:
        at = recorded.events[0].at
        verdict = self._decide(command, call, at)
        if not verdict.events:
            topic = recorded.entries[0].topic
            self._steps_refused.append(f"{recorded.position} {topic}: {verdict.code}")
            return
        events = self._happen(recorded.position, verdict.events)
        self._now.count(events)
        for event in events:
            if isinstance(event, PacketClaimed):  # a share of a group
                self._holdings[event.originator_id] = event.originator_id
                self._of_campaign.add(event.originator_id)

    def _funding(
        self, event: FundingProposed | CampaignFunded, command: c.ProposeFunding | c.ApproveFunding
    ) -> c.Command:
        was = campaign_at(self._was, self._campaign)
        quota, budget_minor = self._changed.funded(was, event.quota, event.budget_minor)
        budget = Money(budget_minor, was.terms.currency)
        if isinstance(command, c.ApproveFunding):
            return with_fields(command, quota=quota, budget=budget)
        would: Campaign = campaign_at(self._would, self._campaign)
        return with_fields(
            command,
            quota=quota,
            budget=budget,
            from_quota=would.quota,
            from_budget_minor=would.budget_minor,
        )

    def _claim(self, recorded: UUID | None, command: c.Command, call: c.Call, at: datetime) -> None:
        """Ask for a coupon or packet; what is granted is the one of this claim from now on."""
        began = self._would.now
        verdict = self._decide(command, call, at)
        if not verdict.events:
            self._would.now = began  # refusals of one position are in no order: time stands still
            self._now.refused[verdict.code] += 1
            if recorded is not None:
                self._holdings.pop(recorded, None)
            return
        [event] = self._happen(self._was.position, verdict.events)
        self._now.count([event])
        self._of_campaign.add(event.originator_id)
        if recorded is not None:
            self._holdings[recorded] = event.originator_id

    def _use(self, command: Any, position: int, call: c.Call, at: datetime) -> None:
        """Do with the coupon or packet of a claim what was done with it."""
        field = "coupon" if isinstance(command, c.CouponCommand) else "packet"
        mine = self._holdings.get(getattr(command, field))
        if mine is None:
            self._fell_away["no_holding"] += 1
            return
        verdict = self._decide(with_fields(command, **{field: mine}), call, at)
        if verdict.events:
            self._now.count(self._happen(position, verdict.events))
        else:
            self._fell_away[verdict.code] += 1

    def _draw(self, recorded: Recorded, was: drawing.RecordDraw, call: c.Call) -> None:
        """Draw among those who would have entered; whoever wins here only has it at once."""
        would = campaign_at(self._would, self._campaign)
        places = would.draw.places if would.draw is not None else None
        entered = [one.bytes for one in self._of_campaign if self._is_entered(one)]
        drawn = hold(was.seed, entered, places or 0)
        record = with_fields(was, drawing=drawn)
        self._step(recorded, record, call)
        before = {self._holdings.get(one) for one in was.drawing.winners}
        at = recorded.events[0].at
        for coupon in drawn.winners:
            if coupon not in before:
                verdict = self._decide(drawing.GiveDrawn(self._sources.book, coupon), call, at)
                self._now.count(self._happen(recorded.position, verdict.events))

    def _is_entered(self, holding: UUID) -> bool:
        known = self._would.state(holding_read(holding))
        return isinstance(known, Coupon) and known.state == "entered"

    # How it ends

    def _expire(self) -> None:
        """Let the sweeper come once more, where it has been to all that was overdue."""
        end = self._was.now
        if any(self._overdue(self._was, one, end) for one in self._looked_up(self._holdings)):
            return
        call = c.Call(Actor("sweeper", "system"), "", lambda _: b"")
        for one in sorted(self._of_campaign, key=lambda one: one.int):
            known = self._overdue(self._would, one, end)
            if known is None:
                continue
            command: c.Command = (
                c.ExpireCoupon(self._sources.book, one)
                if isinstance(known, Coupon)
                else p.ExpirePacket(self._sources.book, one)
            )
            verdict = self._decide(command, call, end)
            self._now.count(self._happen(self._was.position, verdict.events))

    def _looked_up(self, holdings: Iterable[UUID]) -> Iterator[UUID]:
        """Yield holdings as they are in the record, many of them read at once."""
        waiting = iter(holdings)
        while page := list(islice(waiting, PAGE)):
            self._was.look_ahead(page, ())
            yield from page
            if self._forgets:
                self._was.forget()

    @staticmethod
    def _overdue(world: World, holding: UUID, end: datetime) -> Coupon | Packet | None:
        known = world.state(holding_read(holding))
        if known is None or known.state != "held" or known.valid_until > end:
            return None
        return None if isinstance(known, Packet) and not known.balance_minor else known

    # Deciding

    def _decide(self, command: c.Command, call: c.Call, at: datetime) -> Verdict:
        self._would.now = max(self._would.now, at)
        return command.request(call).decide(self._would)

    def _happen(self, position: int, events: Sequence[Event | EncodedEvent]) -> list[Event]:
        plain = [_plain(event) for event in events]
        self._would.apply(position, plain)
        return plain


def imagine(imagining: Imagining, requests: Iterable[Asked]) -> Outcome:
    """Imagine all requests in order; return what would have been."""
    for asked in requests:
        imagining.feed(asked)
    return imagining.finish()


def in_order(decisions: Iterable[Recorded], refusals: Iterator[Kept]) -> Iterator[Asked]:
    """Yield decisions and kept refusals of a book in the order in which they were decided."""
    waiting = next(refusals, None)
    for recorded in decisions:
        first = recorded.entries[0].position
        while waiting is not None and waiting.position < first:
            yield Asked(None, waiting)
            waiting = next(refusals, None)
        yield Asked(recorded, None)
    while waiting is not None:
        yield Asked(None, waiting)
        waiting = next(refusals, None)


def _call_of(event: Event) -> c.Call:
    why = event.why
    fingerprint = bytes.fromhex(why.fingerprint) if why.fingerprint else b""
    return c.Call(event.by, why.request, lambda _: b"", why.key, fingerprint)


def _plain(event: Event | EncodedEvent) -> Event:
    if isinstance(event, Event):
        return event
    return MAPPER.decode(event.TOPIC, event.state, event.originator_id, event.originator_version)
