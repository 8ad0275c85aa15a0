"""The journal: trial balances, accounts and their statements, at any position or instant.

Operators and auditors see every account of a book, a merchant its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api import examples
from api.callers import Caller
from api.errors import RETRY_SOON, Problem, not_found
from api.journalviews import (
    AccountPage,
    AccountStatementView,
    LineView,
    TrialBalanceView,
    account_view,
    line_for_merchant,
    line_view,
    total_view,
)
from api.paging import LIMIT_DEFAULT, CursorWord, Limit, page_of, read_cursor
from api.routes.books import BookName
from api.routes.ordinary import service_of
from api.routes.reading import Merchant, Staff, as_json, read_docs, shown
from campaigns.accounting import merchant_account
from projections import journal_reading as reading
from projections.journal import JOURNAL

router: Final = APIRouter(tags=["journal"])

_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII
)
_POSITION: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_BAD_MOMENT: Final = "This must be a position, or a time with its offset."


def _moment(value: str) -> str:
    _parse(value)
    return value


def _parse(value: str) -> int | datetime:
    if _POSITION.fullmatch(value):
        return int(value)
    try:
        if _INSTANT.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("bad_moment", _BAD_MOMENT)


Moment = Annotated[
    str,
    Field(
        max_length=40,
        description="A position, or a time with its offset; without it, as it is shown now.",
        examples=["15052"],
    ),
    AfterValidator(_moment),
]
Kind = Annotated[str, Field(pattern=f"^({'|'.join(reading.KINDS)})$")]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217 code.")]
AccountName = Annotated[
    str, Path(max_length=200, description="An account's name.", examples=["merchant:cafe"])
]


class AtQuery(BaseModel):
    """Which position is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: Moment | None = None


class AccountQuery(AtQuery):
    """Which accounts are wanted."""

    kind: Kind | None = None
    after: CursorWord | None = None
    limit: Limit = LIMIT_DEFAULT


class StatementQuery(AtQuery):
    """Which lines are wanted. A page goes on at the position of the first one."""

    currency: Currency = "CNY"
    after: CursorWord | None = None
    limit: Limit = LIMIT_DEFAULT


class OwnStatementQuery(StatementQuery):
    """Which lines are wanted, and of which book."""

    book: Annotated[str, Field(pattern="^[a-z][a-z0-9]{0,15}$")] = "main"


def _known(request: Request, book: str) -> str:
    if book not in service_of(request).writers:
        raise not_found()
    return book


def _position(cursor: Any, book: str, moment: str | None) -> int:
    wanted = None if moment is None else _parse(moment)
    if isinstance(wanted, datetime):
        return reading.position_at(cursor, book, wanted)
    try:
        return reading.shown_position(cursor, book, wanted)
    except reading.PositionAhead:
        raise Problem(
            "behind", "The journal does not show that position yet.", headers=RETRY_SOON
        ) from None


@router.get(
    "/v1/books/{book}/trial-balance",
    summary="Look at a book's trial balance",
    operation_id="get_trial_balance",
    **read_docs(TrialBalanceView, examples.TRIAL_BALANCE, "not_found", "invalid_query"),
)
async def get_trial_balance(
    request: Request, book: BookName, _caller: Staff, query: Annotated[AtQuery, Query()]
) -> Response:
    """Every kind of account at a position or an instant. For operators and auditors."""
    name = _known(request, book)

    def find(cursor: Any) -> TrialBalanceView:
        at = _position(cursor, name, query.at)
        totals = reading.trial_balance(cursor, name, at)
        return TrialBalanceView(name, at, [total_view(one) for one in totals])

    return as_json(await (await shown(request, JOURNAL)).read(find))


@router.get(
    "/v1/books/{book}/accounts",
    summary="List a book's accounts with their balances",
    operation_id="list_accounts",
    **read_docs(AccountPage, examples.ACCOUNTS, "not_found", "invalid_query"),
)
async def list_accounts(
    request: Request, book: BookName, _caller: Staff, query: Annotated[AccountQuery, Query()]
) -> Response:
    """Accounts in the order in which they were opened. For operators and auditors."""
    name = _known(request, book)
    cursor_ = read_cursor(query.after, reading.AccountCursor)

    def find(cursor: Any) -> AccountPage:
        after = cursor_ or reading.AccountCursor(name, 0, _position(cursor, name, query.at))
        rows = reading.accounts(
            cursor,
            name,
            after.position,
            kind=query.kind,
            after=after.no,
            limit=query.limit + 1,
        )
        page = page_of(
            rows,
            query.limit,
            account_view,
            lambda one: reading.AccountCursor(name, one.no, after.position),
        )
        return AccountPage(name, after.position, *page)

    return as_json(await (await shown(request, JOURNAL)).read(find))


@router.get(
    "/v1/books/{book}/accounts/{account}/statement",
    summary="Read an account's statement",
    operation_id="get_statement_of_account",
    **read_docs(AccountStatementView, examples.ACCOUNT_STATEMENT, "not_found", "invalid_query"),
)
async def get_statement_of_account(
    request: Request,
    book: BookName,
    account: AccountName,
    _caller: Staff,
    query: Annotated[StatementQuery, Query()],
) -> Response:
    """Every line with the balance after it, the oldest first. For operators and auditors."""
    return await _statement(request, _known(request, book), account, query)


@router.get(
    "/v1/merchant/statement",
    summary="Read one's own statement",
    operation_id="get_own_statement",
    **read_docs(AccountStatementView, examples.OWN_STATEMENT, "not_found", "invalid_query"),
)
async def get_own_statement(
    request: Request, caller: Merchant, query: Annotated[OwnStatementQuery, Query()]
) -> Response:
    """Every line of the account of the caller's merchant. For merchants.

    Which person redeemed is not in it: the other side of a line is `holder`, or a packet.
    """
    book = _known(request, query.book)
    return await _statement(request, book, _own(caller), query, line_for_merchant)


def _own(caller: Caller) -> str:
    assert caller.merchant is not None, "the role merchant names a merchant"
    return merchant_account(caller.merchant)


async def _statement(
    request: Request,
    book: str,
    account: str,
    query: StatementQuery,
    told: Callable[[reading.Line], LineView] = line_view,
) -> Response:
    cursor_ = read_cursor(query.after, reading.LineCursor)
    unit = query.currency

    def find(cursor: Any) -> AccountStatementView:
        after = cursor_ or reading.LineCursor(book, 0, 0, unit, _position(cursor, book, query.at))
        rows = reading.statement(
            cursor,
            book,
            account,
            unit,
            after=(after.position, after.line),
            until=after.until,
            limit=query.limit + 1,
        )
        page = page_of(
            rows,
            query.limit,
            told,
            lambda one: reading.LineCursor(book, one.position, one.line, unit, after.until),
        )
        return AccountStatementView(book, account, after.until, *page)

    return as_json(await (await shown(request, JOURNAL)).read(find))
