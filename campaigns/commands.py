"""Commands: what people ask for, and the pure decision on each.

A command becomes a request for the writer: what it reads, and how it is decided at its place in
the order. A decision returns events and a reply, or raises the first `Refusal` of its row in
`campaigns.refusals.PRECEDENCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID, uuid5

import msgspec
from msgspec.structs import force_setattr, replace

from campaigns.campaign import (
    CAMPAIGN_FOLD,
    DRAW_POOL,
    POOL,
    BudgetReclaimed,
    Campaign,
    CampaignClosed,
    CampaignDrafted,
    CampaignFunded,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    Draw,
    FundingProposed,
    Terms,
    why_closed,
)
from campaigns.coupon import (
    COUPON_FOLD,
    Coupon,
    CouponClaimed,
    CouponEntered,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
    coupon_id,
)
from campaigns.draws.opening import open_draw, require_funds, require_kept
from campaigns.granting import grant, redeemed_again, told_again
from campaigns.holding import holding_read
from campaigns.intake import (
    draws_at,
    is_lottery,
    is_over,
    phase_of,
    seed_of,
    taken_from,
)
from campaigns.merchants import is_designated
from campaigns.packets.granting import grant_packet
from campaigns.packets.packet import PacketClaimed
from campaigns.packets.sharing import is_seeded, next_packet, seeded_pools
from campaigns.packets.terms import PacketTerms
from campaigns.refusals import Refusal, RenderRefusal
from campaigns.replies import (
    CAMPAIGN_PREFIX,
    COUPON_PREFIX,
    EndingReply,
    EntryReply,
    RefundReply,
    campaign_reply,
    coupon_reply,
    encode,
    holding_name,
    redemption_reply,
)
from campaigns.seeds import DrawKey, commitment_of
from campaigns.splitting import split_seed
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.commit import Further, Read, Request, Retell, Verdict, View
from ledger.events import Actor, Event, Why
from ledger.money import Money
from ledger.moulds import EncodedEvent

CAMPAIGN_NAMESPACE: Final = UUID("5b1c7a52-6c0f-5a53-8f6e-3f2d5f0c9a11")

Changes = Sequence[tuple[tuple[UUID, str], Capacity]]


class Call(msgspec.Struct, frozen=True, gc=False):
    """Who calls and how. `at` is the instant in simulated time, else None: the database's clock.

    `mark` is `ledger.appending.request_id` of scope and key, where the caller has it already.
    """

    by: Actor
    request_id: str
    render: RenderRefusal
    key: str | None = None
    fingerprint: bytes = b""
    at: datetime | None = None
    mark: bytes | None = None

    @property
    def scope(self) -> str:
        """The caller's own space of idempotency keys."""
        return f"{self.by.role}:{self.by.id}"


