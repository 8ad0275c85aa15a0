"""Transparency: each book's log as files, in the form that the tools of others read.

Checkpoints and tiles are for everybody: they are hashes. The entries are the events themselves, so
they are for auditors.
"""

from __future__ import annotations

import gzip
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response

from api import documentation
from api.errors import not_found, rate_limited
from api.ratelimit import address_key
from api.routes.books import BookName
from api.routes.ordinary import call_of, service_of
from api.routes.reading import Auditor, as_json
from api.transparency import LogView
from ledger.merkle import HASH_BYTES
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.copying import copy_entries
from ledger.transparency.statements import statement_signer
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import TILE_WIDTH, Tile, encode_bundle

router: Final = APIRouter(tags=["transparency"])

IMMUTABLE: Final = "public, max-age=31536000, immutable"
PRIVATE: Final = "private, max-age=31536000, immutable"
MOMENTARY: Final = "public, max-age=1"
"""A checkpoint is made every second; a cache in front takes the load of those who ask at once."""

TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"
PUBLIC_CODES: Final = (
    "not_found",
    "rate_limited",
    "overloaded",
    "store_unavailable",
    "internal_error",
)

TileNumber = Annotated[
    str,
    Path(
        description="The tile's number in groups of three digits, all but the last with `x`, and "
        "`.p/` with the width of a partial one.",
        examples=["x001/x234/067", "000.p/17"],
    ),
]


EXAMPLE: Final = {
    "book": "main",
    "origin": "ledger.example/main",
    "size": 15_052,
    "published": 15_040,
    "keys": ["ledger.example/main+22044f0f+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"],
    "statements": "ledger.example/main/statements+36f229d5+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3c"
    "hmQSVTG4",
}


def file_docs(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route that sends a file."""
    return {
        200: {
            "description": description,
            "content": {media_type: {"schema": {"type": "string"}}},
            "headers": dict(documentation.REQUEST_ID),
        }
    }


def _known(request: Request, book: str) -> str:
    if book not in service_of(request).writers:
        raise not_found()
    return book


async def _not_too_fast(request: Request) -> None:
    """Hold an address to the pace of one member of staff: who asks for hashes has no token."""
    service = service_of(request)
    scope = f"log:{address_key(call_of(request).address)}"
    wait_s = await service.limiter.take(scope, service.rates["auditor"])
    if wait_s > 0:
        raise rate_limited(wait_s)


PACED: Final = [Depends(_not_too_fast)]


@router.get(
    "/log/{book}",
    summary="Look at a book's log",
    operation_id="get_log",
    dependencies=PACED,
    response_class=Response,
    responses={
        **documentation.problems(PUBLIC_CODES),
        **documentation.reply(200, LogView, EXAMPLE),
    },
)
async def get_log(request: Request, book: BookName) -> Response:
    """Its origin and sizes, its keys, oldest first, and the key of statements. For everybody."""
    name = _known(request, book)

    def find(cursor: Any) -> Any:
        return (
            store.published(cursor, name),
            store.size_of(cursor, name),
            store.keys_of(cursor, name),
        )

    note, size, keys = await service_of(request).read(find)
    if note is None:
        raise not_found()
    served = Checkpoint.parse(note.text)
    seed = service_of(request).settings.refusal_secret()
    statements = str(statement_signer(served.origin, seed).verifier)
    told = [str(key) for key in keys]
    view = LogView(name, served.origin, size, served.size, told, statements)
    return as_json(view)


@router.get(
    "/log/{book}/checkpoint",
    summary="Get the signed head of a book's log",
    operation_id="get_checkpoint",
    dependencies=PACED,
    response_class=Response,
    responses={
        **documentation.problems(PUBLIC_CODES),
        **file_docs("A signed, cosigned checkpoint (C2SP tlog-checkpoint)", TEXT),
    },
)
async def get_checkpoint(request: Request, book: BookName) -> Response:
    """The last checkpoint that enough witnesses have cosigned. For everybody."""
    name = _known(request, book)
    note = await service_of(request).read(lambda cursor: store.published(cursor, name))
    if note is None:
        raise not_found()
    return Response(note.encode(), media_type=TEXT, headers={"Cache-Control": MOMENTARY})


@router.get(
    "/log/{book}/tile/entries/{number:path}",
    summary="Get a bundle of a log's entries",
    operation_id="get_entries",
    response_class=Response,
    responses={
        **documentation.problems((*documentation.READ, "not_found")),
        **file_docs(
            "A bundle of entries (C2SP tlog-tiles), as `gzip` where it is accepted", _BYTES
        ),
    },
    openapi_extra=documentation.signed(),
)
async def get_entries(
    request: Request, book: BookName, number: TileNumber, _caller: Auditor
) -> Response:
    """The entries whose hashes are in the tile of this number at level 0. For auditors."""
    name, tile = _known(request, book), _tile("entries", number)
    start = tile.number * TILE_WIDTH
    accepted = call_of(request).headers.get(b"accept-encoding", b"")
    packed = b"gzip" in accepted

    def find(cursor: Any) -> bytes | None:
        if not tile.is_in(_served_size(cursor, name)):
            return None
        rows = copy_entries(cursor, name, start, start + tile.width)
        bundle = encode_bundle(row.entry for row in rows)
        return gzip.compress(bundle, mtime=0) if packed else bundle

    headers = {"Cache-Control": PRIVATE, "Vary": "Accept-Encoding"}
    if packed:
        headers["Content-Encoding"] = "gzip"
    return _sent(await service_of(request).read(find), headers)


@router.get(
    "/log/{book}/tile/{level}/{number:path}",
    summary="Get a tile of a log's hashes",
    operation_id="get_tile",
    dependencies=PACED,
    response_class=Response,
    responses={
        **documentation.problems(PUBLIC_CODES),
        **file_docs("A tile of hashes (C2SP tlog-tiles)", _BYTES),
    },
)
async def get_tile(
    request: Request,
    book: BookName,
    level: Annotated[str, Path(description="The tile's level, from 0 on.", examples=["0"])],
    number: TileNumber,
) -> Response:
    """Up to 256 hashes, which never change. For everybody."""
    name, tile = _known(request, book), _tile(level, number)

    def find(cursor: Any) -> bytes | None:
        if not tile.is_in(_served_size(cursor, name)):
            return None
        (stored,) = store.tile_reader(cursor, name)([(tile.level or 0, tile.number)])
        return stored[: tile.width * HASH_BYTES]

    return _sent(await service_of(request).read(find), {"Cache-Control": IMMUTABLE})


def _tile(kind: str, number: str) -> Tile:
    try:
        return Tile.parse_parts(kind, number)
    except Malformed:
        raise not_found() from None


def _served_size(cursor: Any, book: str) -> int:
    """Nothing is shown of the tree beyond the checkpoint that is served."""
    note = store.published(cursor, book)
    return 0 if note is None else Checkpoint.parse(note.text).size


def _sent(content: bytes | None, headers: dict[str, str]) -> Response:
    if content is None:
        raise not_found()
    return Response(content, media_type=_BYTES, headers=headers)
