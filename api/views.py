"""Views: what readers get, made from the rows of the read models.

A view has only what its reader may see; a field that a role may not see is absent, not null.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from api.callers import Role
from api.passes import Pass
from campaigns.campaign import Intake, Terms
from campaigns.packets.replies import packet_name, payment_name, refund_name
from campaigns.replies import (
    CAMPAIGN_PREFIX,
    COUPON_PREFIX,
    Benefit,
    CouponReply,
    PacketBenefit,
    ProposalReply,
    Window,
    benefit,
    packet_benefit,
)
from campaigns.waiting import Place
from ledger.books import Book, PublicId
from ledger.money import Money
from projections import packets
from projections.campaign_figures import CampaignFigures
from projections.merchant_balances import Balance, Redemption
from projections.packets import HeldPacket, Movement, TillMovement
from projections.wallets import HeldCoupon, Worth


class DrawView(msgspec.Struct, frozen=True):
    """A lottery: what it committed to when it opened, and what it came to. Anybody may check it.

    Whoever entered with a coupon id for which SHA-256(seed ‖ id) ≤ threshold has won.
    """

    seed_commitment: str
    places: int | UnsetType = UNSET
    seed: str | UnsetType = UNSET
    entrants: int | UnsetType = UNSET
    entrants_sha256: str | UnsetType = UNSET
    winners: int | UnsetType = UNSET
    threshold: str | UnsetType | None = UNSET


class SplitView(msgspec.Struct, frozen=True):
    """What says which tier or share is the n-th: committed to at the opening, shown at the end."""

    seed_commitment: str
    seed: str | UnsetType = UNSET


class CampaignView(msgspec.Struct, frozen=True):
    """A campaign. Quota, budget, version and proposal are there for operators and auditors."""

    campaign: str
    name: str
    sponsor: str
    state: str
    coupon: Benefit | UnsetType
    per_person_limit: int
    claim_window: Window
    validity_window: Window
    zone: str
    merchants: list[str] | None
    restock: bool
    intake: Intake | UnsetType = UNSET
    draw: DrawView | UnsetType = UNSET
    packet: PacketBenefit | UnsetType = UNSET
    split: SplitView | UnsetType = UNSET
    version: int | UnsetType = UNSET
    quota: int | UnsetType = UNSET
    budget: Money | UnsetType = UNSET
    proposal: ProposalReply | UnsetType | None = UNSET


class CampaignPage(msgspec.Struct, frozen=True):
    """Campaigns, the newest first."""

    items: list[CampaignView]
    next: str | None


class CouponFigures(msgspec.Struct, frozen=True):
    """How many coupons there are: `claimed` ever, `held` and `redeemed` now, and how they ended.

    Of a lottery: how many people `entered`, and how many of the coupons it gave (`drawn`).
    """

    claimed: int
    held: int
    redeemed: int
    refunded: int
    expired: int
    voided: int
    reclaimed: int
    entered: int
    drawn: int


class PacketFigures(msgspec.Struct, frozen=True):
    """How many packets there are: `claimed` ever, `held` now, and how they ended.

    A packet is claimed and opened in one step, so `claimed` is how many were opened, too.
    `payments` and `refunds` are counted ever, and `paid` and `refunded` are their money.
    """

    claimed: int
    held: int
    expired: int
    wallets_closed: int
    payments: int
    refunds: int
    paid: Money
    refunded: Money


class DrawFigures(msgspec.Struct, frozen=True):
    """How a public draw stands. `registered` is ever; of these, some were `withdrawn` or are void.

    `void` counts by the reason that an operator gave. What was refused on registering is in no
    list and not counted. `drawn` are the winners of the draw itself, `moved_up` the seats that
    went to runners-up, `seats_given` those of both that were given.
    """

    registered: int
    withdrawn: int
    void: dict[str, int]
    in_list: int
    drawn: int
    moved_up: int
    seats_given: int
    claimed: int


class MoneyFigures(msgspec.Struct, frozen=True):
    """Where the money is: funded = pot + held + spent + reclaimed.

    Of packets also + `purses` + `rolled_over`: what is sent to groups, and what went into the next
    round. `rolled_in` is the part of the funds that came from the round before.
    """

    funded: Money
    pot: Money
    held: Money
    spent: Money
    reclaimed: Money
    purses: Money | UnsetType = UNSET
    rolled_over: Money | UnsetType = UNSET
    rolled_in: Money | UnsetType = UNSET


class FiguresView(msgspec.Struct, frozen=True):
    """A campaign's figures as of a position of its book."""

    campaign: str
    state: str
    quota: int
    budget: Money
    coupons: CouponFigures | UnsetType
    money: MoneyFigures
    position: int
    packets: PacketFigures | UnsetType = UNSET
    public_draw: DrawFigures | UnsetType = UNSET


