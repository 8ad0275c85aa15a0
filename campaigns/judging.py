"""Judging stored decisions again: campaigns and coupons, event by event, by their rules alone.

It shares the folds with the decisions and none of their code: a rule that was decided wrongly is
found here. State is kept lean: a number per coupon, all else per campaign. What is found is a
value; nothing is raised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec import UNSET
from msgspec.structs import replace

from campaigns import redrawing
from campaigns.campaign import (
    CAMPAIGN_EVENTS,
    CAMPAIGN_FOLD,
    DRAW_POOL,
    PER_PERSON_MAX,
    POOL,
    BudgetReclaimed,
    Campaign,
    CampaignClosed,
    CampaignDrafted,
    CampaignDrawn,
    CampaignFunded,
    CampaignIntakeClosed,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    CampaignRolledIn,
    CampaignRolledOver,
    CampaignSplitShown,
    FundingProposed,
    Terms,
)
from campaigns.columns.names import mark_of
from campaigns.corrections.correction import CORRECTION_EVENTS
from campaigns.corrections.judging import CorrectionAudit, Stood
from campaigns.coupon import (
    CouponClaimed,
    CouponEntered,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
)
from campaigns.draws.auditing import PublicDrawAudit, problem_of_draw
from campaigns.draws.draw import DRAW_EVENTS
from campaigns.draws.entry import ENTRY_EVENTS
from campaigns.groups.judging import GroupAudit, Judge
from campaigns.packets import judging as packets
from campaigns.packets.judging import Handout, PacketAudit, Reports
from campaigns.packets.packet import PacketClaimed
from campaigns.persons.judging import GRANTS, PersonAudit
from campaigns.persons.person import PERSON_EVENTS
from campaigns.redrawing import Lottery, Wrong
from campaigns.replies import CAMPAIGN_PREFIX, COUPON_PREFIX
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.events import Event
from ledger.history import Standing
from ledger.verification import Finding

# A coupon is kept as one number: its state in 3 bits, its ordinal in 5 and, while it is redeemed,
# a mark of merchant and order above them, the instant in microseconds and the version above that.
# Numbers below 256 take no memory of their own. `kept_parts` cuts it into ones of 64 bits.
HELD, REDEEMED, EXPIRED, VOIDED, RECLAIMED, ENTERED, PACKET = range(7)
_STATE_NAMES: Final = ("held", "redeemed", "expired", "voided", "reclaimed", "entered", "a packet")
_ENDED: Final = frozenset({EXPIRED, VOIDED, RECLAIMED})
ORDINAL_BITS_FROM: Final = 3
_MARK_BITS_FROM: Final = 8
STATE_MASK: Final = 0b111
ORDINAL_MASK: Final = 0b11111
_MARK_BITS: Final = 60
_MARK_MASK: Final = 2**_MARK_BITS - 1
_INSTANT_BITS: Final = 59
_INSTANT_MASK: Final = 2**_INSTANT_BITS - 1
FIRST_INSTANT: Final = datetime.min.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_STEPS: Final[dict[type[Event], frozenset[str]]] = {
    FundingProposed: frozenset({"draft", "funded", "open", "paused"}),
    CampaignFunded: frozenset({"draft", "funded", "open", "paused"}),
    CampaignOpened: frozenset({"funded"}),
    CampaignPaused: frozenset({"open"}),
    CampaignResumed: frozenset({"paused"}),
    CampaignClosed: frozenset({"draft", "funded", "open", "paused"}),
    BudgetReclaimed: frozenset({"closed"}),
    CampaignIntakeClosed: frozenset({"open"}),
    CampaignDrawn: frozenset({"open"}),
    CampaignRolledOver: frozenset({"closed"}),
    CampaignRolledIn: frozenset({"draft", "funded", "open", "paused"}),
    CampaignSplitShown: frozenset({"open", "paused", "closed"}),
}
"""Campaign event → the states in which it may happen."""


_UUID_FREE_BITS: Final = ~(0xF << 76 | 0x3 << 62)
_UUID_VERSION_5: Final = 0x5 << 76 | 0x2 << 62


@dataclass(slots=True)
class Pot:
    """A campaign as its events made it, and what they took from it."""

    campaign: Campaign
    judged: bool
    namespace: Any  # SHA-1 over the campaign's id, from which its coupons' ids go on
    issued: int = 0
    quota: int = 0
    granted_minor: int = 0
    budget_minor: int = 0
    lottery: Lottery | None = None
    handout: Handout | None = None
    merchants: frozenset[str] | None = None
    """Those whom the campaign designates; None where it designates all."""

    @property
    def capacity(self) -> Capacity:
        """The stock and budget that the events add up to."""
        return Capacity(self.issued, self.quota, self.granted_minor, self.budget_minor)

    @property
    def left_minor(self) -> int:
        """What is in the pot."""
        return self.budget_minor - self.granted_minor

    def coupon(self, person: str, n: int) -> int:
        """Return the id of a person's n-th coupon, as the 128-bit number of a version 5 UUID."""
        name = self.namespace.copy()
        name.update(f"{person}:{n}".encode())
        number = int.from_bytes(name.digest()[:16], "big")
        return number & _UUID_FREE_BITS | _UUID_VERSION_5


