"""Daily proofs of no over-issue: published for everybody, and never changed."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Request, Response

from api import documentation
from api.daily import store
from api.daily.figures import COUNTS
from api.daily.views import DailyProofList, DailyProofView
from api.errors import not_found
from api.routes.books import BookName
from api.routes.ordinary import CampaignId, service_of
from api.routes.reading import public_id_of
from api.routes.transparency import IMMUTABLE, PACED, PUBLIC_CODES, TEXT, file_docs
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.transparency.notes import parse_note
from ledger.transparency.statements import Statement

router: Final = APIRouter(tags=["transparency"])

A_MINUTE: Final = "public, max-age=60"
"""A list grows by one proof a day."""


EXAMPLE: Final = {
    "campaign": "cmp_main_0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50",
    "proofs": [
        {
            "day": "2026-05-01",
            "size": 4_711,
            "quota": 1_000,
            "figures": {"issued": 873, "outstanding": 61, "redeemed": 800},
            "over_issued": False,
            "sha256": "5b1f" + "0" * 60,
        }
    ],
}


@router.get(
    "/log/{book}/daily-proofs/{campaign}",
    summary="List the daily proofs of a campaign",
    operation_id="list_daily_proofs",
    dependencies=PACED,
    response_class=Response,
    responses={
        **documentation.problems(PUBLIC_CODES),
        **documentation.reply(200, DailyProofList, EXAMPLE),
    },
)
async def list_daily_proofs(request: Request, book: BookName, campaign: CampaignId) -> Response:
    """Each day that is proved, with its figures. For everybody."""
    found = public_id_of(request, campaign, CAMPAIGN_PREFIX)

    def find(cursor: Any) -> list[store.Stored]:
        return store.proofs(cursor, book, found.uuid)

    stored = await service_of(request).read(find) if found.book == book else []
    if not stored:
        raise not_found()
    view = DailyProofList(campaign, [_view(one) for one in stored])
    return Response(
        msgspec.json.encode(view),
        media_type="application/json",
        headers={"Cache-Control": A_MINUTE},
    )


@router.get(
    "/log/{book}/daily-proofs/{campaign}/{day}",
    summary="Get the daily proof of a campaign",
    operation_id="get_daily_proof",
    dependencies=PACED,
    response_class=Response,
    responses={
        **documentation.problems(PUBLIC_CODES),
        **file_docs("A statement of the day's figures (C2SP signed-note)", TEXT),
    },
)
async def get_daily_proof(
    request: Request,
    book: BookName,
    campaign: CampaignId,
    day: Annotated[
        str, Path(description="The day, in the campaign's zone.", examples=["2026-05-01"])
    ],
) -> Response:
    """What was issued, redeemed and given back by the end of a day, signed. For everybody."""
    found = public_id_of(request, campaign, CAMPAIGN_PREFIX)
    try:
        wanted = date.fromisoformat(day)
    except ValueError:
        raise not_found() from None
    if found.book != book or wanted.isoformat() != day:
        raise not_found()

    def find(cursor: Any) -> store.Stored | None:
        return store.proof(cursor, book, found.uuid, wanted)

    stored = await service_of(request).read(find)
    if stored is None:
        raise not_found()
    return Response(stored.note, media_type=TEXT, headers={"Cache-Control": IMMUTABLE})


def _view(stored: store.Stored) -> DailyProofView:
    lines = Statement.parse(parse_note(stored.note).text).lines
    return DailyProofView(
        stored.day.isoformat(),
        stored.position,
        int(lines["quota"]),
        {name: int(lines[name]) for name in COUNTS},
        lines["over_issued"] != "no",
        stored.sha256.hex(),
    )