class CouponView(CouponReply, frozen=True):
    """A coupon. The redemption is there for its holder, its merchant, operators and auditors."""

    merchant: str | UnsetType = UNSET
    order: str | UnsetType = UNSET
    redeemed_at: datetime | UnsetType = UNSET


class WorthView(msgspec.Struct, frozen=True):
    """What the coupons that a person holds are worth, in one currency."""

    count: int
    amount_minor: int
    currency: str


class WalletPage(msgspec.Struct, frozen=True):
    """A person's coupons, the newest first, and what all that are held are worth."""

    items: list[CouponView]
    worth: list[WorthView]
    next: str | None


class BalanceView(msgspec.Struct, frozen=True):
    """What a merchant earned in one book and currency.

    Redeemed less refunded, and what packets paid less what was given back of that.
    """

    book: str
    redemptions: int
    refunds: int
    redeemed: Money
    refunded: Money
    payments: int
    payment_refunds: int
    paid: Money
    paid_back: Money
    balance: Money


class BalancePage(msgspec.Struct, frozen=True):
    """A merchant's balances."""

    merchant: str
    items: list[BalanceView]


class RedemptionView(msgspec.Struct, frozen=True):
    """A coupon that a merchant took for an order; refunded when `refunded_at` is set."""

    coupon: str
    shop: str | None
    order: str
    discount: Money
    redeemed_at: datetime
    refunded_at: datetime | None


class RedemptionPage(msgspec.Struct, frozen=True):
    """A merchant's redemptions, the newest first."""

    items: list[RedemptionView]
    next: str | None


class PacketView(msgspec.Struct, frozen=True):
    """A packet. What it held and holds is there for its holder, operators and auditors."""

    packet: str
    campaign: str
    state: str
    valid_from: datetime
    valid_until: datetime
    n: int | UnsetType = UNSET
    amount: Money | UnsetType = UNSET
    balance: Money | UnsetType = UNSET
    payments: int | UnsetType = UNSET
    claimed_at: datetime | UnsetType = UNSET


class PacketPage(msgspec.Struct, frozen=True):
    """A person's packets, the newest first, and what is in all that can be spent."""

    items: list[PacketView]
    worth: list[WorthView]
    next: str | None


class MovementView(msgspec.Struct, frozen=True):
    """A movement of a packet's money.

    Of a payment, `from_packet` is what the packet paid and `own` what the payer added; of a refund,
    they are what came back, `reclaimed` instead of `from_packet` where the packet had ended.
    `balance` is what was in the packet then; merchants do not see it.
    """

    kind: str
    at: datetime
    from_packet: Money
    own: Money | UnsetType = UNSET
    reclaimed: Money | UnsetType = UNSET
    merchant: str | UnsetType = UNSET
    shop: str | UnsetType = UNSET
    order: str | UnsetType = UNSET
    payment: str | UnsetType = UNSET
    refund: str | UnsetType = UNSET
    balance: Money | UnsetType = UNSET
    packet: str | UnsetType = UNSET


