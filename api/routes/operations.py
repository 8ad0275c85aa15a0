"""Operations: is it alive, is it ready, what does it count, how is it called.

Apart from `/healthz` and the pages about problems, all of this is for the admin networks; for
everybody else it does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from api import documentation, examples, metrics
from api.errors import BY_CODE, TABLE, Trouble, not_found
from api.routes.ordinary import service_of
from api.routes.reading import as_json, only_admin
from api.views import Health, Readiness

router: Final = APIRouter(tags=["operations"])
admin: Final = APIRouter(tags=["operations"], dependencies=[Depends(only_admin)])

_ASSETS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "swagger-ui.css": ("fastapi_offline", "swagger-ui.css", "text/css"),
        "swagger-ui-bundle.js": ("fastapi_offline", "swagger-ui-bundle.js", "text/javascript"),
        "favicon.png": ("fastapi_offline", "favicon.png", "image/png"),
        "docs.js": ("api", "docs.js", "text/javascript"),
    }
)
"""Name → package, file and type. They come with the installation, never from another server."""

_DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


_HIDDEN: Final = documentation.problems(("not_found",))


@router.get(
    "/healthz",
    summary="Is this process alive?",
    operation_id="get_health",
    response_class=Response,
    responses=documentation.reply(200, Health, {"status": "alive"}),
)
async def get_health() -> Response:
    """Asks nothing else: a restart must not become the cure for a slow database."""
    return as_json(Health("alive"))


@admin.get(
    "/readyz",
    summary="Can this server do its work?",
    operation_id="get_readiness",
    response_class=Response,
    responses={
        **_HIDDEN,
        **documentation.reply(200, Readiness, examples.READY),
        **documentation.reply(503, Readiness, {**examples.READY, "status": "unready"}),
    },
)
async def get_readiness(request: Request) -> Response:
    """503 when the database cannot be read or is unsafe; `degraded` still works."""
    readiness = await service_of(request).readiness()
    return as_json(readiness, 503 if readiness.status == "unready" else 200)


@admin.get(
    "/metrics", summary="Metrics for Prometheus", operation_id="get_metrics", responses=_HIDDEN
)
async def get_metrics(request: Request) -> Response:
    """Counters and gauges of all of this server's processes, in the text format."""
    service = service_of(request)
    await service.measure_lag()
    text, content_type = metrics.exposition(service.settings.metrics_dir)
    return Response(text, headers={"Content-Type": content_type})


@admin.get(
    "/openapi.json", summary="This description", operation_id="get_openapi", responses=_HIDDEN
)
async def get_openapi(request: Request) -> JSONResponse:
    """OpenAPI 3.1."""
    return JSONResponse(request.app.openapi())


@admin.get("/docs", include_in_schema=False)
async def get_docs() -> HTMLResponse:
    """The description as a page."""
    page = (files("api") / "static" / "docs.html").read_text("utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": _DOCS_POLICY})


@admin.get("/docs/assets/{name}", include_in_schema=False)
async def get_asset(name: str) -> Response:
    """What the page needs."""
    if name not in _ASSETS:
        raise not_found()
    package, file, media_type = _ASSETS[name]
    content = (files(package) / "static" / file).read_bytes()
    return Response(
        content, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"}
    )


@router.get("/problems", include_in_schema=False)
async def list_problems() -> HTMLResponse:
    """Every code on one page."""
    return _page("Problems", "".join(_section(row) for row in TABLE))


@router.get(
    "/problems/{code}",
    summary="What a problem means",
    operation_id="get_problem",
    responses=_HIDDEN,
)
async def get_problem(code: str) -> HTMLResponse:
    """The page that the `type` of a problem leads to."""
    if code not in BY_CODE:
        raise not_found()
    return _page(BY_CODE[code].title, _section(BY_CODE[code]))


def _section(row: Trouble) -> str:
    meaning = escape(row.meaning)
    return (
        f"<section><h2>{escape(row.title)}</h2>"
        f"<p><code>{escape(row.code)}</code>, HTTP {row.status}</p><p>{meaning}</p></section>"
    )


def _page(title: str, body: str) -> HTMLResponse:
    style = "body{font:1rem/1.5 sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}: Tidebook</title><style>{style}</style></head>"
        f"<body>{body}</body></html>"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})
