"""Corrections: two operators let a redemption or payment count for when it happened."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict

from api import examples
from api.callers import Caller
from api.errors import not_found
from api.routes.ordinary import CouponId, PacketId, Words, add_write, service_of, target_of
from api.routes.reading import MerchantOrStaff, as_json, public_id_of, read_docs
from api.schemas import (
    CorrectionApprovalBody,
    CorrectionBody,
    OrderNumber,
    PaymentCorrectionApprovalBody,
    PaymentCorrectionBody,
    Slug,
)
from api.service import Service
from api.writes import Order, Write
from campaigns import commands
from campaigns.corrections.commands import ApproveCorrection, ProposeCorrection
from campaigns.corrections.correction import CORRECTION_FOLD, Correction, correction_id
from campaigns.corrections.replies import CorrectionReply, correction_reply
from campaigns.corrections.takings import Bill, taking_of
from campaigns.event_types import MAPPER
from campaigns.holding import HOLDING_FOLD, Holding
from campaigns.refusals import Refusal
from campaigns.replies import COUPON_PREFIX, PACKET_PREFIX
from ledger.books import Book, PublicId
from ledger.history import streams_by_key

router: Final = APIRouter(tags=["corrections"])

Command = tuple[Book, commands.Command]


def _propose(order: Order[Any], _service: Service) -> Command:
    target, body = target_of(order), order.body
    return target.book, ProposeCorrection(
        target.book, target.uuid, _bill_of(body), body.effective_at, body.reason
    )


def _approve(order: Order[Any], _service: Service) -> Command:
    target, body = target_of(order), order.body
    return target.book, ApproveCorrection(
        target.book, target.uuid, _bill_of(body), body.effective_at
    )


def _bill_of(body: BaseModel) -> Bill | None:
    if isinstance(body, PaymentCorrectionBody | PaymentCorrectionApprovalBody):
        return Bill(body.merchant, body.order)
    return None


_COUPON: Final = "/v1/coupons/{coupon}/correction"
_PACKET: Final = "/v1/packets/{packet}/correction"

PROPOSE: Final = Write(_COUPON, "operator", CorrectionBody, COUPON_PREFIX, _propose)
APPROVE: Final = Write(
    f"{_COUPON}/approval", "operator", CorrectionApprovalBody, COUPON_PREFIX, _approve
)
PROPOSE_PAYMENT: Final = Write(_PACKET, "operator", PaymentCorrectionBody, PACKET_PREFIX, _propose)
APPROVE_PAYMENT: Final = Write(
    f"{_PACKET}/approval", "operator", PaymentCorrectionApprovalBody, PACKET_PREFIX, _approve
)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        PROPOSE,
        Words(
            "Propose another instant for a redemption that was reported late",
            "propose_correction",
            "correction_proposed",
            CorrectionReply,
            examples.CORRECTION_BODY,
            examples.correction(proposed=True),
        ),
    ),
    (
        APPROVE,
        Words(
            "Approve another instant for a redemption, as a second operator",
            "approve_correction",
            "corrected",
            CorrectionReply,
            examples.CORRECTION_APPROVAL,
            examples.correction(proposed=False),
        ),
    ),
    (
        PROPOSE_PAYMENT,
        Words(
            "Propose another instant for a payment that was reported late",
            "propose_payment_correction",
            "correction_proposed",
            CorrectionReply,
            examples.CORRECTION_BODY | examples.BILL,
            examples.payment_correction(proposed=True),
        ),
    ),
    (
        APPROVE_PAYMENT,
        Words(
            "Approve another instant for a payment, as a second operator",
            "approve_payment_correction",
            "corrected",
            CorrectionReply,
            examples.CORRECTION_APPROVAL | examples.BILL,
            examples.payment_correction(proposed=False),
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


# --- reading --------------------------------------------------------------------------------------


class BillQuery(BaseModel):
    """Which of a packet's payments is meant."""

    model_config = ConfigDict(extra="forbid")

    merchant: Slug
    order: OrderNumber


@router.get(
    _COUPON,
    summary="Look at the two times of a redemption, and at what is proposed",
    operation_id="get_correction",
    **read_docs(CorrectionReply, examples.correction(proposed=True), "not_found", fresh=False),
)
async def get_correction(request: Request, coupon: CouponId, caller: MerchantOrStaff) -> Response:
    """Of a redemption that stands, read from the book; the proposal is for operators and auditors.

    A merchant sees its own redemptions only.
    """
    return await _shown(request, caller, public_id_of(request, coupon, COUPON_PREFIX), None)


@router.get(
    _PACKET,
    summary="Look at the two times of a payment, and at what is proposed",
    operation_id="get_payment_correction",
    **read_docs(
        CorrectionReply,
        examples.payment_correction(proposed=True),
        "not_found",
        "invalid_query",
        fresh=False,
    ),
)
async def get_payment_correction(
    request: Request,
    packet: PacketId,
    query: Annotated[BillQuery, Query()],
    caller: MerchantOrStaff,
) -> Response:
    """It is read from the book; the proposal is for operators and auditors.

    A merchant sees its own payments only.
    """
    target = public_id_of(request, packet, PACKET_PREFIX)
    return await _shown(request, caller, target, Bill(query.merchant, query.order))


async def _shown(request: Request, caller: Caller, target: PublicId, bill: Bill | None) -> Response:
    def look(cursor: Any) -> CorrectionReply:
        holding: Holding | None = None
        streams = streams_by_key(cursor, target.book, MAPPER, [target.uuid])
        for positioned in streams.get(target.uuid, []):
            holding = HOLDING_FOLD.evolve(holding, positioned.event)
        taking = taking_of(holding, bill)
        if caller.role == "merchant" and caller.merchant != taking.merchant:
            raise Refusal("not_found")
        stream = correction_id(taking.holding, taking.version)
        known: Correction | None = None
        streams = streams_by_key(cursor, target.book, MAPPER, [stream])
        for positioned in streams.get(stream, []):
            known = CORRECTION_FOLD.evolve(known, positioned.event)
        told = correction_reply(target.book, taking, known)
        return replace(told, proposal=None) if caller.role == "merchant" else told

    try:
        return as_json(await service_of(request).read(look))
    except Refusal:
        raise not_found() from None