class StatementView(msgspec.Struct, frozen=True):
    """A packet's movements in order; for a merchant, those at its own tills."""

    packet: str
    items: list[MovementView]
    next: str | None


class PaymentPage(msgspec.Struct, frozen=True):
    """Payments at a merchant and their refunds, the newest first."""

    items: list[MovementView]
    next: str | None


class EventView(msgspec.Struct, frozen=True):
    """A stored event: its place, its type, and its state exactly as stored."""

    position: int
    stream: str
    version: int
    topic: str
    state: msgspec.Raw


class EventPage(msgspec.Struct, frozen=True):
    """Events of a book in order; `next` is the position to go on after."""

    items: list[EventView]
    next: int | None


class HeadView(msgspec.Struct, frozen=True):
    """Where a book ends: its last position and the instant of its last event."""

    book: str
    position: int
    at: datetime | None


class SessionReply(msgspec.Struct, frozen=True):
    """A session: its token, when it ends, and the role that it is for."""

    session_token: str
    expires_at: datetime
    role: Role


class TokenReply(msgspec.Struct, frozen=True):
    """A bearer token."""

    access_token: str
    token_type: str
    expires_in: int


class BookReadiness(msgspec.Struct, frozen=True):
    """A book's head, how far each read model is behind it, and how many requests wait.

    `behind` counts events, `lag_s` is the age of the first of them in seconds. `served` is the
    size of the log's head that is served; `halted` says why a book takes no events.
    """

    book: str
    position: int
    behind: dict[str, int]
    lag_s: dict[str, float]
    queued: int
    served: int | None = None
    halted: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Whether this server can work: `ready`, `degraded` (slower or less fair) or `unready`."""

    status: str
    database: str
    rate_limits: str
    books: list[BookReadiness]


class Health(msgspec.Struct, frozen=True):
    """This process answers."""

    status: str


class PlaceView(msgspec.Struct, frozen=True):
    """Where one stands: before the opening, waiting, at one's turn, or in front of nothing."""

    campaign: str
    state: str
    number: int | None
    """From 1; null before the claims begin, when places are not drawn yet."""
    ahead: int
    wait_s: float
    """Until one's turn at the room's rate; before the claims begin, until then."""
    served_per_s: float
    places: int
    left: int
    """Coupons believed to be left. Fewer than are ahead of one: it will not be enough for all."""
    pass_: str | UnsetType = msgspec.field(name="pass", default=UNSET)
    """To be sent with the claim as `Tidebook-Pass`."""
    pass_until: datetime | UnsetType = UNSET


VIEWS: tuple[type[msgspec.Struct], ...] = (
    CampaignView,
    CampaignPage,
    FiguresView,
    CouponView,
    WalletPage,
    BalancePage,
    RedemptionPage,
    PacketView,
    PacketPage,
    StatementView,
    PaymentPage,
    EventPage,
    HeadView,
    PlaceView,
    SessionReply,
    TokenReply,
    Readiness,
    Health,
)

STAFF: tuple[Role, ...] = ("operator", "auditor")


def campaign_view(row: CampaignFigures, role: Role) -> CampaignView:
    """Return a campaign as somebody in this role may see it."""
    terms = msgspec.convert(row.terms, Terms)
    view = CampaignView(
        campaign=_campaign(row.book, row.campaign),
        name=row.name,
        sponsor=row.sponsor,
        state=row.state,
        coupon=benefit(terms),
        per_person_limit=terms.per_person_limit,
        claim_window=Window(terms.claim_from, terms.claim_until),
        validity_window=Window(terms.valid_from, terms.valid_until),
        zone=terms.zone,
        merchants=terms.merchants,
        restock=terms.restock,
        intake=terms.intake or UNSET,
        draw=UNSET if row.draw is None else msgspec.convert(row.draw, DrawView),
        packet=packet_benefit(Book(row.book), terms),
        split=UNSET if row.split is None else msgspec.convert(row.split, SplitView),
    )
    if role not in STAFF:
        return view
    return msgspec.structs.replace(
        view,
        version=row.version,
        quota=row.quota,
        budget=Money(row.budget_minor, row.currency),
        proposal=_proposal(row),
    )