@dataclass(slots=True)
class _Owed:
    """An event that must come next, because the decision is not complete without it."""

    stream: UUID
    kind: type[Event]


class KeptParts(NamedTuple):
    """What is kept of a coupon, in numbers that each fit into 64 bits."""

    step: int
    """State and ordinal, in 8 bits."""
    mark: int
    """Of the merchant and order of its redemption, 0 while it is not redeemed."""
    micros: int
    """When it was redeemed, in microseconds since the year 1."""
    version: int
    """The version of its redemption."""

    @property
    def is_redeemed(self) -> bool:
        """Whether the other parts say anything."""
        return self.step & STATE_MASK == REDEEMED


def kept_parts(kept: int) -> KeptParts:
    """Cut what is kept of a coupon into its parts."""
    redemption = kept >> _MARK_BITS_FROM
    taken = redemption >> _MARK_BITS
    return KeptParts(
        kept & 2**_MARK_BITS_FROM - 1,
        redemption & _MARK_MASK,
        taken & _INSTANT_MASK,
        taken >> _INSTANT_BITS,
    )


def kept_of(parts: KeptParts) -> int:
    """Put the parts together again."""
    taken = parts.version << _INSTANT_BITS | parts.micros
    return (taken << _MARK_BITS | parts.mark) << _MARK_BITS_FROM | parts.step


class Coupons(dict[int, int]):
    """Coupon → what is kept of it."""

    def look_up(self, coupon: int) -> int | None:
        """Return what is kept of a coupon that the events at hand need not be about."""
        return self.get(coupon)


