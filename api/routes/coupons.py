"""Coupons: merchants redeem and refund them, operators void them, holders look at them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from api import examples
from api.routes.ordinary import Words, add_write
from api.schemas import ReasonBody, RedemptionBody, RefundBody
from api.service import Service
from api.writes import Order, Write
from campaigns import commands
from campaigns.replies import EndingReply, RedemptionReply, RefundReply
from ledger.books import Book, PublicId
from ledger.money import Money

router: Final = APIRouter(tags=["coupons"])

Command = tuple[Book, commands.Command]


def _target(order: Order[Any]) -> PublicId:
    assert order.target is not None, "the address of this write names a coupon"
    return order.target


def _merchant(order: Order[Any]) -> str:
    assert order.caller.merchant is not None, "the role merchant names a merchant"
    return order.caller.merchant


def _redeem(order: Order[RedemptionBody], _service: Service) -> Command:
    target, body = _target(order), order.body
    return target.book, commands.RedeemCoupon(
        target.book,
        target.uuid,
        merchant=_merchant(order),
        shop=body.shop,
        order=body.order,
        order_total=Money(body.order_total.amount_minor, body.order_total.currency),
    )


def _refund(order: Order[RefundBody], _service: Service) -> Command:
    target, body = _target(order), order.body
    return target.book, commands.RefundCoupon(
        target.book, target.uuid, _merchant(order), body.order, body.reason
    )


def _void(order: Order[ReasonBody], _service: Service) -> Command:
    target = _target(order)
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