def _proposal(row: CampaignFigures) -> ProposalReply | None:
    if row.proposed_quota is None or row.proposed_budget_minor is None or row.proposed_by is None:
        return None
    budget = Money(row.proposed_budget_minor, row.currency)
    return ProposalReply(row.proposed_quota, budget, row.proposed_by)


def figures_view(row: CampaignFigures) -> FiguresView:
    """Return a campaign's figures."""
    is_of_packets = row.terms["kind"] == "packet"

    def money(amount_minor: int) -> Money:
        return Money(amount_minor, row.currency)

    return FiguresView(
        campaign=_campaign(row.book, row.campaign),
        state=row.state,
        quota=row.quota,
        budget=money(row.budget_minor),
        coupons=UNSET if is_of_packets else _coupon_figures(row),
        money=MoneyFigures(
            funded=money(row.funded_minor),
            pot=money(row.pot_minor),
            held=money(row.held_minor),
            spent=money(row.spent_minor),
            reclaimed=money(row.reclaimed_minor),
            purses=money(row.purses_minor) if is_of_packets else UNSET,
            rolled_over=money(row.rolled_minor) if is_of_packets else UNSET,
            rolled_in=money(row.rolled_in_minor) if row.rolled_in_minor else UNSET,
        ),
        position=row.position,
        packets=_packet_figures(row) if is_of_packets else UNSET,
        public_draw=_draw_figures(row) if "public_draw" in row.terms else UNSET,
    )


def _draw_figures(row: CampaignFigures) -> DrawFigures:
    return DrawFigures(
        registered=row.registered,
        withdrawn=row.withdrawn,
        void=row.void_reasons or {},
        in_list=row.registered - row.withdrawn - row.found_void,
        drawn=row.winners,
        moved_up=row.moved_up,
        seats_given=row.seats,
        claimed=row.claimed,
    )


def _coupon_figures(row: CampaignFigures) -> CouponFigures:
    return CouponFigures(
        claimed=row.claimed,
        held=row.held,
        redeemed=row.redeemed,
        refunded=row.refunded,
        expired=row.expired,
        voided=row.voided,
        reclaimed=row.reclaimed,
        entered=row.entered,
        drawn=row.drawn,
    )


def _packet_figures(row: CampaignFigures) -> PacketFigures:
    return PacketFigures(
        claimed=row.claimed,
        held=row.held,
        expired=row.expired,
        wallets_closed=row.wallets_closed,
        payments=row.paid,
        refunds=row.refunded,
        paid=Money(row.paid_minor, row.currency),
        refunded=Money(row.refunded_minor, row.currency),
    )


def coupon_view(row: HeldCoupon, *, with_redemption: bool) -> CouponView:
    """Return a coupon, with or without what it was redeemed for."""
    redeemed = with_redemption and row.redeemed_at is not None
    return CouponView(
        coupon=_coupon(row.book, row.coupon),
        campaign=_campaign(row.book, row.campaign),
        n=row.n,
        state=row.state,
        face=Money(row.face_minor, row.currency),
        threshold=Money(row.threshold_minor, row.currency),
        valid_from=row.valid_from,
        valid_until=row.valid_until,
        claimed_at=row.claimed_at,
        merchant=row.merchant if redeemed and row.merchant is not None else UNSET,
        order=row.order_no if redeemed and row.order_no is not None else UNSET,
        redeemed_at=row.redeemed_at if redeemed and row.redeemed_at is not None else UNSET,
    )


def worth_view(worth: Worth | packets.Worth) -> WorthView:
    """Return what is held in one currency."""
    currency, count, amount_minor = worth
    return WorthView(count, amount_minor, currency)