class CampaignAudit:
    """Judges every event of a book again: feed it all of them in order, then finish."""

    def __init__(self, book: str) -> None:
        self.findings: list[Finding] = []
        self.held_minor: defaultdict[str, int] = defaultdict(int)
        self.redeemed_minor: defaultdict[str, int] = defaultdict(int)
        self.pots: dict[UUID, Pot] = {}
        self._book = Book(book)
        self.coupons = Coupons()
        self._owed: _Owed | None = None
        self._was_owed = False
        self._rolling: tuple[UUID, int] | None = None
        self._position = 0
        self._whole = True
        self._rules: dict[type[Event], Callable[[Any], None]] = {
            **dict.fromkeys(CAMPAIGN_EVENTS, self._campaign_event),
            CampaignDrafted: self._drafted,
            CouponEntered: self._entered,
            CouponClaimed: self._claimed,
            CouponRedeemed: self._redeemed,
            CouponRefunded: self._refunded,
            CouponReclaimed: self._reclaimed,
            CouponExpired: self._expired,
            CouponVoided: self._voided,
        }
        self.groups = GroupAudit(
            Judge(
                pots=self.pots,
                here=self._here,
                at=self._there,
                unknown=self._unknown,
                take=self._take_of,
                owe=self._owe,
                was_owed=lambda: self._was_owed,
            )
        )
        self._rules |= dict.fromkeys(self.groups.kinds, self._group_event)
        self.packets = PacketAudit(
            Reports(
                pots=self.pots,
                here=self._here,
                unknown=self._unknown,
                give_back=self._take_back,
                spent_minor=self.redeemed_minor,
            )
        )
        self._rules |= dict.fromkeys(self.packets.kinds, self.packets.feed)
        self._rules[PacketClaimed] = self._packet_claimed
        self.draws: dict[UUID, PublicDrawAudit] = {}
        self._rules |= dict.fromkeys((*DRAW_EVENTS, *ENTRY_EVENTS), self._public_draw_event)
        self.persons = PersonAudit(self._here)
        self._rules |= dict.fromkeys(PERSON_EVENTS, self.persons.feed)
        self.corrections = CorrectionAudit(self._here, self._unknown, self._stood)
        self._rules |= dict.fromkeys(CORRECTION_EVENTS, self.corrections.feed)

    def feed(self, position: int, event: Event) -> None:
        """Judge one event."""
        self._position = position
        self._was_owed = self._owed is not None and self._is_paid(self._owed, event)
        self._rules[type(event)](event)
        if self.persons.erased and isinstance(event, GRANTS):
            self.persons.granted(event)

    @property
    def is_settled(self) -> bool:
        """Whether nothing of the book is missing so far, and no certain event must come next."""
        return self._whole and self._owed is None

    def passed(self, position: int) -> None:
        """Go on after this position: the events up to it were found sound without being fed."""
        self._position = position
        self._was_owed = False

    def skip(self, stream: UUID) -> None:
        """Pass over an event of a stream that cannot be judged any more.

        From then on the book is not whole: what refers to an unknown thing is not reported.
        """
        self._whole = False
        self._owed = None
        self.groups.skip(stream)
        self.packets.skip(stream)
        self.persons.skip(stream)
        self.corrections.skip(stream)
        if stream in self.pots:
            self.pots[stream].judged = False

    def finish(self, standing: Standing | None) -> None:
        """Compare the capacity that the events add up to with the stored one."""
        if self._owed is not None:
            self._cut_short(self._owed, "the end of the book")
        if standing is not None and self._whole:
            self._compare_capacity(standing)

    def _compare_capacity(self, standing: Standing) -> None:
        derived = {
            (campaign, POOL): pot.capacity
            for campaign, pot in self.pots.items()
            if any(pot.capacity) or (campaign, POOL) in standing.capacity
        }
        derived |= {
            (campaign, DRAW_POOL): pot.lottery.capacity
            for campaign, pot in self.pots.items()
            if pot.lottery is not None
            and (pot.lottery.winners or (campaign, DRAW_POOL) in standing.capacity)
        }
        derived |= {
            (campaign, pool): capacity
            for campaign, draw in self.draws.items()
            for pool, capacity in draw.pools().items()
        }
        for campaign, pot in self.pots.items():
            pools = pot.handout.pools if pot.handout is not None else {}
            derived |= {(campaign, pool): capacity for pool, capacity in pools.items()}
        for pool in sorted(derived.keys() | standing.capacity.keys(), key=str):
            expected, found = derived.get(pool), standing.capacity.get(pool)
            if expected != found:
                where = f"{self._campaign_name(pool[0])} pool {pool[1]}"
                self._add("capacity_differs", where, expected, found)

    def _owe(self, stream: UUID, kind: type[Event]) -> None:
        self._owed = _Owed(stream, kind)

    def _take_of(self, campaign: UUID, issued: int, granted_minor: int) -> None:
        pot = self.pots.get(campaign)
        if pot is not None:
            self._take(pot, issued, granted_minor)

    def _public_draw_event(self, event: Any) -> None:
        pot = self.pots.get(event.campaign)
        if pot is None or pot.campaign.terms.public_draw is None:
            self._unknown("campaign_unknown", "a campaign with a public draw", event.campaign.hex)
            return
        if not pot.judged:
            return
        for wrong in self._draw_of(pot.campaign).judge(event, pot.campaign):
            self._wrong(wrong)

    def _draw_of(self, campaign: Campaign) -> PublicDrawAudit:
        if campaign.id not in self.draws:
            self.draws[campaign.id] = PublicDrawAudit(self._book)
        return self.draws[campaign.id]

    def _group_event(self, event: Event) -> None:
        self.groups.feed(self._position, event)

    # Findings

    def _add(self, code: str, where: str, expected: object, found: object) -> None:
        self.findings.append(Finding(code, where, str(expected), str(found)))

    def _here(self, code: str, expected: object, found: object) -> bool:
        """Report that a rule is broken at this position; always False, for chains of checks."""
        self._add(code, f"{self._book}:{self._position}", expected, found)
        return False

    def _there(self, position: int, code: str, expected: object, found: object) -> None:
        """Report that a rule was broken at an earlier position."""
        self._add(code, f"{self._book}:{position}", expected, found)

    def _wrong(self, wrong: Wrong | None) -> bool:
        """Report what is wrong about a lottery, unless a missing part of the book may explain it.

        Return whether nothing is, for chains of checks.
        """
        return wrong is None or self._unknown(*wrong)

    def _unknown(self, code: str, expected: object, found: object) -> bool:
        """Report a reference to nothing, unless the missing part of the book may explain it."""
        return self._here(code, expected, found) if self._whole else False

    def _campaign_name(self, campaign: UUID) -> str:
        return str(PublicId(CAMPAIGN_PREFIX, self._book, campaign))

    def _coupon_name(self, coupon: UUID) -> str:
        return str(PublicId(COUPON_PREFIX, self._book, coupon))

    def _is_paid(self, owed: _Owed, event: Event) -> bool:
        self._owed = None
        if (type(event), event.originator_id) == (owed.kind, owed.stream):
            return True
        self._cut_short(owed, event.TOPIC)
        return False

    def _cut_short(self, owed: _Owed, found: str) -> None:
        self._here("decision_cut_short", f"{owed.kind.TOPIC} of {owed.stream.hex}", found)

    # Campaigns

    def _drafted(self, event: CampaignDrafted) -> None:
        if event.originator_id in self.pots:
            self._here("illegal_step", "a campaign's other events", event.TOPIC)
            pot = self.pots[event.originator_id]
            pot.campaign = replace(pot.campaign, version=event.originator_version)
            return
        problem = _problem_of(event.terms)
        if problem is not None:
            self._here("terms_invalid", "terms that can be kept", problem)
        campaign = CAMPAIGN_FOLD.evolve(None, event)
        namespace = sha1(campaign.id.bytes, usedforsecurity=False)
        lottery = Lottery() if redrawing.is_drawn(campaign.terms) else None
        handout = packets.handout_of(campaign.terms)
        named = campaign.terms.merchants
        self.pots[campaign.id] = Pot(
            campaign,
            problem is None,
            namespace,
            lottery=lottery,
            handout=handout,
            merchants=None if named is None else frozenset(named),
        )

    def _campaign_event(self, event: Any) -> None:
        pot = self.pots.get(event.originator_id)
        if pot is None:
            self._unknown("campaign_unknown", "campaign.drafted first", event.TOPIC)
            return
        if self._is_campaign_step(pot, event):
            self._judge_campaign(pot, event)
        self._move_campaign(pot, event)

    def _is_campaign_step(self, pot: Pot, event: Any) -> bool:
        state = pot.campaign.state
        if state not in _STEPS[type(event)]:
            allowed = " or ".join(sorted(_STEPS[type(event)]))
            return self._here("illegal_step", f"{event.TOPIC} when {allowed}", f"when {state}")
        if isinstance(event, BudgetReclaimed) and not (self._was_owed or self._is_left(pot)):
            return self._here("illegal_step", f"{event.TOPIC} right after the close", "later")
        return True

    def _is_left(self, pot: Pot) -> bool:
        """Whether leftovers go to the sponsor, because the next round is closed itself."""
        packet = pot.campaign.terms.packet
        if packet is None or packet.next_round is None:
            return False
        after = self.pots.get(packet.next_round)
        return after is None or after.campaign.state == "closed"

    def _judge_campaign(self, pot: Pot, event: Any) -> None:
        match event:
            case FundingProposed():
                self._judge_proposal(pot.campaign, event)
            case CampaignFunded():
                self._judge_funding(pot.campaign, event)
                self._check_draw_is_done(pot, event)
            case BudgetReclaimed():
                expected = (pot.left_minor, pot.campaign.terms.currency, pot.campaign.sponsor)
                found = (event.amount_minor, event.currency, event.sponsor)
                if expected != found:
                    self._here("other_amount", expected, found)
            case CampaignClosed():
                self._check_draw_is_done(pot, event)
                if pot.left_minor > 0 and not _rolls_over(pot.campaign.terms):
                    self._owed = _Owed(event.originator_id, BudgetReclaimed)
            case CampaignRolledOver() | CampaignRolledIn():
                self._judge_leftovers(pot, event)
                self._check_draw_is_done(pot, event)
            case CampaignSplitShown():
                self._judge_split(pot, event)
            case _:
                self._judge_lottery(pot, event)

    def _judge_lottery(self, pot: Pot, event: Any) -> None:
        match event:
            case CampaignOpened():
                self._wrong(redrawing.opening(pot.campaign, event))
                self._wrong(packets.committing(pot, pot.quota, event))
            case CampaignIntakeClosed():
                self._wrong(redrawing.closing(pot.campaign, pot.capacity, event))
            case CampaignDrawn() if pot.lottery is not None:
                if self._wrong(redrawing.drawing(pot.campaign)):
                    self._wrong(pot.lottery.redraw(pot.campaign, event))
            case CampaignDrawn():
                self._here("illegal_step", "the draw of a lottery", event.TOPIC)
            case _:
                pass

    def _check_draw_is_done(self, pot: Pot, event: Any) -> None:
        """Stock and money stay as they are from the draw (funds: the intake's end) to its end."""
        draw, lottery = pot.campaign.draw, pot.lottery
        if draw is None or lottery is None or draw.places is None:
            return
        is_drawn = draw.seed is not None
        if lottery.to_give or not (is_drawn or isinstance(event, CampaignClosed)):
            left = f"{len(lottery.to_give)} without" if is_drawn else "not drawn"
            self._unknown("draw_incomplete", "each winner with the coupon", left)

    def _judge_proposal(self, campaign: Campaign, event: FundingProposed) -> None:
        base = (event.from_quota, event.from_budget_minor)
        if base != (campaign.quota, campaign.budget_minor):
            self._here("not_as_proposed", (campaign.quota, campaign.budget_minor), base)

    def _judge_funding(self, campaign: Campaign, event: CampaignFunded) -> None:
        proposal = campaign.proposal
        if proposal is None:
            self._here("not_as_proposed", "a proposal", "none")
            return
        if event.by.id == proposal.by:
            self._here("self_approval", "another person than the proposer", event.by.id)
            return
        expected = (
            proposal.quota,
            proposal.budget_minor,
            proposal.quota - campaign.quota,
            proposal.budget_minor - campaign.budget_minor,
            proposal.by,
            campaign.terms.currency,
            campaign.sponsor,
        )
        found = (
            event.quota,
            event.budget_minor,
            event.quota_change,
            event.budget_change_minor,
            event.proposed_by,
            event.currency,
            event.sponsor,
        )
        if expected != found:
            self._here("not_as_proposed", expected, found)

    def _move_campaign(self, pot: Pot, event: Any) -> None:
        match event:
            case CampaignFunded():
                self._fund(pot, event.quota_change, event.budget_change_minor)
            case BudgetReclaimed() | CampaignRolledOver():
                self._fund(pot, 0, -event.amount_minor)
            case CampaignRolledIn():
                self._fund(pot, 0, event.amount_minor)
            case CampaignOpened() if pot.handout is not None:
                pot.handout.is_open = True
            case _:
                pass
        pot.campaign = CAMPAIGN_FOLD.evolve(pot.campaign, event)

    def _fund(self, pot: Pot, quota: int, budget_minor: int) -> None:
        """Change what may be taken, and report when it falls below what is."""
        was_covered = pot.issued <= pot.quota, pot.granted_minor <= pot.budget_minor
        pot.quota += quota
        pot.budget_minor += budget_minor
        self._check_bounds(pot, *was_covered)

    def _take(self, pot: Pot, issued: int, granted_minor: int) -> None:
        """Change what is taken, and report when it is more than there is."""
        pot.issued += issued
        pot.granted_minor += granted_minor
        if not (0 <= pot.issued <= pot.quota and 0 <= pot.granted_minor <= pot.budget_minor):
            stock = issued > 0 or pot.issued < 0
            self._check_bounds(pot, stock, granted_minor > 0 or pot.granted_minor < 0)

    def _check_bounds(self, pot: Pot, stock: bool, money: bool) -> None:
        """Report stock or money out of bounds, where this event can have done it."""
        if not pot.judged:
            return
        if stock and not 0 <= pot.issued <= pot.quota:
            self._here("over_issued", f"0 to {pot.quota} issued", pot.issued)
        if money and not 0 <= pot.granted_minor <= pot.budget_minor:
            self._here("over_granted", f"0 to {pot.budget_minor} granted", pot.granted_minor)

    # Packets

    def _packet_claimed(self, event: PacketClaimed) -> None:
        """A share of a group packet is the group's matter, and a packet like any from then on."""
        if isinstance(event.group, UUID):
            self._group_event(event)
            self.packets.begin(event)
            return
        pot = self._begun(event, PACKET)
        if pot is None:
            return
        self.packets.begin(event)
        self._take(pot, 1, event.amount_minor)
        if not pot.judged:
            return
        if self._is_own_coupon(pot, event) and self._is_claimable(pot.campaign, event):
            self._check_packet(pot, event)

    def _check_packet(self, pot: Pot, event: PacketClaimed) -> None:
        terms = pot.campaign.terms
        expected = (terms.kind, terms.currency, terms.valid_from, terms.valid_until)
        found = ("packet", event.currency, event.valid_from, event.valid_until)
        if expected != found:
            self._here("claim_other_terms", expected, found)
        elif terms.public_draw is not None:
            self._wrong(self._draw_of(pot.campaign).claim(event, event.amount_minor))
        elif pot.handout is not None:
            self._wrong(pot.handout.give(self._position, event))
        elif (event.amount_minor, event.award) != (terms.face_minor, UNSET):
            given = (event.amount_minor, event.award)
            self._here("share_differs", (terms.face_minor, UNSET), given)

    def _judge_leftovers(self, pot: Pot, event: CampaignRolledOver | CampaignRolledIn) -> None:
        """All that is in the pot goes to the next round that is named, in two events at once."""
        if isinstance(event, CampaignRolledIn):
            expected, found = (self._rolling, (event.from_campaign, event.amount_minor))
            if not self._was_owed or expected != found:
                self._here("leftover_differs", expected, found)
            return
        packet = pot.campaign.terms.packet
        named = packet.next_round if packet is not None else None
        money = (pot.left_minor, pot.campaign.terms.currency, named)
        if money != (event.amount_minor, event.currency, event.into):
            self._here("leftover_differs", money, (event.amount_minor, event.currency, event.into))
        self._rolling = (event.originator_id, event.amount_minor)
        self._owed = _Owed(event.into, CampaignRolledIn)

    def _judge_split(self, pot: Pot, event: CampaignSplitShown) -> None:
        is_sold_out = pot.issued >= pot.quota
        if not self._wrong(packets.showing(pot.campaign, is_sold_out, event)):
            return
        if pot.handout is not None and self._whole:
            for position, wrong in pot.handout.redone(event.seed):
                self._there(position, *wrong)

    def _take_back(self, campaign: UUID, amount_minor: int, to: str | None) -> None:
        pot = self.pots[campaign]
        self._take(pot, 0, -amount_minor)
        if to == "sponsor":
            pot.budget_minor -= amount_minor

    # Coupons

    def _entered(self, event: CouponEntered) -> None:
        pot = self._begun(event, ENTERED)
        if pot is None:
            return
        if pot.lottery is not None:
            pot.lottery.enter(event.originator_id.int)
        if pot.judged and self._is_own_coupon(pot, event):
            campaign = pot.campaign
            if self._is_claimable(campaign, event) and self._wrong(
                redrawing.entry(campaign, event.at)
            ):
                self._check_terms(campaign, event)

    def _begun(self, event: CouponClaimed | CouponEntered | PacketClaimed, to: int) -> Pot | None:
        """Take a coupon's entry or claim; return its campaign when both are known."""
        coupon = event.originator_id
        kept = self.coupons.get(coupon.int)
        if kept is not None and (to == ENTERED or kept & STATE_MASK != ENTERED):
            self._here("illegal_step", f"one claim of {self._coupon_name(coupon)}", "another")
            return None
        ordinal = min(max(event.n, 0), ORDINAL_MASK)
        self.coupons[coupon.int] = ordinal << ORDINAL_BITS_FROM | to
        pot = self.pots.get(event.campaign)
        if pot is None:
            self._unknown("campaign_unknown", "a campaign that was drafted", event.campaign.hex)
        return pot

    def _claimed(self, event: CouponClaimed) -> None:
        pot = self._begun(event, HELD)
        if pot is None:
            return
        if pot.lottery is not None and event.drawn is True:
            pot.lottery.given += 1
        self._take(pot, 1, event.face_minor)
        self.held_minor[event.currency] += event.face_minor
        if pot.judged:
            self._judge_claim(pot, event)

    def _judge_claim(self, pot: Pot, event: CouponClaimed) -> None:
        campaign = pot.campaign
        if (
            self._is_own_coupon(pot, event)
            and self._is_claimable(campaign, event)
            and self._is_after_draw(pot.lottery, campaign, event)
        ):
            self._check_terms(campaign, event)

    def _is_after_draw(
        self, lottery: Lottery | None, campaign: Campaign, event: CouponClaimed
    ) -> bool:
        """Whether the draw gave the coupon to a winner, or was done with when it was claimed."""
        if campaign.terms.public_draw is not None:
            return self._wrong(self._draw_of(campaign).claim(event, event.face_minor))
        if event.drawn is True:
            coupon = event.originator_id
            if lottery is not None and lottery.gives(coupon.int):
                return True
            return self._unknown("not_a_winner", "a winner without the coupon", coupon.hex)
        if lottery is None:
            return True
        if campaign.draw is None or campaign.draw.seed is None or lottery.to_give:
            return self._unknown("draw_incomplete", "claims after the draw", "before its end")
        return True

    def _check_terms(self, campaign: Campaign, event: CouponClaimed | CouponEntered) -> None:
        expected, found = _terms_of_coupons(campaign.terms), _terms_of_claim(event)
        if expected != found:
            self._here("claim_other_terms", expected, found)

    def _is_own_coupon(
        self, pot: Pot, event: CouponClaimed | CouponEntered | PacketClaimed
    ) -> bool:
        """Whether the coupon is the person's n-th, and n is one that the person may have."""
        person, n = event.person, event.n
        limit = pot.campaign.terms.per_person_limit
        if not self._is_coupon(pot, event, n):
            return False
        if not 1 <= n <= limit:
            return self._here("person_limit", f"1 to {limit}", n)
        if n > 1 and pot.coupon(person, n - 1) not in self.coupons:
            return self._unknown("ordinal_skipped", f"number {n - 1} first", n)
        return True

    def _is_coupon(self, pot: Pot, event: Any, n: int) -> bool:
        """Whether the event's stream is its person's n-th coupon of its campaign."""
        coupon = pot.coupon(event.person, n)
        if event.originator_id.int == coupon:
            return True
        return self._here("coupon_id", f"{coupon:032x}", event.originator_id.hex)

    def _is_claimable(
        self, campaign: Campaign, event: CouponClaimed | CouponEntered | PacketClaimed
    ) -> bool:
        """Whether the campaign took claims at that position."""
        terms = campaign.terms
        if campaign.state != "open":
            return self._here("claim_not_open", "an open campaign", campaign.state)
        is_drawn = isinstance(event, CouponClaimed) and event.drawn is True
        if not (is_drawn or terms.claim_from <= event.at < terms.claim_until):
            window = f"{terms.claim_from} up to {terms.claim_until}"
            return self._here("claim_outside_window", window, event.at)
        if event.campaign_version != campaign.version:
            return self._here("claim_other_version", campaign.version, event.campaign_version)
        return True

    def _coupon_step(self, event: Any, allowed: int, to: int, mark: int = 0) -> Pot | None:
        """Take a coupon's step; return its campaign when the step is one that may be judged."""
        coupon = event.originator_id
        kept = self.coupons.get(coupon.int)
        if kept is None:
            self._unknown("coupon_unknown", "coupon.claimed first", event.TOPIC)
            return None
        state = kept & STATE_MASK
        n = kept >> ORDINAL_BITS_FROM & ORDINAL_MASK
        self.coupons[coupon.int] = mark << _MARK_BITS_FROM | n << ORDINAL_BITS_FROM | to
        pot = self.pots.get(event.campaign)
        if pot is None:
            self._unknown("campaign_unknown", "a campaign that was drafted", event.campaign.hex)
            return None
        if not self._is_coupon(pot, event, n):
            return None
        if state == allowed:
            return pot if pot.judged else None
        if state in _ENDED:
            code = "after_end"
        else:
            code = "redeemed_twice" if state == to == REDEEMED else "illegal_step"
        expected = f"{event.TOPIC} when {_STATE_NAMES[allowed]}"
        self._here(code, expected, f"when {_STATE_NAMES[state]}")
        return None

    def _redeemed(self, event: CouponRedeemed) -> None:
        pot = self._coupon_step(event, HELD, REDEEMED, _mark_of_redemption(event))
        if pot is None:
            return
        terms = pot.campaign.terms
        self.held_minor[terms.currency] -= terms.face_minor
        self.redeemed_minor[terms.currency] += terms.face_minor
        if not terms.valid_from <= event.at < terms.valid_until:
            self._here("outside_validity", _validity(terms), event.at)
        elif pot.merchants is not None and event.merchant not in pot.merchants:
            named = ", ".join(terms.merchants or ())
            self._here("merchant_not_designated", named, event.merchant)
        elif event.order_total_minor < terms.threshold_minor:
            self._here("below_threshold", terms.threshold_minor, event.order_total_minor)
        else:
            self._check_amount(terms, event.discount_minor, event.currency)

    def _refunded(self, event: CouponRefunded) -> None:
        redemption = self.coupons.get(event.originator_id.int, 0) >> _MARK_BITS_FROM & _MARK_MASK
        pot = self._coupon_step(event, REDEEMED, HELD)
        if pot is None:
            return
        terms = pot.campaign.terms
        self.held_minor[terms.currency] += terms.face_minor
        self.redeemed_minor[terms.currency] -= terms.face_minor
        if event.at >= terms.valid_until:
            self._owed = _Owed(event.originator_id, CouponReclaimed)
        if redemption != _mark(event):
            expected = "the merchant and order of the redemption"
            self._here("other_redemption", expected, f"{event.merchant}, {event.order}")
        else:
            self._check_amount(terms, event.amount_minor, event.currency)

    def _stood(self, event: Any) -> Stood | None:
        """Return what a coupon or packet tells of the redemption or payment that is corrected."""
        if isinstance(event.payment, UUID):
            return self.packets.stood(event)
        kept = self.coupons.look_up(event.holding.int)
        pot = self.pots.get(event.campaign)
        if kept is None or pot is None or kept & STATE_MASK != REDEEMED:
            return None
        n = kept >> ORDINAL_BITS_FROM & ORDINAL_MASK
        parts = kept_parts(kept)
        is_its = pot.coupon(event.person, n) == event.holding.int
        if not is_its or parts.mark != _mark(event):
            return None
        at = FIRST_INSTANT + parts.micros * _MICROSECOND
        return Stood(parts.version, at, pot.campaign.terms.valid_from)

    def _reclaimed(self, event: CouponReclaimed) -> None:
        judged = self._end(event, RECLAIMED)
        if judged is not None and not self._was_owed:
            self._here("illegal_step", f"{event.TOPIC} right after a late refund", "elsewhere")

    def _expired(self, event: CouponExpired) -> None:
        pot = self._end(event, EXPIRED)
        if pot is not None and event.valid_until != pot.campaign.terms.valid_until:
            self._here("claim_other_terms", pot.campaign.terms.valid_until, event.valid_until)

    def _voided(self, event: CouponVoided) -> None:
        self._end(event, VOIDED)

    def _end(self, event: CouponReclaimed | CouponExpired | CouponVoided, to: int) -> Pot | None:
        """End a coupon: its money is granted no more, its piece is free again if so agreed."""
        judged = self._coupon_step(event, HELD, to)
        pot = self.pots.get(event.campaign)
        if pot is not None:
            self._give_back(pot, event)
        if judged is None:
            return None
        terms = judged.campaign.terms
        self.held_minor[terms.currency] -= terms.face_minor
        ended_inside = to == VOIDED
        if (event.at < terms.valid_until) != ended_inside:
            expected = "inside" if ended_inside else "after"
            self._here("outside_validity", f"{expected} {_validity(terms)}", event.at)
        elif (event.to, event.sponsor) != (judged.campaign.returns_to, judged.campaign.sponsor):
            expected_to = (judged.campaign.returns_to, judged.campaign.sponsor)
            self._here("other_destination", expected_to, (event.to, event.sponsor))
        else:
            self._check_amount(terms, event.amount_minor, event.currency)
        return judged

    def _give_back(self, pot: Pot, event: CouponReclaimed | CouponExpired | CouponVoided) -> None:
        self._take(pot, -1 if pot.campaign.terms.restock else 0, -event.amount_minor)
        if event.to == "sponsor":
            pot.budget_minor -= event.amount_minor

    def _check_amount(self, terms: Terms, amount_minor: int, currency: str) -> None:
        if (amount_minor, currency) != (terms.face_minor, terms.currency):
            expected = f"{terms.face_minor} {terms.currency}"
            self._here("other_amount", expected, f"{amount_minor} {currency}")