class Header(NamedTuple):
    """What every event of one decision carries."""

    at: datetime
    by: Actor
    why: Why

    def of(self, stream: UUID, version: int) -> dict[str, Any]:
        """The header fields of an event that is `version` of `stream`."""
        return {
            "originator_id": stream,
            "originator_version": version,
            "at": self.at,
            "by": self.by,
            "why": self.why,
        }


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What happened (`code`), what the caller is told, and what is written.

    `own_record` says that the one event is the record of its request, see `Command.retell`.
    """

    code: str
    reply: Any
    events: Sequence[Event | EncodedEvent]
    capacity: Changes = ()
    own_record: bool = False


class Command:
    """Something that a caller asks the book to do."""

    __slots__ = ()

    name: ClassVar[str]

    def request(self, call: Call) -> Request:
        """Return the request for the writer of the command's book."""

        def decide(view: View) -> Verdict:
            try:
                decision = self.decide(view, header_of(view, call))
            except Refusal as refusal:
                return Verdict(refusal.code, call.render(refusal))
            return Verdict(
                decision.code,
                encode(decision.reply),
                decision.events,
                decision.capacity,
                decision.own_record and call.key is not None,
            )

        return Request(
            decide,
            self.reads(),
            self.pools(),
            call.scope,
            call.key,
            call.fingerprint,
            call.at,
            self.further,
            self.retell,
            call.mark,
        )

    def reads(self) -> tuple[Read[Any], ...]:
        """The streams that are surely looked at, so that a batch reads them at once."""
        raise NotImplementedError

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The pools that are surely looked at."""
        return ()

    further: Callable[[View], Further] | None = None
    """What else is looked at, which the streams that were read tell."""

    retell: Retell | None = None
    """Tells an event that is its own record again, where the command writes such events."""

    def decide(self, view: View, header: Header) -> Decision:
        """Decide, or raise `Refusal`. Pure: it looks at nothing but its arguments."""
        raise NotImplementedError


def header_of(view: View, call: Call) -> Header:
    """Return what the events of this call carry."""
    fingerprint = call.fingerprint.hex() if call.key is not None else None
    return Header(view.now, call.by, Why(call.request_id, call.key, fingerprint))


def campaign_id(book: Book, by: Actor, key: str) -> UUID:
    """Return the id of the campaign that a caller drafts with an idempotency key."""
    return uuid5(CAMPAIGN_NAMESPACE, f"{book}:{by.role}:{by.id}:{key}")


# Campaigns


@dataclass(frozen=True, slots=True)
class DraftCampaign(Command):
    """Write a campaign down. `campaign` comes from `campaign_id`, so that a retry is the same."""

    name = "draft"

    book: Book
    campaign: UUID
    title: str
    sponsor: str
    terms: Terms

    def reads(self) -> tuple[Read[Any], ...]:
        """The new campaign's stream, which must be empty."""
        return (campaign_read(self.campaign),)

    def decide(self, view: View, header: Header) -> Decision:
        """A campaign is drafted once for each idempotency key; the key's row answers a retry."""
        self._require_fit_next_round(view)
        event = CampaignDrafted(
            **header.of(self.campaign, view.version(self.campaign) + 1),
            name=self.title,
            sponsor=self.sponsor,
            terms=self.terms,
        )
        return _campaign_decision(self.book, "drafted", None, [event])

    def _require_fit_next_round(self, view: View) -> None:
        """Leftovers go to another campaign of the sponsor that can do something with them."""
        packet = self.terms.packet
        if packet is None or packet.next_round is None:
            return
        after = view.state(campaign_read(packet.next_round))
        if (
            after is None
            or after.id == self.campaign
            or after.state == "closed"
            or after.sponsor != self.sponsor
            or after.terms.currency != self.terms.currency
            or is_seeded(after.terms)
        ):
            raise Refusal("next_round_unfit")


@dataclass(frozen=True, slots=True)
class CampaignCommand(Command):
    """A command on an existing campaign."""

    book: Book
    campaign: UUID

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign."""
        return (campaign_read(self.campaign),)

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """Its stock and budget."""
        return ((self.campaign, POOL),)


@dataclass(frozen=True, slots=True)
class ProposeFunding(CampaignCommand):
    """Ask for a quota and budget (targets); `from_…` are the values that the caller saw."""

    name = "propose_funding"

    quota: int
    budget: Money
    from_quota: int
    from_budget_minor: int

    def decide(self, view: View, header: Header) -> Decision:
        """Targets may not fall below what is issued and granted already."""
        campaign = known_campaign(view, self.campaign)
        require_state(campaign, "draft", "funded", "open", "paused")
        require_unit(campaign, self.budget)
        if campaign.terms.packet is not None:
            _require_promised(campaign, campaign.terms.packet, self.quota, self.budget.amount_minor)
        if (self.from_quota, self.from_budget_minor) != (campaign.quota, campaign.budget_minor):
            raise Refusal("funding_stale", quota=campaign.quota, budget_minor=campaign.budget_minor)
        _require_covered(view, self.campaign, self.quota, self.budget.amount_minor)
        event = FundingProposed(
            **header.of(campaign.id, campaign.version + 1),
            quota=self.quota,
            budget_minor=self.budget.amount_minor,
            from_quota=self.from_quota,
            from_budget_minor=self.from_budget_minor,
        )
        return _campaign_decision(self.book, "funding_proposed", campaign, [event])


@dataclass(frozen=True, slots=True)
class ApproveFunding(CampaignCommand):
    """Approve the pending proposal, named by its values; only somebody else may."""

    name = "approve_funding"

    quota: int
    budget: Money

    def decide(self, view: View, header: Header) -> Decision:
        """The sponsor's money moves into the pot, or out of it when the target is lower."""
        campaign = known_campaign(view, self.campaign)
        require_state(campaign, "draft", "funded", "open", "paused")
        if campaign.draw is not None and campaign.draw.places is not None:
            _require_drawn(view, campaign)
        proposal = campaign.proposal
        if proposal is None:
            raise Refusal("no_funding_proposed")
        if proposal.by == header.by.id:
            raise Refusal("self_approval")
        require_unit(campaign, self.budget)
        if (self.quota, self.budget.amount_minor) != (proposal.quota, proposal.budget_minor):
            raise Refusal(
                "proposal_changed", quota=proposal.quota, budget_minor=proposal.budget_minor
            )
        require_funds(campaign, proposal.quota, proposal.budget_minor)
        _require_covered(view, self.campaign, self.quota, self.budget.amount_minor)
        event = CampaignFunded(
            **header.of(campaign.id, campaign.version + 1),
            quota=proposal.quota,
            budget_minor=proposal.budget_minor,
            quota_change=proposal.quota - campaign.quota,
            budget_change_minor=proposal.budget_minor - campaign.budget_minor,
            currency=campaign.terms.currency,
            sponsor=campaign.sponsor,
            proposed_by=proposal.by,
        )
        change = Capacity(quota=event.quota_change, budget_minor=event.budget_change_minor)
        return _campaign_decision(
            self.book, "funded", campaign, [event], [((self.campaign, POOL), change)]
        )


