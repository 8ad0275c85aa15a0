"""Books: what auditors read, exactly as it is stored."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from api import examples
from api.errors import not_found
from api.paging import LIMIT_DEFAULT, Limit, Position
from api.routes.ordinary import service_of
from api.routes.reading import Auditor, as_json, read_docs
from api.views import EventPage, HeadView, event_views

router: Final = APIRouter(tags=["books"])

BookName = Annotated[
    str,
    Path(
        description="A book's name.",
        examples=["main"],
        json_schema_extra={"pattern": "^[a-z][a-z0-9]{0,15}$"},
    ),
]

_EVENTS: Final = """
SELECT position, originator_id, originator_version, topic, state FROM event
WHERE book = %s AND position > %s ORDER BY position LIMIT %s
"""
_HEAD: Final = "SELECT position, nullif(at, '-infinity') FROM book_head WHERE book = %s"


class EventQuery(BaseModel):
    """Which events are wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Position = 0
    limit: Limit = LIMIT_DEFAULT


def _known(request: Request, book: str) -> str:
    if book not in service_of(request).writers:
        raise not_found()
    return book


@router.get(
    "/v1/books/{book}/events",
    summary="Read a book's events in order",
    operation_id="list_events",
    **read_docs(EventPage, examples.EVENTS, "not_found", "invalid_query", fresh=False),
)
async def list_events(
    request: Request,
    book: BookName,
    _caller: Auditor,
    query: Annotated[EventQuery, Query()],
) -> Response:
    """Stored events after a position, each with its state exactly as stored. For auditors."""
    place = (_known(request, book), query.after, query.limit)

    def find(cursor: Any) -> Any:
        cursor.execute(_EVENTS, place)
        return cursor.fetchall()

    events = event_views(await service_of(request).read(find))
    following = events[-1].position if len(events) == query.limit else None
    return as_json(EventPage(events, following))


@router.get(
    "/v1/books/{book}/head",
    summary="Look at where a book ends",
    operation_id="get_head",
    **read_docs(HeadView, examples.HEAD, "not_found", fresh=False),
)
async def get_head(request: Request, book: BookName, _caller: Auditor) -> Response:
    """The book's last position and the instant of its last event. For auditors."""
    name = _known(request, book)

    def find(cursor: Any) -> Any:
        cursor.execute(_HEAD, (name,))
        return cursor.fetchone()

    position, at = await service_of(request).read(find) or (0, None)
    return as_json(HeadView(name, position, at))
