"""The smallest service that a scenario can run against: claims of one campaign, in a list.

A forgetful one answers its first claim, and some later ones, without keeping them: the planted bug
«answer before commit», followed by a crash. A liar says «sold out» to some people while there is
stock, and would sell to whoever asks next.
"""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator

CAMPAIGN = UUID(int=7)
FACE = 5_000
QUOTA = 1_000_000
VALID = {"valid_from": "000000001", "valid_until": "2999-01-01T00:00:00Z"}
EVERY = 10
"""One claim in so many meets the planted bug, beginning with the first."""

Json = dict[str, Any]


def money(amount_minor: int) -> Json:
    """An amount as the API writes it."""
    return {"amount_minor": amount_minor, "currency": "CNY"}


class Service:
    """One open campaign."""

    def __init__(self, *, forgetful: bool = False, liar: bool = False) -> None:
        self.forgetful, self.liar = forgetful, liar
        self.events: list[Json] = []
        self.claims: dict[str, tuple[Json, int]] = {}
        self.holders: dict[str, str] = {}
        self.asked = 0
        self.lock = threading.Lock()
        campaign = CAMPAIGN.hex
        self.keep("campaign.drafted", campaign, 1, terms={"per_person_limit": 1, "restock": False})
        funds = {"quota": QUOTA, "budget_minor": QUOTA * FACE}
        change = {"quota_change": QUOTA, "budget_change_minor": QUOTA * FACE}
        self.keep("campaign.funded", campaign, 2, **funds, **change, currency="CNY", sponsor="city")
        self.keep("campaign.opened", campaign, 3)

    def keep(self, topic: str, stream: str, version: int, **state: Any) -> str:
        """Append an event; return its instant."""
        position = len(self.events) + 1
        at = f"{position:09}"
        event = {"position": position, "topic": topic, "stream": stream, "version": version}
        self.events.append({**event, "state": {"at": at, **state}})
        return at

    def claim(self, person: str, key: str) -> tuple[int, Json, dict[str, str]]:
        """Answer a claim: status, body and headers."""
        with self.lock:
            self.asked += 1
            if key in self.claims:
                body, position = self.claims[key]
                replayed = {"Idempotency-Replayed": "true"}
                return 201, body, {"Tidebook-Position": f"main:{position}", **replayed}
            here = {"Tidebook-Position": f"main:{len(self.events)}"}
            if person in self.holders:
                coupon = f"cpn_main_{self.holders[person]}"
                return 409, {"code": "already_claimed", "coupon": coupon}, here
            if self.liar and self.asked % EVERY == 2:
                return 409, {"code": "sold_out"}, here
            return self._issue(person, key)

    def _issue(self, person: str, key: str) -> tuple[int, Json, dict[str, str]]:
        stream = uuid4().hex
        self.holders[person] = stream
        position, at = len(self.events) + 1, f"{len(self.events) + 1:09}"
        if not (self.forgetful and len(self.holders) % EVERY == 1):
            worth = {"face_minor": FACE, "threshold_minor": FACE, "currency": "CNY"}
            about = {"campaign": CAMPAIGN.hex, "person": person, "n": 1, "why": {"key": key}}
            self.keep("coupon.claimed", stream, 1, **about, **worth, **VALID)
        body = {
            "coupon": f"cpn_main_{stream}",
            "campaign": f"cmp_main_{CAMPAIGN.hex}",
            "n": 1,
            "face": money(FACE),
            "threshold": money(FACE),
            "claimed_at": at,
            **VALID,
        }
        self.claims[key] = body, position
        return 201, body, {"Tidebook-Position": f"main:{position}"}

    def figures(self) -> Json:
        """The campaign's figures, as the events say."""
        claimed = len(self.events) - 3
        coupons = dict.fromkeys(("redeemed", "expired", "voided", "reclaimed"), 0)
        return {
            "quota": QUOTA,
            "coupons": {**coupons, "claimed": claimed, "held": claimed},
            "money": {"pot": money((QUOTA - claimed) * FACE), "held": money(claimed * FACE)},
        }

    def page(self, after: int, limit: int) -> Json:
        """A page of the events."""
        items = self.events[after : after + limit]
        return {"items": items, "next": after + limit if len(items) == limit else None}


class Handler(BaseHTTPRequestHandler):
    """HTTP around the service."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    service: Service

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Sign in, claim, or anything that sets the stage."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/dev/token":
            self.reply(200, {"access_token": body["identity"].replace(" ", "-")})
        elif self.path == "/v1/sessions":
            self.reply(404, {"code": "not_found"})
        elif self.path.endswith("/claims"):
            person = self.headers["authorization"]
            self.reply(*self.service.claim(person, self.headers["idempotency-key"]))
        else:
            self.reply(201, {"campaign": f"cmp_main_{CAMPAIGN.hex}"})

    def do_GET(self) -> None:
        """The feed, the head or the figures."""
        parts = urlsplit(self.path)
        if parts.path.endswith("/events"):
            query = parse_qs(parts.query)
            self.reply(200, self.service.page(int(query["after"][0]), int(query["limit"][0])))
        elif parts.path.endswith("/head"):
            self.reply(200, {"position": len(self.service.events)})
        elif parts.path.endswith("/figures"):
            self.reply(200, self.service.figures())
        else:
            self.reply(404, {"code": "not_found"})

    def reply(self, status: int, body: Json, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving(service: Service) -> Iterator[str]:
    """The service on a free port."""
    handler = type("BoundHandler", (Handler,), {"service": service})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