@dataclass(frozen=True, slots=True)
class OpenCampaign(CampaignCommand):
    """Let people claim, within the claim window. Where there is a lot, the draw key is needed."""

    name = "open"

    draw_key: DrawKey | None = field(default=None, repr=False)
    """Gives the key; asked only where there is a seed to commit to."""

    def decide(self, view: View, header: Header) -> Decision:
        """Only a funded campaign opens."""
        campaign = known_campaign(view, self.campaign)
        if campaign.state == "draft":
            raise Refusal("unfunded")
        require_state(campaign, "funded")
        own = header.of(campaign.id, campaign.version + 1)
        if is_lottery(campaign.terms):
            assert self.draw_key is not None, "a lottery opens with the ledger's draw key"
            seed = seed_of(self.draw_key(), campaign.id, campaign.version + 1)
            own["seed_commitment"] = commitment_of(seed)
        pools: Changes = ()
        packet = campaign.terms.packet
        if packet is not None and packet.is_seeded:
            assert (campaign.quota, campaign.budget_minor) == packet.promised, "funded to the fen"
            assert self.draw_key is not None, "a split opens with the ledger's draw key"
            seed = split_seed(self.draw_key(), campaign.id, campaign.version + 1)
            own["split_commitment"] = commitment_of(seed)
            pools = list(seeded_pools(campaign.id, packet))
        drawn = open_draw(campaign, self.draw_key, view, header.of)
        done = _campaign_decision(self.book, "opened", campaign, [CampaignOpened(**own)], pools)
        return replace(done, events=[*done.events, *drawn])


@dataclass(frozen=True, slots=True)
class PauseCampaign(CampaignCommand):
    """Refuse claims until resumed."""

    name = "pause"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """Only an open campaign pauses."""
        campaign = known_campaign(view, self.campaign)
        require_state(campaign, "open")
        event = CampaignPaused(**header.of(campaign.id, campaign.version + 1), reason=self.reason)
        return _campaign_decision(self.book, "paused", campaign, [event])


@dataclass(frozen=True, slots=True)
class ResumeCampaign(CampaignCommand):
    """Take claims again."""

    name = "resume"

    def decide(self, view: View, header: Header) -> Decision:
        """Only a paused campaign resumes."""
        campaign = known_campaign(view, self.campaign)
        require_state(campaign, "paused")
        event = CampaignResumed(**header.of(campaign.id, campaign.version + 1))
        return _campaign_decision(self.book, "resumed", campaign, [event])