def balance_view(row: Balance) -> BalanceView:
    """Return a merchant's balance in one book and currency."""
    return BalanceView(
        book=row.book,
        redemptions=row.redeemed_count,
        refunds=row.refunded_count,
        redeemed=Money(row.redeemed_minor, row.currency),
        refunded=Money(row.refunded_minor, row.currency),
        payments=row.paid_count,
        payment_refunds=row.paid_back_count,
        paid=Money(row.paid_minor, row.currency),
        paid_back=Money(row.paid_back_minor, row.currency),
        balance=Money(row.balance_minor, row.currency),
    )


def redemption_view(row: Redemption) -> RedemptionView:
    """Return one redemption."""
    return RedemptionView(
        coupon=_coupon(row.book, row.coupon),
        shop=row.shop,
        order=row.order_no,
        discount=Money(row.discount_minor, row.currency),
        redeemed_at=row.redeemed_at,
        refunded_at=row.refunded_at,
    )


def packet_view(row: HeldPacket, *, with_money: bool) -> PacketView:
    """Return a packet, with or without what is in it."""
    view = PacketView(
        packet=packet_name(Book(row.book), row.packet),
        campaign=_campaign(row.book, row.campaign),
        state=row.shown,
        valid_from=row.valid_from,
        valid_until=row.valid_until,
    )
    if not with_money:
        return view
    return msgspec.structs.replace(
        view,
        n=row.n,
        amount=Money(row.amount_minor, row.currency),
        balance=Money(row.balance_minor, row.currency),
        payments=row.payments,
        claimed_at=row.claimed_at,
    )


def movement_view(row: Movement) -> MovementView:
    """Return a movement as the packet's holder sees it."""
    view = till_view(row)
    return msgspec.structs.replace(
        view, balance=Money(row.balance_minor, row.currency), packet=UNSET
    )


def till_view(row: Movement | TillMovement) -> MovementView:
    """Return a movement as its merchant sees it."""

    def money(amount_minor: int) -> Money:
        return Money(abs(amount_minor), row.currency)

    book = Book(row.book)
    return MovementView(
        kind=row.kind,
        at=row.at,
        from_packet=money(row.packet_minor),
        own=UNSET if row.merchant is None else money(row.own_minor),
        reclaimed=money(row.reclaimed_minor) if row.kind == "refunded" else UNSET,
        merchant=row.merchant or UNSET,
        shop=row.shop or UNSET,
        order=row.order_no or UNSET,
        payment=UNSET if row.payment is None else payment_name(book, row.payment),
        refund=UNSET if row.refund is None else refund_name(book, row.refund),
        packet=packet_name(book, row.packet),
    )


def event_views(rows: Sequence[Any]) -> list[EventView]:
    """Return stored events as they are."""
    return [
        EventView(position, stream.hex, version, topic, msgspec.Raw(bytes(state)))
        for position, stream, version, topic, state in rows
    ]


def _campaign(book: str, campaign: UUID) -> str:
    return str(PublicId(CAMPAIGN_PREFIX, Book(book), campaign))


def _coupon(book: str, coupon: UUID) -> str:
    return str(PublicId(COUPON_PREFIX, Book(book), coupon))


def place_view(campaign: PublicId, place: Place, own: Pass | None) -> PlaceView:
    """Return a place in a campaign's waiting room, with one's own pass when it is one's turn."""
    queue = place.queue
    return PlaceView(
        campaign=str(campaign),
        state=place.state,
        number=place.number or None,
        ahead=place.ahead,
        wait_s=round(place.wait_s, 1),
        served_per_s=queue.per_s,
        places=queue.places,
        left=queue.left,
        pass_=own.token if own is not None else UNSET,
        pass_until=datetime.fromtimestamp(own.ends_at, UTC) if own is not None else UNSET,
    )