def _mark(event: Any) -> int:
    return mark_of(event.merchant, event.order)


def _mark_of_redemption(event: CouponRedeemed) -> int:
    """A number for a redemption: its mark, its instant and its version, from the lowest bits on."""
    micros = (event.at - FIRST_INSTANT) // _MICROSECOND
    return (event.originator_version << _INSTANT_BITS | micros) << _MARK_BITS | _mark(event)


def _terms_of_claim(event: CouponClaimed | CouponEntered) -> tuple[Any, ...]:
    return (
        event.face_minor,
        event.threshold_minor,
        event.currency,
        event.valid_from,
        event.valid_until,
    )


def _terms_of_coupons(terms: Terms) -> tuple[Any, ...]:
    return (
        terms.face_minor,
        terms.threshold_minor,
        terms.currency,
        terms.valid_from,
        terms.valid_until,
    )


def _validity(terms: Terms) -> str:
    return f"{terms.valid_from} up to {terms.valid_until}"


def _problem_of(terms: Terms) -> str | None:
    """Return what is wrong with terms that nobody could keep; such a campaign is not judged."""
    instants: tuple[datetime, ...] = (
        terms.claim_from,
        terms.claim_until,
        terms.valid_from,
        terms.valid_until,
    )
    if any(instant.utcoffset() is None for instant in instants):
        return "an instant without offset"
    if terms.claim_from >= terms.claim_until or terms.valid_from >= terms.valid_until:
        return "a window that ends before it begins"
    if not 1 <= terms.per_person_limit <= PER_PERSON_MAX:
        return f"per_person_limit {terms.per_person_limit}"
    if not 0 < terms.face_minor <= terms.threshold_minor:
        return f"face {terms.face_minor}, threshold {terms.threshold_minor}"
    if terms.kind == "fixed" and terms.threshold_minor != terms.face_minor:
        return f"fixed, but with threshold {terms.threshold_minor}"
    return packets.problem_of(terms) or problem_of_draw(terms)


def _rolls_over(terms: Terms) -> bool:
    return terms.packet is not None and terms.packet.leftover == "next_round"