@dataclass(frozen=True, slots=True)
class CloseCampaign(CampaignCommand):
    """End the claims for good and give the rest of the pot back to the sponsor.

    Where packets' leftovers go to a next round, the pot waits for `campaigns.packets.rolling`.
    """

    name = "close"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """Held coupons stay usable; their money is reserved and does not go back yet."""
        campaign = known_campaign(view, self.campaign)
        require_state(campaign, "draft", "funded", "open", "paused")
        if campaign.draw is not None and campaign.draw.seed is not None:
            _require_drawn(view, campaign)
        require_kept(view, campaign)
        capacity = view.capacity((self.campaign, POOL))
        left = capacity.budget_minor - capacity.granted_minor
        if campaign.terms.packet is not None and campaign.terms.packet.leftover == "next_round":
            left = 0
        events: list[Event] = [
            CampaignClosed(**header.of(campaign.id, campaign.version + 1), reason=self.reason)
        ]
        if left:
            events.append(
                BudgetReclaimed(
                    **header.of(campaign.id, campaign.version + 2),
                    amount_minor=left,
                    currency=campaign.terms.currency,
                    sponsor=campaign.sponsor,
                )
            )
        change = Capacity(budget_minor=-left)
        return _campaign_decision(
            self.book, "closed", campaign, events, [((self.campaign, POOL), change)]
        )


# Coupons


class ClaimCoupon(Command, msgspec.Struct, frozen=True, gc=False):
    """Take a coupon or a packet of a campaign, whichever it gives, for a person."""

    name = "claim"

    book: Book
    campaign: UUID
    person: str
    draw_key: DrawKey | None = None
    """Gives the key; asked only where a packet's amount is drawn."""

    first: UUID = UUID(int=0)
    """The person's first coupon, which nearly every claim is about; made of the rest."""

    def __post_init__(self) -> None:
        force_setattr(self, "first", coupon_id(self.campaign, self.person, 1))

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign and the person's first coupon; a further one is read when that is taken."""
        return (campaign_read(self.campaign), holding_read(self.first))

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The campaign's stock and budget."""
        return ((self.campaign, POOL),)

    def decide(self, view: View, header: Header) -> Decision:
        """One coupon a claim, up to the person's limit, the stock and the budget."""
        campaign = known_campaign(view, self.campaign)
        terms = campaign.terms
        require_open(campaign, view.now)
        if terms.public_draw is not None:
            raise Refusal("draw_only", draws_at=terms.public_draw.draw_at)
        if campaign.draw is not None:
            entry = self._entry(view, header, campaign, campaign.draw)
            if entry is not None:
                return entry
        n, coupon, version = self._free_coupon(view, campaign)
        capacity = view.capacity((self.campaign, POOL))
        if capacity.issued >= capacity.quota:
            raise Refusal("sold_out", quota=capacity.quota)
        if capacity.granted_minor + terms.face_minor > capacity.budget_minor:
            raise Refusal("budget_exhausted", budget_minor=capacity.budget_minor)
        if terms.packet is not None:
            assert version == 1, "nobody enters for a packet"
            return self._packet(view, campaign, header, coupon, n)
        taken = (((self.campaign, POOL), Capacity(1, 0, terms.face_minor, 0)),)
        if version == 1:
            event, reply = grant(self.book, campaign, coupon, n, self.person, *header)
            return Decision("claimed", reply, (event,), taken, own_record=True)
        return self._after_entry(view, campaign, header.of(coupon, version), taken)

    def _after_entry(
        self, view: View, campaign: Campaign, own: dict[str, Any], taken: Changes
    ) -> Decision:
        """Who entered and was not drawn claims later; the reply tells of the entry as well."""
        event = CouponClaimed(**own, **taken_from(campaign, self.person))
        entry = _coupon_at(view, event.originator_id)
        reply = coupon_reply(self.book, COUPON_FOLD.evolve(entry, event))
        return Decision("claimed", reply, [event], taken)

    def _packet(
        self, view: View, campaign: Campaign, header: Header, packet: UUID, n: int
    ) -> Decision:
        share, taken = next_packet(view, campaign, self.draw_key)
        event, reply = grant_packet(self.book, campaign, packet, n, self.person, share, *header)
        own = ((campaign.id, POOL), Capacity(1, 0, share.amount_minor, 0))
        return Decision("claimed", reply, (event,), (own, *taken), own_record=True)

    def retell(self, event: Event) -> tuple[str, bytes] | None:
        """Tell a claim again from its event."""
        if not isinstance(event, CouponClaimed | PacketClaimed):
            return None
        return told_again(self.book, event)

    def _entry(self, view: View, header: Header, campaign: Campaign, draw: Draw) -> Decision | None:
        """While a lottery is on, a claim is an entry; it takes no stock and moves no money."""
        given = Capacity() if draw.seed is None else view.capacity((campaign.id, DRAW_POOL))
        phase = phase_of(campaign, draw, given, view.now)
        known = _coupon_at(view, self.first)
        if phase == "over" or (known is not None and known.state != "entered"):
            return None
        at = draws_at(campaign.terms)
        if phase == "pending":
            raise Refusal("draw_pending", draws_at=at)
        coupon = PublicId(COUPON_PREFIX, self.book, self.first)
        if known is not None:
            raise Refusal("already_entered", coupon=str(coupon), draws_at=at)
        event = CouponEntered(**header.of(self.first, 1), **taken_from(campaign, self.person))
        of_campaign = str(PublicId(CAMPAIGN_PREFIX, self.book, campaign.id))
        reply = EntryReply(str(coupon), of_campaign, "entered", event.at, at)
        return Decision("entered", reply, [event])

    def _free_coupon(self, view: View, campaign: Campaign) -> tuple[int, UUID, int]:
        """Return the next coupon that the person may have; who was not drawn may have theirs."""
        limit = campaign.terms.per_person_limit
        for n in range(1, limit + 1):
            coupon = self.first if n == 1 else coupon_id(self.campaign, self.person, n)
            version = view.version(coupon)
            if version == 0 or (version == 1 and self._is_entry(view, campaign, coupon)):
                return n, coupon, version + 1
        if limit == 1:
            kind, name = holding_name(self.book, campaign.terms, self.first)
            raise Refusal("already_claimed", **{kind: name})
        raise Refusal("limit_reached", per_person_limit=limit)

    def _is_entry(self, view: View, campaign: Campaign, coupon: UUID) -> bool:
        """Whether the coupon is one that was only entered for, of a lottery that is over."""
        if campaign.draw is None:
            return False
        known = _coupon_at(view, coupon)
        return known is not None and known.state == "entered"


