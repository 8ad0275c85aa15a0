"""Coupons: merchants redeem and refund them, operators void them, holders look at them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from api import examples
from api.errors import not_found
from api.paging import Page, page_of, read_cursor
from api.routes.ordinary import CouponId, Words, add_write, merchant_of, target_of
from api.routes.reading import Anybody, Tourist, as_json, public_id_of, read_docs, shown
from api.schemas import ReasonBody, RedemptionBody, RefundBody
from api.service import Service
from api.views import CouponView, WalletPage, coupon_view, worth_view
from api.writes import Order, Write
from campaigns import commands
from campaigns.replies import COUPON_PREFIX, EndingReply, RedemptionReply, RefundReply
from ledger.books import Book
from ledger.money import Money
from projections import wallets
from projections.wallets import WALLETS

router: Final = APIRouter(tags=["coupons"])

Command = tuple[Book, commands.Command]


def _redeem(order: Order[RedemptionBody], _service: Service) -> Command:
    target, body = target_of(order), order.body
    return target.book, commands.RedeemCoupon(
        target.book,
        target.uuid,
        merchant=merchant_of(order.caller),
        shop=body.shop,
        order=body.order,
        order_total=Money(body.order_total.amount_minor, body.order_total.currency),
    )


def _refund(order: Order[RefundBody], _service: Service) -> Command:
    target, body = target_of(order), order.body
    return target.book, commands.RefundCoupon(
        target.book, target.uuid, merchant_of(order.caller), body.order, body.reason
    )


def _void(order: Order[ReasonBody], _service: Service) -> Command:
    target = target_of(order)
    return target.book, commands.VoidCoupon(target.book, target.uuid, order.body.reason)


_ONE: Final = "/v1/coupons/{coupon}"

REDEEM: Final = Write(f"{_ONE}/redemptions", "merchant", RedemptionBody, "cpn", _redeem)
REFUND: Final = Write(f"{_ONE}/refunds", "merchant", RefundBody, "cpn", _refund)
VOID: Final = Write(f"{_ONE}/void", "operator", ReasonBody, "cpn", _void)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        REDEEM,
        Words(
            "Redeem a coupon for an order",
            "redeem",
            "redeemed",
            RedemptionReply,
            examples.REDEMPTION,
            examples.REDEEMED,
        ),
    ),
    (
        REFUND,
        Words(
            "Refund a redemption",
            "refund",
            "refunded",
            RefundReply,
            examples.REFUND,
            examples.REFUNDED,
        ),
    ),
    (
        VOID,
        Words(
            "Void a held coupon", "void", "voided", EndingReply, examples.REASON, examples.VOIDED
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


# --- reading --------------------------------------------------------------------------------------

State = Literal["held", "redeemed", "expired", "voided", "reclaimed", "entered", "not_drawn"]


class WalletQuery(Page):
    """Which coupons of a wallet are wanted."""

    state: State | None = None


@router.get(
    "/v1/wallet",
    summary="List one's own coupons, the newest first",
    operation_id="get_wallet",
    **read_docs(WalletPage, examples.WALLET, "invalid_query"),
)
async def get_wallet(
    request: Request, caller: Tourist, query: Annotated[WalletQuery, Query()]
) -> Response:
    """Every account of one identity sees the same wallet. For tourists."""
    after = read_cursor(query.after, wallets.WalletCursor)

    def find(cursor: Any) -> tuple[list[wallets.HeldCoupon], list[wallets.Worth]]:
        held = wallets.coupons_of(
            cursor, caller.person, state=query.state, after=after, limit=query.limit + 1
        )
        return held, wallets.worth_of(cursor, caller.person)

    service = await shown(request, WALLETS)
    rows, worth = await service.read(find)
    items, following = page_of(
        rows, query.limit, lambda row: coupon_view(row, with_redemption=True), wallets.cursor_of
    )
    return as_json(WalletPage(items, [worth_view(each) for each in worth], following))


@router.get(
    _ONE,
    summary="Look at a coupon",
    operation_id="get_coupon",
    **read_docs(CouponView, examples.coupon(), "not_found"),
)
async def get_coupon(request: Request, coupon: CouponId, caller: Anybody) -> Response:
    """For its holder, merchants, operators and auditors; for anybody else it does not exist.

    A merchant that did not redeem it learns nothing about the order that it was used for.
    """
    found = public_id_of(request, coupon, COUPON_PREFIX)
    service = await shown(request, WALLETS)
    row = await service.read(lambda cursor: wallets.coupon(cursor, found.book, found.uuid))
    if row is None or (caller.role == "tourist" and row.person != caller.person):
        raise not_found()
    with_redemption = caller.role != "merchant" or row.merchant == caller.merchant
    return as_json(coupon_view(row, with_redemption=with_redemption))
