"""Packets: merchants take payments and refund them, holders look at balances and statements."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from api import examples
from api.callers import Caller
from api.errors import not_found
from api.paging import Page, page_of, read_cursor
from api.routes.ordinary import PacketId, Words, add_write, merchant_of, target_of
from api.routes.reading import (
    Anybody,
    Merchant,
    Tourist,
    as_json,
    public_id_of,
    read_docs,
    shown,
)
from api.schemas import PaymentBody, PaymentRefundBody, ReasonBody
from api.service import Service
from api.views import (
    PacketPage,
    PacketView,
    PaymentPage,
    StatementView,
    movement_view,
    packet_view,
    till_view,
    worth_view,
)
from api.writes import Order, Write
from campaigns.commands import Command
from campaigns.packets.commands import CloseWallet, PayFromPacket, RefundPayment
from campaigns.packets.replies import (
    PacketEndingReply,
    PaymentRefundReply,
    PaymentReply,
)
from campaigns.replies import PACKET_PREFIX
from ledger.books import Book
from ledger.money import Money
from projections import packets
from projections.packets import PACKETS, HeldPacket

router: Final = APIRouter(tags=["packets"])


def _pay(order: Order[PaymentBody], _service: Service) -> tuple[Book, Command]:
    target, body = target_of(order), order.body
    total = Money(body.total.amount_minor, body.total.currency)
    merchant = merchant_of(order.caller)
    command = PayFromPacket(target.book, target.uuid, merchant, body.shop, body.order, total)
    return target.book, command


def _refund(order: Order[PaymentRefundBody], _service: Service) -> tuple[Book, Command]:
    target, body = target_of(order), order.body
    amount = None
    if body.amount is not None:
        amount = Money(body.amount.amount_minor, body.amount.currency)
    merchant = merchant_of(order.caller)
    command = RefundPayment(target.book, target.uuid, merchant, body.order, amount, body.reason)
    return target.book, command


def _close_wallet(order: Order[ReasonBody], _service: Service) -> tuple[Book, Command]:
    target = target_of(order)
    return target.book, CloseWallet(target.book, target.uuid, order.body.reason)


_ONE: Final = "/v1/packets/{packet}"

PAY: Final = Write(f"{_ONE}/payments", "merchant", PaymentBody, "pkt", _pay)
REFUND: Final = Write(f"{_ONE}/refunds", "merchant", PaymentRefundBody, "pkt", _refund)
CLOSE: Final = Write(f"{_ONE}/wallet-closure", "operator", ReasonBody, "pkt", _close_wallet)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        PAY,
        Words(
            "Pay for an order from a packet",
            "pay",
            "paid",
            PaymentReply,
            examples.PAYMENT,
            examples.PAID,
        ),
    ),
    (
        REFUND,
        Words(
            "Refund a payment, whole or in part",
            "refund_payment",
            "refunded",
            PaymentRefundReply,
            examples.PAYMENT_REFUND,
            examples.PAYMENT_REFUNDED,
        ),
    ),
    (
        CLOSE,
        Words(
            "Record that the wallet of a packet was closed",
            "close_wallet",
            "wallet_closed",
            PacketEndingReply,
            examples.REASON,
            examples.WALLET_CLOSED,
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


# --- reading --------------------------------------------------------------------------------------

State = Literal["held", "spent", "expired", "closed"]


class PacketQuery(Page):
    """Which packets of a person are wanted."""

    state: State | None = None


@router.get(
    "/v1/packets",
    summary="List one's own packets, the newest first",
    operation_id="list_packets",
    **read_docs(
        PacketPage,
        {
            "items": [examples.PACKET_VIEW],
            "worth": [{"count": 1, "amount_minor": 3_000, "currency": "CNY"}],
            "next": None,
        },
        "invalid_query",
    ),
)
async def list_packets(
    request: Request, caller: Tourist, query: Annotated[PacketQuery, Query()]
) -> Response:
    """Every account of one identity sees the same packets. For tourists."""
    after = read_cursor(query.after, packets.PacketCursor)
    states = packets.STATES if query.state is None else (query.state,)

    def find(cursor: Any) -> tuple[list[HeldPacket], list[packets.Worth]]:
        held = packets.packets_of(
            cursor, caller.person, states=states, after=after, limit=query.limit + 1
        )
        return held, packets.worth_of(cursor, caller.person)

    service = await shown(request, PACKETS)
    rows, worth = await service.read(find)
    items, following = page_of(
        rows, query.limit, lambda row: packet_view(row, with_money=True), packets.cursor_of
    )
    return as_json(PacketPage(items, [worth_view(each) for each in worth], following))


async def _row(request: Request, packet: str, caller: Caller) -> tuple[Service, HeldPacket]:
    """Return a packet that the caller may know of: for other tourists it does not exist."""
    found = public_id_of(request, packet, PACKET_PREFIX)
    service = await shown(request, PACKETS)
    row = await service.read(lambda cursor: packets.packet(cursor, found.book, found.uuid))
    if row is None or (caller.role == "tourist" and row.person != caller.person):
        raise not_found()
    return service, row


@router.get(
    _ONE,
    summary="Look at a packet",
    operation_id="get_packet",
    **read_docs(PacketView, examples.PACKET_VIEW, "not_found"),
)
async def get_packet(request: Request, packet: PacketId, caller: Anybody) -> Response:
    """For its holder, merchants, operators and auditors; merchants do not see what is in it."""
    _, row = await _row(request, packet, caller)
    return as_json(packet_view(row, with_money=caller.role != "merchant"))


class StatementQuery(Page):
    """Which part of a statement is wanted: `after` is the `next` of the part before."""


@router.get(
    f"{_ONE}/statement",
    summary="List the movements of a packet's money, in order",
    operation_id="get_packet_statement",
    **read_docs(StatementView, examples.STATEMENT, "not_found", "invalid_query"),
)
async def get_statement(
    request: Request, packet: PacketId, caller: Anybody, query: Annotated[StatementQuery, Query()]
) -> Response:
    """The holder, operators and auditors see all of it; a merchant sees its own payments."""
    service, row = await _row(request, packet, caller)
    after = read_cursor(query.after, packets.StatementCursor)
    version = 0 if after is None else after.version
    limit = query.limit + 1
    if caller.role == "merchant":
        own = merchant_of(caller)
        rows = await service.read(
            lambda cursor: packets.statement_at(
                cursor, row.book, row.packet, own, after=version, limit=limit
            )
        )
        items, following = page_of(rows, query.limit, till_view, packets.statement_cursor_of)
    else:
        moved = await service.read(
            lambda cursor: packets.statement(
                cursor, row.book, row.packet, after=version, limit=limit
            )
        )
        items, following = page_of(moved, query.limit, movement_view, packets.statement_cursor_of)
    return as_json(StatementView(packet, items, following))


@router.get(
    "/v1/merchant/payments",
    summary="List payments from packets and their refunds, the newest first",
    operation_id="list_payments",
    **read_docs(
        PaymentPage,
        {"items": [{**examples.MOVEMENT, "packet": examples.PACKET}], "next": None},
        "invalid_query",
    ),
)
async def list_payments(
    request: Request, caller: Merchant, query: Annotated[Page, Query()]
) -> Response:
    """Every payment at the caller's merchant and what was given back of it. For merchants."""
    after = read_cursor(query.after, packets.TillCursor)
    service = await shown(request, PACKETS)
    rows = await service.read(
        lambda cursor: packets.payments_at(
            cursor, merchant_of(caller), after=after, limit=query.limit + 1
        )
    )
    return as_json(PaymentPage(*page_of(rows, query.limit, till_view, packets.till_cursor_of)))