@dataclass(frozen=True, slots=True)
class CouponCommand(Command):
    """A command on an existing coupon."""

    gives_back: ClassVar[bool] = True
    """Whether it can give a coupon back to its pool."""

    book: Book
    coupon: UUID

    def reads(self) -> tuple[Read[Any], ...]:
        """The coupon."""
        return (holding_read(self.coupon),)

    def further(self, view: View) -> Further:
        """Its campaign, as the coupon says, and the pool that what ends gives back to."""
        coupon = _coupon_at(view, self.coupon)
        if coupon is None:
            return Further()
        pools = ((coupon.campaign, POOL),) if self.gives_back else ()
        return Further((campaign_read(coupon.campaign),), pools)

    def _known(self, view: View) -> tuple[Coupon, Campaign]:
        coupon = _coupon_at(view, self.coupon)
        if coupon is None:
            raise Refusal("not_found")
        return coupon, known_campaign(view, coupon.campaign)

    def _ended(self, coupon: Coupon, campaign: Campaign, event: Event, state: str) -> Decision:
        reply = EndingReply(
            **self._names(coupon),
            state=state,
            returned=Money(coupon.face_minor, coupon.currency),
            returned_to=campaign.returns_to,
            ended_at=event.at,
        )
        return Decision(state, reply, [event], _return_to_capacity(coupon, campaign))

    def _names(self, coupon: Coupon) -> dict[str, str]:
        return {
            "coupon": str(PublicId(COUPON_PREFIX, self.book, coupon.id)),
            "campaign": str(PublicId(CAMPAIGN_PREFIX, self.book, coupon.campaign)),
        }


