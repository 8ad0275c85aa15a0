"""Group packets: operators fill purses, people send from them, and others take shares."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from api import examples
from api.callers import Caller
from api.errors import not_found
from api.groupviews import (
    GroupCodeView,
    GroupFiguresView,
    GroupPage,
    GroupView,
    PersonView,
    PursePage,
    PurseView,
    figures_view,
    group_view,
    may_see,
    purse_view,
)
from api.paging import Page, page_of, read_cursor
from api.routes.ordinary import CampaignId, GroupId, PurseId, Words, add_write, target_of
from api.routes.reading import Anybody, Staff, Tourist, as_json, public_id_of, read_docs, shown
from api.schemas import (
    EmptyBody,
    FillingBody,
    GroupBody,
    MoneyBody,
    PurseBody,
    ReasonBody,
    ShareBody,
)
from api.service import Service
from api.views import STAFF
from api.writes import Order, Write
from campaigns import commands
from campaigns.groups.commands import (
    ApproveFilling,
    EmptyPurse,
    ProposeFilling,
    SendGroup,
    TakeShare,
    group_id,
)
from campaigns.groups.giving_up import GiveUpGroup, ProposeGivingUp
from campaigns.groups.replies import (
    GROUP_PREFIX,
    PURSE_PREFIX,
    GivingUpReply,
    GroupReply,
    PurseReply,
    ShareReply,
)
from campaigns.groups.sharing import code_of
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.books import Book
from ledger.money import Money
from projections import groups
from projections.groups import GROUPS, GroupAt, ShareAt

router: Final = APIRouter(tags=["group packets"])

Command = tuple[Book, commands.Command]


def _money(amount: MoneyBody) -> Money:
    return Money(amount.amount_minor, amount.currency)


def _propose(order: Order[PurseBody], _service: Service) -> Command:
    book, campaign, body = target_of(order).book, target_of(order).uuid, order.body
    return book, ProposeFilling(book, campaign, body.person, _money(body.amount))


def _approve(order: Order[FillingBody], service: Service) -> Command:
    target = target_of(order)
    amount = _money(order.body.amount)
    return target.book, ApproveFilling(target.book, target.uuid, amount, service.draw_key)


def _empty(order: Order[ReasonBody], _service: Service) -> Command:
    target = target_of(order)
    return target.book, EmptyPurse(target.book, target.uuid, order.body.reason)


def _send(order: Order[GroupBody], service: Service) -> Command:
    target, caller, body = target_of(order), order.caller, order.body
    return target.book, SendGroup(
        target.book,
        target.uuid,
        group=group_id(target.book, caller.actor, order.key),
        sender=caller.person,
        kind=body.kind,
        shares=body.shares,
        total=_money(body.total),
        salt=body.salt,
        members=None if body.members is None else tuple(body.members),
        sender_may_take=body.sender_may_take,
        draw_key=service.draw_key,
    )


def _take(order: Order[ShareBody], service: Service) -> Command:
    target = target_of(order)
    return target.book, TakeShare(
        target.book, target.uuid, order.caller.person, order.body.code, service.draw_key
    )


def _propose_giving_up(order: Order[ReasonBody], service: Service) -> Command:
    target = target_of(order)
    reason = order.body.reason
    return target.book, ProposeGivingUp(target.book, target.uuid, service.draw_key, reason)


def _give_up(order: Order[EmptyBody], service: Service) -> Command:
    target = target_of(order)
    return target.book, GiveUpGroup(target.book, target.uuid, service.draw_key)


_CAMPAIGN: Final = "/v1/campaigns/{campaign}"
_PURSE: Final = "/v1/purses/{purse}"
_GROUP: Final = "/v1/groups/{group}"

FILL: Final = Write(f"{_CAMPAIGN}/purses", "operator", PurseBody, "cmp", _propose)
APPROVE: Final = Write(f"{_PURSE}/approval", "operator", FillingBody, "prs", _approve)
EMPTY: Final = Write(f"{_PURSE}/empty", "operator", ReasonBody, "prs", _empty)
SEND: Final = Write(f"{_PURSE}/groups", "tourist", GroupBody, "prs", _send)
TAKE: Final = Write(f"{_GROUP}/shares", "tourist", ShareBody, "grp", _take)
LOSE: Final = Write(f"{_GROUP}/giving-up", "operator", ReasonBody, "grp", _propose_giving_up)
GIVE_UP: Final = Write(f"{_GROUP}/giving-up/approval", "operator", EmptyBody, "grp", _give_up)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        FILL,
        Words(
            "Propose money for a person's purse",
            "propose_filling",
            "filling_proposed",
            PurseReply,
            examples.PURSE_BODY,
            examples.purse(0, proposed=True),
        ),
    ),
    (
        APPROVE,
        Words(
            "Approve money for a purse, as a second operator",
            "approve_filling",
            "purse_filled",
            PurseReply,
            examples.FILLING_BODY,
            examples.purse(100_000),
        ),
    ),
    (
        EMPTY,
        Words(
            "Give back what is in a purse",
            "empty_purse",
            "purse_emptied",
            PurseReply,
            examples.REASON,
            examples.purse(0),
        ),
    ),
    (
        SEND,
        Words(
            "Send a sum to a group",
            "send_group",
            "group_funded",
            GroupReply,
            examples.GROUP_BODY,
            examples.GROUP_SENT,
        ),
    ),
    (
        TAKE,
        Words(
            "Take a share of a group packet, and open it",
            "take_share",
            "share_taken",
            ShareReply,
            examples.SHARE_BODY,
            examples.SHARE_TAKEN,
        ),
    ),
    (
        LOSE,
        Words(
            "Propose to give up a group packet whose seed is lost",
            "propose_giving_up",
            "giving_up_proposed",
            GivingUpReply,
            examples.LOST_KEY,
            examples.GIVING_UP,
        ),
    ),
    (
        GIVE_UP,
        Words(
            "Give up a group packet whose seed is lost, as a second operator",
            "give_up_group",
            "group_returned",
            PurseReply,
            {},
            examples.purse(16_859),
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


# --- reading --------------------------------------------------------------------------------------


@router.get(
    "/v1/person",
    summary="Look at what one is called",
    operation_id="get_person",
    **read_docs(PersonView, examples.PERSON_VIEW, fresh=False),
)
async def get_person(caller: Tourist) -> Response:
    """One's own pseudonym, by which a sender can name one as a member of a group. For tourists."""
    return as_json(PersonView(caller.person))


