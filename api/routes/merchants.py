"""Merchants: what they earned by redemptions, and every redemption behind it."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from api import examples
from api.callers import Caller
from api.paging import Page, page_of, read_cursor
from api.routes.reading import Merchant, as_json, read_docs, shown
from api.views import BalancePage, RedemptionPage, balance_view, redemption_view
from projections import merchant_balances as merchants
from projections.merchant_balances import MERCHANT_BALANCES

router: Final = APIRouter(tags=["merchants"])


def _own(caller: Caller) -> str:
    assert caller.merchant is not None, "the role merchant names a merchant"
    return caller.merchant


@router.get(
    "/v1/merchant/balance",
    summary="Look at one's own balances",
    operation_id="get_balance",
    **read_docs(BalancePage, examples.BALANCE),
)
async def get_balance(request: Request, caller: Merchant) -> Response:
    """What the redemptions of the caller's merchant add up to. For merchants."""
    service = await shown(request, MERCHANT_BALANCES)
    rows = await service.read(lambda cursor: merchants.balances(cursor, _own(caller)))
    return as_json(BalancePage(_own(caller), [balance_view(row) for row in rows]))


@router.get(
    "/v1/merchant/redemptions",
    summary="List one's own redemptions, the newest first",
    operation_id="list_redemptions",
    **read_docs(RedemptionPage, examples.REDEMPTIONS, "invalid_query"),
)
async def list_redemptions(
    request: Request, caller: Merchant, query: Annotated[Page, Query()]
) -> Response:
    """Every redemption of the caller's merchant, refunded or not. For merchants."""
    after = read_cursor(query.after, merchants.RedemptionCursor)
    service = await shown(request, MERCHANT_BALANCES)
    rows = await service.read(
        lambda cursor: merchants.redemptions(
            cursor, _own(caller), after=after, limit=query.limit + 1
        )
    )
    return as_json(
        RedemptionPage(*page_of(rows, query.limit, redemption_view, merchants.cursor_of))
    )