@dataclass(frozen=True, slots=True)
class RedeemCoupon(CouponCommand):
    """Use a coupon for an order at a merchant."""

    name = "redeem"
    gives_back = False

    merchant: str
    shop: str | None
    order: str
    order_total: Money

    def decide(self, view: View, header: Header) -> Decision:
        """The whole face value comes off, so an order below it is below the threshold."""
        coupon, campaign = self._known(view)
        self._require_usable(coupon, campaign, view.now)
        event = CouponRedeemed(
            **header.of(coupon.id, coupon.version + 1),
            campaign=coupon.campaign,
            person=coupon.person,
            merchant=self.merchant,
            shop=self.shop,
            order=self.order,
            order_total_minor=self.order_total.amount_minor,
            discount_minor=coupon.face_minor,
            currency=coupon.currency,
        )
        return Decision("redeemed", redemption_reply(self.book, event), (event,), own_record=True)

    def retell(self, event: Event) -> tuple[str, bytes] | None:
        """Tell a redemption again from its event."""
        return redeemed_again(self.book, event) if isinstance(event, CouponRedeemed) else None

    def _require_usable(self, coupon: Coupon, campaign: Campaign, now: datetime) -> None:
        if coupon.state == "entered":
            raise Refusal("not_drawn")
        _require_not_ended(coupon)
        if coupon.state == "redeemed":
            raise Refusal("already_redeemed")
        if coupon.state == "expired" or now >= coupon.valid_until:
            raise Refusal("coupon_expired", valid_until=coupon.valid_until)
        if now < coupon.valid_from:
            raise Refusal("not_yet_valid", valid_from=coupon.valid_from)
        if not is_designated(campaign.terms.merchants, self.merchant):
            raise Refusal("merchant_not_designated", merchant=self.merchant)
        if self.order_total.currency != coupon.currency:
            raise Refusal("unit_mismatch", currency=coupon.currency)
        if self.order_total.amount_minor < coupon.threshold_minor:
            raise Refusal("below_threshold", threshold_minor=coupon.threshold_minor)


@dataclass(frozen=True, slots=True)
class RefundCoupon(CouponCommand):
    """Take a redemption back because the order was returned."""

    name = "refund"

    merchant: str
    order: str
    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """Inside its validity the coupon is held again; afterwards it is reclaimed at once."""
        coupon, campaign = self._known(view)
        if coupon.merchant is not None and coupon.merchant != self.merchant:
            raise Refusal("not_found")
        if coupon.state != "redeemed":
            raise Refusal("not_redeemed", state=coupon.state)
        if coupon.order != self.order:
            raise Refusal("order_mismatch")
        events: list[Event] = [
            CouponRefunded(
                **header.of(coupon.id, coupon.version + 1),
                campaign=coupon.campaign,
                person=coupon.person,
                merchant=self.merchant,
                order=self.order,
                amount_minor=coupon.face_minor,
                currency=coupon.currency,
                reason=self.reason,
            )
        ]
        changes: Changes = ()
        if view.now >= coupon.valid_until:
            events.append(
                CouponReclaimed(
                    **header.of(coupon.id, coupon.version + 2),
                    **_returned_money(coupon, campaign),
                )
            )
            changes = _return_to_capacity(coupon, campaign)
        reply = RefundReply(
            **self._names(coupon),
            state="reclaimed" if changes else "held",
            merchant=self.merchant,
            order=self.order,
            refunded=Money(coupon.face_minor, coupon.currency),
            refunded_at=view.now,
        )
        return Decision("refunded", reply, events, changes)


@dataclass(frozen=True, slots=True)
class VoidCoupon(CouponCommand):
    """End a held coupon for a reason; a redeemed one cannot be voided."""

    name = "void"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """The money goes back to the pot, or to the sponsor once the campaign is closed."""
        coupon, campaign = self._known(view)
        if coupon.state == "entered":
            raise Refusal("not_drawn")
        if coupon.state == "redeemed":
            raise Refusal("already_redeemed")
        if coupon.state == "voided":
            raise Refusal("coupon_voided")
        if coupon.state == "expired" or (coupon.state == "held" and view.now >= coupon.valid_until):
            raise Refusal("coupon_expired", valid_until=coupon.valid_until)
        _require_not_ended(coupon)
        event = CouponVoided(
            **header.of(coupon.id, coupon.version + 1),
            **_returned_money(coupon, campaign),
            reason=self.reason,
        )
        return self._ended(coupon, campaign, event, "voided")


@dataclass(frozen=True, slots=True)
class ExpireCoupon(CouponCommand):
    """Record that a held coupon's validity has ended (the sweeper's command)."""

    name = "expire"

    def decide(self, view: View, header: Header) -> Decision:
        """Expiry is judged again here: the sweeper's list is a hint."""
        coupon, campaign = self._known(view)
        if coupon.state != "held":
            raise Refusal("not_held", state=coupon.state)
        if view.now < coupon.valid_until:
            raise Refusal("still_valid", valid_until=coupon.valid_until)
        event = CouponExpired(
            **header.of(coupon.id, coupon.version + 1),
            **_returned_money(coupon, campaign),
            valid_until=coupon.valid_until,
        )
        return self._ended(coupon, campaign, event, "expired")


