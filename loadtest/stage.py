"""The stage of a run: staff who sign in, a campaign that is open, people who hold tokens.

All of it through the public API and before any clock starts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from loadtest.client import Caller, Json, sign_in
from loadtest.driver import build_request, drive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FACE_MINOR: Final = 5_000
THRESHOLD_MINOR: Final = 20_000
CURRENCY: Final = "CNY"
SIGN_IN_CONNECTIONS: Final = 32
CLAIMS_S: Final = 86_400.0
VALIDITY_S: Final = 30 * 86_400.0


class StageFailed(Exception):
    """The service did not let the stage be set."""


@dataclass(frozen=True)
class Staff:
    """Those who make and watch campaigns: two operators, because nobody approves his own."""

    operator: Caller
    approver: Caller
    auditor: Caller

    @classmethod
    def signed_in(cls, url: str) -> Staff:
        """Tokens for all of them."""
        return cls(
            sign_in(url, "operator", "loadtest operator"),
            sign_in(url, "operator", "loadtest approver"),
            sign_in(url, "auditor", "loadtest auditor"),
        )

    def open_campaign(
        self,
        name: str,
        quota: int,
        *,
        per_person_limit: int = 1,
        merchants: Sequence[str] | None = None,
        validity_s: float = VALIDITY_S,
        restock: bool = False,
        intake: Json | None = None,
        begins: datetime | None = None,
    ) -> str:
        """A funded campaign of 50 yuan off 200 yuan that is open for claims and redemptions.

        An `intake` lets in others than the fastest. Claims begin at `begins`, or at once.
        """
        terms = draft(name, per_person_limit, merchants, validity_s, restock)
        if intake is not None:
            terms["intake"] = intake
        if begins is not None:
            terms["claim_window"]["from"] = begins.isoformat()
        campaign: str = self.operator.post("/v1/campaigns", terms)["campaign"]
        funds = {"quota": quota, "budget": money(quota * FACE_MINOR)}
        address = f"/v1/campaigns/{campaign}"
        self.operator.post(f"{address}/funding", funds)
        self.approver.post(f"{address}/funding/approval", funds)
        self.operator.post(f"{address}/open")
        return campaign


def draft(
    name: str,
    per_person_limit: int,
    merchants: Sequence[str] | None,
    validity_s: float = VALIDITY_S,
    restock: bool = False,
) -> Json:
    """The body that drafts a campaign whose windows are open now; claims end with the validity."""
    now = datetime.now(UTC)
    start = (now - timedelta(days=1)).isoformat()
    claims_s = min(validity_s, CLAIMS_S)
    body: Json = {
        "name": name,
        "sponsor": "loadtest",
        "coupon": {
            "kind": "threshold",
            "face": money(FACE_MINOR),
            "threshold": money(THRESHOLD_MINOR),
        },
        "per_person_limit": per_person_limit,
        "claim_window": {"from": start, "until": (now + timedelta(seconds=claims_s)).isoformat()},
        "validity_window": {
            "from": start,
            "until": (now + timedelta(seconds=validity_s)).isoformat(),
        },
        "zone": "Asia/Shanghai",
        "restock": restock,
    }
    if merchants is not None:
        body["merchants"] = list(merchants)
    return body


def money(amount_minor: int) -> Json:
    """An amount as the API writes it."""
    return {"amount_minor": amount_minor, "currency": CURRENCY}


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a plain HTTP URL."""
    parts = urlsplit(url)
    assert parts.scheme == "http", "the driver speaks plain HTTP"
    assert parts.hostname is not None
    return parts.hostname, parts.port or 80


def tokens_of(url: str, identities: Sequence[str]) -> list[str]:
    """A tourist's token for each identity, fetched side by side from the development issuer."""
    host, port = address_of(url)
    requests = (
        build_request(
            "POST",
            "/dev/token",
            host=f"{host}:{port}",
            headers=[("Idempotency-Key", f"token-{index}")],
            body=json.dumps({"role": "tourist", "identity": identity}).encode(),
        )
        for index, identity in enumerate(identities)
    )
    run = drive(host, port, requests, connections=SIGN_IN_CONNECTIONS, keep_bodies=True)
    if len(run.bodies) != len(identities):
        raise StageFailed(f"not everybody could sign in: {run.status_counts()} {dict(run.codes)}")
    return [json.loads(run.bodies[index])["access_token"] for index in range(len(identities))]


def claim_request(url: str, campaign: str, token: str, key: str) -> bytes:
    """A claim of somebody from a campaign, under a key that begins with the campaign."""
    host, port = address_of(url)
    return build_request(
        "POST",
        f"/v1/campaigns/{campaign}/claims",
        host=f"{host}:{port}",
        headers=[
            ("Authorization", f"Bearer {token}"),
            ("Idempotency-Key", f"{campaign[-12:]}-{key}"),
        ],
        body=b"{}",
    )


def claim_requests(url: str, campaigns: Iterable[str], tokens: Sequence[str]) -> Iterator[bytes]:
    """One claim of every person from each campaign in turn, each with its own key."""
    for campaign in campaigns:
        for index, token in enumerate(tokens):
            yield claim_request(url, campaign, token, str(index))
