"""The Locust scenarios are green on an honest service and red on one that forgets what it said."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest

from tests.conftest import wait_until

CLAIMS_MIN = 20
"""Enough that a service which forgets one in ten has forgotten some."""

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
CAMPAIGN = UUID(int=7)
FACE = 5_000
QUOTA = 1_000_000

Json = dict[str, Any]


class Service:
    """The smallest service that the scenario can run against; it keeps its events in a list.

    A forgetful one answers its first claim, and some later ones, without keeping them: the planted
    bug «answer before commit», followed by a crash.
    """

    def __init__(self, *, forgetful: bool) -> None:
        self.forgetful = forgetful
        self.events: list[Json] = []
        self.claims: dict[str, Json] = {}
        self.holders: dict[str, str] = {}
        self.lock = threading.Lock()
        campaign = CAMPAIGN.hex
        self.keep("campaign.drafted", campaign, 1, terms={"per_person_limit": 1, "restock": False})
        funds = {"quota": QUOTA, "budget_minor": QUOTA * FACE}
        change = {"quota_change": QUOTA, "budget_change_minor": QUOTA * FACE}
        money = {"currency": "CNY", "sponsor": "city"}
        self.keep("campaign.funded", campaign, 2, **funds, **change, **money)
        self.keep("campaign.opened", campaign, 3)

    def keep(self, topic: str, stream: str, version: int, **state: Any) -> None:
        """Append an event."""
        position = len(self.events) + 1
        event = {"position": position, "topic": topic, "stream": stream, "version": version}
        self.events.append({**event, "state": {"at": f"{position:09}", **state}})

    def claim(self, person: str, key: str) -> tuple[int, Json, bool]:
        """Answer a claim; say whether it is a replay."""
        with self.lock:
            if key in self.claims:
                return 201, self.claims[key], True
            if person in self.holders:
                return 409, {"code": "already_claimed"}, False
            stream = uuid4().hex
            body = {"coupon": f"cpn_main_{stream}", "campaign": f"cmp_main_{CAMPAIGN.hex}"}
            self.claims[key], self.holders[person] = body, stream
            if not (self.forgetful and len(self.claims) % 10 == 1):
                coupon = {"campaign": CAMPAIGN.hex, "person": person, "n": 1}
                worth = {"face_minor": FACE, "threshold_minor": FACE, "currency": "CNY"}
                self.keep("coupon.claimed", stream, 1, **coupon, **worth)
            return 201, body, False

    def figures(self) -> Json:
        """The campaign's figures, as the events say."""
        claimed = len(self.events) - 3
        coupons = dict.fromkeys(("redeemed", "expired", "voided", "reclaimed"), 0)
        return {
            "quota": QUOTA,
            "coupons": {**coupons, "claimed": claimed, "held": claimed},
            "money": {
                "pot": {"amount_minor": (QUOTA - claimed) * FACE},
                "held": {"amount_minor": claimed * FACE},
            },
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
        elif self.path.endswith("/claims"):
            person = self.headers["authorization"]
            status, answer, replayed = self.service.claim(person, self.headers["idempotency-key"])
            self.reply(status, answer, {"Idempotency-Replayed": "true"} if replayed else {})
        else:
            self.reply(201, {"campaign": f"cmp_main_{CAMPAIGN.hex}"})

    def do_GET(self) -> None:
        """The feed, the figures, or a wallet that nobody looks into."""
        parts = urlsplit(self.path)
        if parts.path.endswith("/events"):
            query = parse_qs(parts.query)
            self.reply(200, self.service.page(int(query["after"][0]), int(query["limit"][0])))
        elif parts.path.endswith("/head"):
            self.reply(200, {"position": len(self.service.events)})
        else:
            self.reply(200, self.service.figures() if parts.path.endswith("/figures") else {})

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


@pytest.mark.parametrize(
    ("forgetful", "status", "words"),
    [(False, 0, "every invariant holds"), (True, 1, "what was answered is stored")],
)
def test_the_rush_ends_red_exactly_when_something_was_lost(
    forgetful: bool, status: int, words: str
) -> None:
    """Same scenario, same traffic: the exit status tells the honest service from the other."""
    service = Service(forgetful=forgetful)
    with serving(service) as url:
        arguments = ["--headless", "-u", "5", "-r", "5", "-H", url, "Tourist", "--only-summary"]
        with subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", LOCUSTFILE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as locust:
            try:
                wait_until(lambda: len(service.claims) >= CLAIMS_MIN or locust.poll() is not None)
                locust.send_signal(signal.SIGINT)
                output, _ = locust.communicate(timeout=120)
            finally:
                locust.kill()
    assert service.claims, output
    assert words in output, output
    assert locust.returncode == status, output