# What decisions share


def campaign_read(campaign: UUID) -> Read[Campaign]:
    """Return how a campaign is read: what it folds to is kept for the next command."""
    return Read(campaign, CAMPAIGN_FOLD, True)


def _coupon_at(view: View, coupon: UUID) -> Coupon | None:
    held = view.state(holding_read(coupon))
    return held if isinstance(held, Coupon) else None


def known_campaign(view: View, campaign_uuid: UUID) -> Campaign:
    """Return a campaign as it is; refuse where there is none."""
    campaign = view.state(campaign_read(campaign_uuid))
    if campaign is None:
        raise Refusal("not_found")
    return campaign


def require_state(campaign: Campaign, *allowed: str) -> None:
    """Refuse what a campaign is not in the state for."""
    if campaign.state not in allowed:
        raise Refusal("wrong_state", state=campaign.state, allowed=list(allowed))


def require_unit(campaign: Campaign, amount: Money) -> None:
    """Refuse an amount in another currency than the campaign's."""
    if amount.currency != campaign.terms.currency:
        raise Refusal("unit_mismatch", currency=campaign.terms.currency)


def _require_promised(
    campaign: Campaign, packet: PacketTerms, quota: int, budget_minor: int
) -> None:
    """Tiers and split sums are funded to the fen, before anybody can have some of them."""
    if not packet.is_seeded:
        return
    if campaign.state not in {"draft", "funded"}:
        raise Refusal("wrong_state", state=campaign.state, allowed=["draft", "funded"])
    if (quota, budget_minor) != packet.promised:
        promised_quota, promised_minor = packet.promised
        raise Refusal("not_as_promised", quota=promised_quota, budget_minor=promised_minor)


def _require_covered(view: View, campaign: UUID, quota: int, budget_minor: int) -> None:
    capacity = view.capacity((campaign, POOL))
    if quota < capacity.issued:
        raise Refusal("below_issued", issued=capacity.issued)
    if budget_minor < capacity.granted_minor:
        raise Refusal("below_granted", granted_minor=capacity.granted_minor)


def require_open(campaign: Campaign, now: datetime) -> None:
    """Refuse what needs a campaign that takes claims now."""
    if campaign.state == "draft":
        raise Refusal("not_found")
    closed = why_closed(campaign, now)
    if closed is not None:
        raise Refusal("not_open", **closed)


def _require_drawn(view: View, campaign: Campaign) -> None:
    """What a draw has promised must be there until each winner has the coupon."""
    assert campaign.draw is not None
    if not is_over(campaign.draw, view.capacity((campaign.id, DRAW_POOL))):
        raise Refusal("draw_pending", draws_at=draws_at(campaign.terms))


def _require_not_ended(coupon: Coupon) -> None:
    if coupon.state in {"voided", "reclaimed"}:
        raise Refusal(f"coupon_{coupon.state}")


def _campaign_decision(
    book: Book,
    code: str,
    campaign: Campaign | None,
    events: Sequence[Event],
    capacity: Changes = (),
) -> Decision:
    for event in events:
        campaign = CAMPAIGN_FOLD.evolve(campaign, event)
    assert campaign is not None, "a decision on a campaign has an event"
    return Decision(code, campaign_reply(book, campaign), events, capacity)


def _returned_money(coupon: Coupon, campaign: Campaign) -> dict[str, Any]:
    return {
        "campaign": coupon.campaign,
        "person": coupon.person,
        "amount_minor": coupon.face_minor,
        "currency": coupon.currency,
        "to": campaign.returns_to,
        "sponsor": campaign.sponsor,
    }


def _return_to_capacity(coupon: Coupon, campaign: Campaign) -> Changes:
    """The money is granted no more; the piece goes back to stock when the terms say so."""
    change = Capacity(
        issued=-1 if campaign.terms.restock else 0,
        granted_minor=-coupon.face_minor,
        budget_minor=-coupon.face_minor if campaign.returns_to == "sponsor" else 0,
    )
    return [((coupon.campaign, POOL), change)]