@router.get(
    "/v1/purses",
    summary="List one's own purses, the newest first",
    operation_id="list_purses",
    **read_docs(PursePage, {"items": [examples.PURSE_VIEW], "next": None}, "invalid_query"),
)
async def list_purses(
    request: Request, caller: Tourist, query: Annotated[Page, Query()]
) -> Response:
    """What one may send, campaign by campaign. For tourists."""
    after = read_cursor(query.after, groups.PurseCursor)
    service = await shown(request, GROUPS)
    rows = await service.read(
        lambda cursor: groups.purses_of(cursor, caller.person, after=after, limit=query.limit + 1)
    )
    return as_json(PursePage(*page_of(rows, query.limit, purse_view, groups.purse_cursor_of)))


@router.get(
    _PURSE,
    summary="Look at a purse",
    operation_id="get_purse",
    **read_docs(PurseView, examples.PURSE_VIEW, "not_found"),
)
async def get_purse(request: Request, purse: PurseId, caller: Anybody) -> Response:
    """For its person, operators and auditors; for anybody else it does not exist."""
    found = public_id_of(request, purse, PURSE_PREFIX)
    service = await shown(request, GROUPS)
    row = await service.read(lambda cursor: groups.purse(cursor, found.book, found.uuid))
    if row is None or (caller.role not in STAFF and not _is_own(caller, row.person)):
        raise not_found()
    return as_json(purse_view(row))


@router.get(
    "/v1/groups",
    summary="List the group packets that one sent, the newest first",
    operation_id="list_groups",
    **read_docs(GroupPage, {"items": [examples.GROUP_LISTED], "next": None}, "invalid_query"),
)
async def list_groups(
    request: Request, caller: Tourist, query: Annotated[Page, Query()]
) -> Response:
    """Without their takings, which each one shows by itself. For tourists."""
    after = read_cursor(query.after, groups.GroupCursor)
    service = await shown(request, GROUPS)
    rows = await service.read(
        lambda cursor: groups.groups_of(cursor, caller.person, after=after, limit=query.limit + 1)
    )
    return as_json(
        GroupPage(
            *page_of(
                rows, query.limit, lambda row: group_view(row, None, caller), groups.group_cursor_of
            )
        )
    )


@router.get(
    _GROUP,
    summary="Look at a group packet",
    operation_id="get_group",
    **read_docs(GroupView, examples.GROUP_VIEW, "not_found"),
)
async def get_group(request: Request, group: GroupId, caller: Anybody) -> Response:
    """For its sender, its members, who took a share, operators and auditors.

    What others took, and the seed, are there once it is closed.
    """
    row, shares, _service = await _group(request, group)
    if not may_see(row, shares, caller):
        raise not_found()
    return as_json(group_view(row, shares, caller))


@router.get(
    f"{_GROUP}/code",
    summary="Look at the code of a group packet",
    operation_id="get_group_code",
    **read_docs(GroupCodeView, examples.GROUP_CODE, "not_found"),
)
async def get_group_code(request: Request, group: GroupId, caller: Tourist) -> Response:
    """For its sender, who passes it on. It is stored nowhere; a group of members has none."""
    row, _shares, service = await _group(request, group)
    if row.person != caller.person or row.members is not None:
        raise not_found()
    return as_json(GroupCodeView(group, code_of(service.draw_key(), row.group_id)))


@router.get(
    f"{_CAMPAIGN}/groups/figures",
    summary="Look at the figures of a campaign's group packets",
    operation_id="get_group_figures",
    **read_docs(GroupFiguresView, examples.GROUP_FIGURES, "not_found"),
)
async def get_group_figures(request: Request, campaign: CampaignId, _caller: Staff) -> Response:
    """Money as of a position of the campaign's book. For operators and auditors."""
    found = public_id_of(request, campaign, CAMPAIGN_PREFIX)
    service = await shown(request, GROUPS)
    row = await service.read(lambda cursor: groups.figures(cursor, found.book, found.uuid))
    if row is None:
        raise not_found()
    return as_json(figures_view(row))


async def _group(request: Request, group: str) -> tuple[GroupAt, list[ShareAt], Service]:
    found = public_id_of(request, group, GROUP_PREFIX)
    service = await shown(request, GROUPS)

    def read(cursor: Any) -> tuple[GroupAt | None, list[ShareAt]]:
        row = groups.group(cursor, found.book, found.uuid)
        return row, [] if row is None else groups.shares(cursor, found.book, found.uuid)

    row, shares = await service.read(read)
    if row is None:
        raise not_found()
    return row, shares, service


def _is_own(caller: Caller, person: str) -> bool:
    return caller.role == "tourist" and caller.person == person
