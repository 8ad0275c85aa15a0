"""A service in an event loop of its own, called through ASGI as a server would call it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx

from api.app import create_app
from api.plain import plain_call
from api.service import Service
from api.settings import Settings
from ledger.datastore import Datastore
from projections.registry import PROJECTIONS
from projections.runner import Runner

T = TypeVar("T")

UNLIMITED: dict[str, Any] = {
    "rate_tourist_per_s": 0,
    "rate_staff_per_s": 0,
    "rate_missing_per_min": 0,
    "rate_missing_address_per_min": 0,
}


def yuan(amount: int) -> dict[str, Any]:
    """An amount of whole yuan."""
    return {"amount_minor": amount * 100, "currency": "CNY"}


def draft_body(now: datetime | None = None, **changes: Any) -> dict[str, Any]:
    """An ordinary campaign: 50 yuan off, one each, open for an hour, valid for a day."""
    now = now or datetime.now(UTC)
    return {
        "name": "春天 spring",
        "sponsor": "province",
        "coupon": {"kind": "fixed", "face": yuan(50)},
        "claim_window": {
            "from": (now - timedelta(minutes=1)).isoformat(),
            "until": (now + timedelta(hours=1)).isoformat(),
        },
        "validity_window": {
            "from": (now - timedelta(minutes=1)).isoformat(),
            "until": (now + timedelta(days=1)).isoformat(),
        },
        "zone": "Asia/Shanghai",
        **changes,
    }


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        """Run a coroutine in the loop and wait for it."""
        return self.start(work).result(timeout_s)

    def close(self) -> None:
        """Stop the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class LaneTransport(httpx.ASGITransport):
    """Offers each call to the application's lane, as the server's protocol does, and then to ASGI.

    The lane's bytes are read back, so that a test cannot tell which way a call took.
    """

    app: Any

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one call."""
        body = await request.aread()
        target = request.url.raw_path
        lines = [
            f"{request.method} ".encode() + target + b" HTTP/1.1",
            *(b"%b: %b" % header for header in request.headers.raw),
        ]
        data = b"\r\n".join(lines) + b"\r\n\r\n" + body
        call = plain_call(data, self.client[0])
        if call is not None and self.app.lane is not None:
            answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            if self.app.lane.take(call, lambda line, rest: answered.set_result(line + rest)):
                return _read_back(await answered)
        request.stream = httpx.ByteStream(body)
        return await super().handle_async_request(request)


def _read_back(response: bytes) -> httpx.Response:
    head, _, body = response.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    headers = [(name, value) for name, _, value in (field.partition(b": ") for field in fields)]
    return httpx.Response(int(line.split(b" ")[1]), headers=headers, content=body)


class App:
    """A started service with clients for each role."""

    def __init__(self, settings: Settings, *, fast: bool = True) -> None:
        self.settings = settings
        self.time: str | None = None
        """The instant of every write, for a service with the clock `request`."""
        self.loop = Loop()
        self.service = Service(settings)
        self.asgi = create_app(self.service, fast=fast)
        self.loop.run(self.service.start())
        self.client = httpx.AsyncClient(
            transport=LaneTransport(app=self.asgi, client=("203.0.113.7", 4711)),
            base_url="http://tidebook.test",
        )
        self.admin = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.asgi, client=("127.0.0.1", 4711)),
            base_url="http://tidebook.test",
        )
        assert settings.database_url is not None
        self.datastore = Datastore(settings.database_url.get_secret_value())
        self._keys = (f"key-{n:06}" for n in itertools.count())

    def close(self) -> None:
        """Stop the service as a server would."""
        self.loop.run(self.client.aclose())
        self.loop.run(self.admin.aclose())
        self.loop.run(self.service.stop())
        self.loop.close()
        self.datastore.close()

    # --- calls --------------------------------------------------------------------------------

    def token(self, role: Any, identity: str = "", merchant: str | None = None) -> str:
        """A token for somebody in a role."""
        assert self.service.dev_issuer is not None
        if role == "merchant":
            merchant = merchant or "shop-1"
        return self.service.dev_issuer.token(role, identity or f"a {role}", merchant)

    def start(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        key: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        admin: bool = False,
        **body: Any,
    ) -> Future[httpx.Response]:
        """Start a call; a POST gets a new idempotency key unless it is given one ("" for none)."""
        sent = list(headers)
        if token is not None:
            sent.append(("Authorization", f"Bearer {token}"))
        if method == "POST" and key is None:
            key = next(self._keys)
        if key:
            sent.append(("Idempotency-Key", key))
        if self.time is not None and method == "POST":
            sent.append(("Tidebook-Time", self.time))
        client = self.admin if admin else self.client
        return self.loop.start(client.request(method, path, headers=sent, **body))

    def call(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Call and wait for the answer."""
        return self.start(method, path, **how).result(60)

    def post(self, path: str, json: Any = None, **how: Any) -> httpx.Response:
        """POST a JSON body, or none."""
        if json is not None:
            how["json"] = json
        return self.call("POST", path, **how)

    def get(self, path: str, **how: Any) -> httpx.Response:
        """GET."""
        return self.call("GET", path, **how)

    # --- scenes -------------------------------------------------------------------------------

    def draft(self, **changes: Any) -> str:
        """Draft a campaign; return its id."""
        reply = self.post("/v1/campaigns", draft_body(**changes), token=self.token("operator"))
        assert reply.status_code == 201, reply.text
        campaign: str = reply.json()["campaign"]
        return campaign

    def open_campaign(self, quota: int = 10, **changes: Any) -> str:
        """Draft, fund (two operators) and open a campaign; return its id."""
        campaign = self.draft(**changes)
        funds = {"quota": quota, "budget": yuan(50 * quota)}
        steps = (
            ("funding", funds, "operator one", 202),
            ("funding/approval", funds, "operator two", 200),
            ("open", None, "operator one", 200),
        )
        for step, body, who, status in steps:
            reply = self.post(
                f"/v1/campaigns/{campaign}/{step}", body, token=self.token("operator", who)
            )
            assert reply.status_code == status, reply.text
        return campaign

    def claim(self, campaign: str, who: str = "a tourist", **how: Any) -> httpx.Response:
        """Claim a coupon for somebody."""
        return self.post(
            f"/v1/campaigns/{campaign}/claims", token=self.token("tourist", who), **how
        )

    def claimed(self, campaign: str, who: str = "a tourist") -> str:
        """Claim a coupon for somebody; return its id."""
        reply = self.claim(campaign, who)
        assert reply.status_code == 201, reply.text
        coupon: str = reply.json()["coupon"]
        return coupon

    def project(self) -> None:
        """Bring every read model up to date."""
        for projection in PROJECTIONS:
            for book in self.settings.books:
                runner = Runner(self.datastore, projection, book, "test")
                while runner.run_once():
                    pass
                with self.datastore.transaction() as cursor:
                    runner.lease.release(cursor)

    # --- what is stored -----------------------------------------------------------------------

    def events(self) -> int:
        """How many events there are."""
        with self.datastore.transaction() as cursor:
            cursor.execute("SELECT count(*) FROM event")
            count: int = cursor.fetchone()[0]
        return count

    def wait_until(self, condition: Any, within_s: float = 10.0) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"not so within {within_s} s"
            time.sleep(0.02)


def settings_for(database_url: str, redis_url: str | None, home: Path, **more: Any) -> Settings:
    """Settings for a test: no limits on speed unless asked for, tokens from our own issuer."""
    return Settings(
        _env_file=None,
        home=home,
        database_url=database_url,
        redis_url=redis_url,
        **{"dev_issuer": True, **UNLIMITED, **more},
    )
