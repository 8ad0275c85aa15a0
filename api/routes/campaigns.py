"""Campaigns: operators draft, fund, open, pause and close them; tourists claim from them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api import examples
from api.bodies import invalid_body
from api.errors import FieldError, Problem, not_found
from api.paging import Page, page_of, read_cursor
from api.routes.drafting import public_draw_of
from api.routes.ordinary import CampaignId, Words, add_write, target_of
from api.routes.reading import Anybody, Staff, as_json, public_id_of, read_docs, shown
from api.schemas import (
    ApprovalBody,
    BudgetBody,
    DraftBody,
    EmptyBody,
    FundingBody,
    MoneyBody,
    PacketTermsBody,
    ReasonBody,
)
from api.service import Service
from api.views import (
    STAFF,
    CampaignPage,
    CampaignView,
    FiguresView,
    campaign_view,
    figures_view,
)
from api.writes import Order, Write, public_id
from campaigns import commands
from campaigns.campaign import Intake, Terms
from campaigns.packets.replies import PacketReply
from campaigns.packets.terms import PacketTerms, Split, Tier
from campaigns.replies import CAMPAIGN_PREFIX, CampaignReply, CouponReply, EntryReply
from ledger.books import Book
from ledger.money import Money
from projections import campaign_figures as figures
from projections.campaign_figures import CAMPAIGN_FIGURES

router: Final = APIRouter(tags=["campaigns"])

Command = tuple[Book, commands.Command]


def _money(amount: BudgetBody) -> Money:
    return Money(amount.amount_minor, amount.currency)


def _draft(order: Order[DraftBody], service: Service) -> Command:
    body = order.body
    book = Book(body.book) if body.book is not None else service.settings.books[0]
    if book not in service.writers:
        raise invalid_body([FieldError("book", "unknown_book", "This server has no such book.")])
    campaign = commands.campaign_id(book, order.caller.actor, order.key)
    return book, commands.DraftCampaign(book, campaign, body.name, body.sponsor, _terms(book, body))


def _terms(book: Book, body: DraftBody) -> Terms:
    given = _packet_terms(book, body.packet) if body.packet is not None else _coupon_terms(body)
    return Terms(
        **given,
        per_person_limit=body.per_person_limit,
        claim_from=body.claim_window.start,
        claim_until=body.claim_window.until,
        valid_from=body.validity_window.start,
        valid_until=body.validity_window.until,
        zone=body.zone,
        merchants=body.merchants,
        restock=body.restock,
        intake=_intake(body),
        public_draw=public_draw_of(body),
    )


def _coupon_terms(body: DraftBody) -> dict[str, Any]:
    coupon = body.coupon
    assert coupon is not None, "a campaign gives coupons or packets"
    threshold = coupon.threshold or coupon.face
    if threshold.currency != coupon.face.currency:
        raise Problem(
            "unit_mismatch",
            "The threshold is in another currency than the face value.",
            facts={"currency": coupon.face.currency},
        )
    return {
        "kind": coupon.kind,
        "face_minor": coupon.face.amount_minor,
        "threshold_minor": threshold.amount_minor,
        "currency": coupon.face.currency,
    }


def _packet_terms(book: Book, body: PacketTermsBody) -> dict[str, Any]:
    tiers = tuple(Tier(each.amount.amount_minor, each.count) for each in body.tiers or ())
    split = None
    if body.split is not None:
        split = Split(body.split.total.amount_minor, body.split.count)
    packet = PacketTerms(
        tiers=tiers,
        split=split,
        refund_order=body.refund_order,
        leftover=body.leftover,
        next_round=_next_round(book, body),
    )
    first = _first_amount(body)
    face_minor = packet.least_minor if packet.is_seeded else first.amount_minor
    return {
        "kind": "packet",
        "face_minor": face_minor,
        "threshold_minor": face_minor,
        "currency": first.currency,
        "packet": packet,
    }


def _first_amount(body: PacketTermsBody) -> MoneyBody:
    """Return an amount in the currency that all of them have."""
    if body.split is not None:
        return body.split.total
    first = body.tiers[0].amount if body.tiers else body.amount
    assert first is not None, "a packet has an amount, tiers or a split"
    return first


def _next_round(book: Book, body: PacketTermsBody) -> UUID | None:
    if body.next_round is None:
        return None
    found = public_id(body.next_round, CAMPAIGN_PREFIX)
    if found is None or found.book != book:
        raise invalid_body(
            [FieldError("packet.next_round", "unknown_campaign", "This book has no such campaign.")]
        )
    return found.uuid


def _intake(body: DraftBody) -> Intake | None:
    """First come is what a campaign without an intake does."""
    intake = body.intake
    if intake is None or intake.kind == "first_come":
        return None
    if intake.kind == "waiting_room":
        return Intake(kind="waiting_room", rate_per_s=intake.rate_per_s or 0)
    seconds = intake.seconds or 0
    errors = []
    if body.per_person_limit != 1:
        errors.append(
            FieldError(
                "per_person_limit", "lottery_one_each", "A lottery gives one coupon a person: 1."
            )
        )
    if body.claim_window.start + timedelta(seconds=seconds) > body.claim_window.until:
        errors.append(
            FieldError(
                "intake.seconds", "after_claim_window", "A lottery ends inside the claim window."
            )
        )
    if errors:
        raise invalid_body(errors)
    return Intake(kind="lottery", seconds=seconds)


def _propose(order: Order[FundingBody], _service: Service) -> Command:
    book, campaign, body = target_of(order).book, target_of(order).uuid, order.body
    return book, commands.ProposeFunding(
        book,
        campaign,
        quota=body.quota,
        budget=_money(body.budget),
        from_quota=body.current_quota,
        from_budget_minor=body.current_budget_minor,
    )


def _approve(order: Order[ApprovalBody], _service: Service) -> Command:
    book, campaign, body = target_of(order).book, target_of(order).uuid, order.body
    return book, commands.ApproveFunding(book, campaign, body.quota, _money(body.budget))


def _open(order: Order[EmptyBody], service: Service) -> Command:
    target = target_of(order)
    return target.book, commands.OpenCampaign(target.book, target.uuid, service.draw_key)


def _pause(order: Order[ReasonBody], _service: Service) -> Command:
    target = target_of(order)
    return target.book, commands.PauseCampaign(target.book, target.uuid, order.body.reason)


def _resume(order: Order[EmptyBody], _service: Service) -> Command:
    target = target_of(order)
    return target.book, commands.ResumeCampaign(target.book, target.uuid)


def _close(order: Order[ReasonBody], _service: Service) -> Command:
    target = target_of(order)
    return target.book, commands.CloseCampaign(target.book, target.uuid, order.body.reason)


def _claim(order: Order[EmptyBody], service: Service) -> Command:
    target = target_of(order)
    person = order.caller.person
    return target.book, commands.ClaimCoupon(target.book, target.uuid, person, service.draw_key)


_ONE: Final = "/v1/campaigns/{campaign}"

DRAFT: Final = Write("/v1/campaigns", "operator", DraftBody, None, _draft)
PROPOSE: Final = Write(f"{_ONE}/funding", "operator", FundingBody, "cmp", _propose)
APPROVE: Final = Write(f"{_ONE}/funding/approval", "operator", ApprovalBody, "cmp", _approve)
OPEN: Final = Write(f"{_ONE}/open", "operator", EmptyBody, "cmp", _open)
PAUSE: Final = Write(f"{_ONE}/pause", "operator", ReasonBody, "cmp", _pause)
RESUME: Final = Write(f"{_ONE}/resume", "operator", EmptyBody, "cmp", _resume)
CLOSE: Final = Write(f"{_ONE}/close", "operator", ReasonBody, "cmp", _close)
CLAIM: Final = Write(
    f"{_ONE}/claims", "tourist", EmptyBody, "cmp", _claim, rush=True, nothing=EmptyBody()
)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        DRAFT,
        Words(
            "Draft a campaign",
            "draft",
            "drafted",
            CampaignReply,
            examples.DRAFT,
            examples.campaign("draft"),
        ),
    ),
    (
        PROPOSE,
        Words(
            "Propose quota and budget",
            "propose_funding",
            "funding_proposed",
            CampaignReply,
            examples.FUNDING,
            examples.campaign("draft", proposed=True),
        ),
    ),
    (
        APPROVE,
        Words(
            "Approve quota and budget, as a second operator",
            "approve_funding",
            "funded",
            CampaignReply,
            examples.APPROVAL,
            examples.campaign("funded"),
        ),
    ),
    (
        OPEN,
        Words("Open a campaign", "open", "opened", CampaignReply, {}, examples.campaign("open")),
    ),
    (
        PAUSE,
        Words(
            "Pause a campaign",
            "pause",
            "paused",
            CampaignReply,
            examples.REASON,
            examples.campaign("paused"),
        ),
    ),
    (
        RESUME,
        Words(
            "Resume a paused campaign",
            "resume",
            "resumed",
            CampaignReply,
            {},
            examples.campaign("open"),
        ),
    ),
    (
        CLOSE,
        Words(
            "Close a campaign for good",
            "close",
            "closed",
            CampaignReply,
            examples.REASON,
            examples.campaign("closed"),
        ),
    ),
    (
        CLAIM,
        Words(
            "Claim a coupon or a packet, or enter the draw for a coupon",
            "claim",
            "claimed",
            CouponReply,
            {},
            examples.coupon(),
            (
                ("claimed", PacketReply, examples.packet()),
                ("entered", EntryReply, examples.ENTRY),
            ),
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


# --- reading --------------------------------------------------------------------------------------

PUBLIC_STATES: Final = ("open", "paused", "closed")
"""What tourists and merchants may know of; drafts do not exist for them."""

State = Literal["draft", "funded", "open", "paused", "closed"]


class CampaignQuery(Page):
    """Which campaigns are wanted."""

    state: State | None = None


@router.get(
    "/v1/campaigns",
    summary="List campaigns, the newest first",
    operation_id="list_campaigns",
    **read_docs(
        CampaignPage,
        {"items": [examples.campaign_view()], "next": None},
        "invalid_query",
    ),
)
async def list_campaigns(
    request: Request, caller: Anybody, query: Annotated[CampaignQuery, Query()]
) -> Response:
    """Tourists and merchants see campaigns that were opened; operators and auditors see all."""
    after = read_cursor(query.after, figures.CampaignCursor)
    states = [query.state] if query.state is not None else None
    if caller.role not in STAFF:
        states = [state for state in states or PUBLIC_STATES if state in PUBLIC_STATES]
    service = await shown(request, CAMPAIGN_FIGURES)
    rows = await service.read(
        lambda cursor: figures.campaigns(cursor, states=states, after=after, limit=query.limit + 1)
    )
    items, following = page_of(
        rows, query.limit, lambda row: campaign_view(row, caller.role), figures.cursor_of
    )
    return as_json(CampaignPage(items, following))


async def _row(request: Request, campaign: str) -> figures.CampaignFigures:
    found = public_id_of(request, campaign, CAMPAIGN_PREFIX)
    service = await shown(request, CAMPAIGN_FIGURES)
    row = await service.read(lambda cursor: figures.campaign(cursor, found.book, found.uuid))
    if row is None:
        raise not_found()
    return row


@router.get(
    _ONE,
    summary="Look at a campaign",
    operation_id="get_campaign",
    **read_docs(CampaignView, examples.campaign_view(), "not_found"),
)
async def get_campaign(request: Request, campaign: CampaignId, caller: Anybody) -> Response:
    """A draft is visible to operators and auditors only."""
    row = await _row(request, campaign)
    if caller.role not in STAFF and row.state not in PUBLIC_STATES:
        raise not_found()
    return as_json(campaign_view(row, caller.role))


@router.get(
    f"{_ONE}/figures",
    summary="Look at a campaign's figures",
    operation_id="get_campaign_figures",
    **read_docs(FiguresView, examples.FIGURES, "not_found"),
)
async def get_figures(request: Request, campaign: CampaignId, _caller: Staff) -> Response:
    """Counts and money as of a position of the campaign's book. For operators and auditors."""
    return as_json(figures_view(await _row(request, campaign)))
