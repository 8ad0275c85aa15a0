"""What `tidebook run` opens and prints when it is up: example campaigns and where to begin.

The examples go through the HTTP API as two operators' requests with fixed keys and fixed bodies,
so that on a second start every one of them is a replay.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import httpx

    from api.settings import Settings

TIMEOUT_S: Final = 15.0

ZONE: Final = "Asia/Shanghai"
WINDOW: Final = {"from": "2025-01-01T00:00:00+08:00", "until": "2035-01-01T00:00:00+08:00"}
"""Long and fixed: the same request at every start, and open at each of them."""


class Example(NamedTuple):
    """A campaign that is open after the first start, so that there is something to claim."""

    key: str
    title: str
    name: str
    quota: int
    face_minor: int
    threshold_minor: int | None
    per_person_limit: int
    merchants: list[str] | None
    gives_packets: bool = False

    @property
    def draft(self) -> dict[str, Any]:
        """The body that drafts it."""
        given = "packet" if self.gives_packets else "coupon"
        return {
            "name": self.name,
            "sponsor": "island-tourism",
            given: {"amount": _money(self.face_minor)} if self.gives_packets else self._coupon,
            "per_person_limit": self.per_person_limit,
            "claim_window": WINDOW,
            "validity_window": WINDOW,
            "zone": ZONE,
            "merchants": self.merchants,
            "restock": False,
        }

    @property
    def _coupon(self) -> dict[str, Any]:
        coupon: dict[str, Any] = {"kind": "fixed", "face": _money(self.face_minor)}
        if self.threshold_minor is not None:
            coupon = {
                "kind": "threshold",
                "face": _money(self.face_minor),
                "threshold": _money(self.threshold_minor),
            }
        return coupon

    @property
    def funding(self) -> dict[str, Any]:
        """The body that proposes and approves its stock and budget."""
        return {"quota": self.quota, "budget": _money(self.quota * self.face_minor)}


def _money(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "CNY"}


EXAMPLES: Final = (
    Example(
        "tea",
        "5 yuan off at the tea house, one each",
        "茶馆迎宾",
        10_000,
        500,
        None,
        1,
        ["tea-house"],
    ),
    Example(
        "ferry", "20 off 100 on any ferry, two each", "渡轮满100减20", 2_000, 2_000, 10_000, 2, None
    ),
    Example("dawn", "only ten: 30 off breakfast", "日出早餐", 10, 3_000, None, 1, None),
    Example(
        "packet",
        "a red packet of 200 yuan, one each",
        "数字人民币红包",
        500,
        20_000,
        None,
        1,
        ["tea-house"],
        gives_packets=True,
    ),
)


class Opened(NamedTuple):
    """An example campaign that is open, and the purse of it that its first sender has."""

    example: Example
    campaign: str
    purse: str | None = None


SENDER: Final = "alice"
"""Whoever may send group packets of the example campaign of packets."""

PURSE_MINOR: Final = 100_000
GROUP: Final = {"shares": 8, "total": _money(20_000)}


def welcome(settings: Settings, *, examples: bool) -> None:
    """Open the example campaigns where that can be done, and print what to open."""
    from api.cli.running import reachable

    base = f"http://{_in_url(reachable(settings.host))}:{settings.port}"
    opened: list[Opened] = []
    if examples and settings.dev_issuer and settings.clock == "database":
        opened = _open_examples(settings, base)
    print("\n".join(_guide(settings, base, opened)), flush=True)


def _open_examples(settings: Settings, base: str) -> list[Opened]:
    import httpx

    from api.issuers import DevelopmentIssuer

    issuer = DevelopmentIssuer(settings.issuer_secret(), settings.oidc_audience, time.time)
    tokens = [issuer.token("operator", f"example operator {n}") for n in (1, 2)]
    tourist = {"Authorization": f"Bearer {issuer.token('tourist', SENDER)}"}
    try:
        with httpx.Client(base_url=base, timeout=TIMEOUT_S, trust_env=False) as client:
            sender = client.get("/v1/person", headers=tourist).raise_for_status().json()["person"]
            return [_open_example(client, example, sender, *tokens) for example in EXAMPLES]
    except httpx.HTTPError as error:
        sys.stderr.write(f"tidebook: the example campaigns could not be opened: {error}\n")
        return []


def _open_example(
    client: httpx.Client, example: Example, sender: str, first: str, second: str
) -> Opened:
    """Draft, fund and open a campaign; every step is a replay when it was done before.

    A campaign of packets has a purse for the person `sender`.
    """

    def post(token: str, step: str, path: str, body: dict[str, Any]) -> Any:
        headers = {
            "Authorization": f"Bearer {token}",
            "Idempotency-Key": f"example-{example.key}-{step}",
        }
        reply = client.post(path, json=body, headers=headers)
        reply.raise_for_status()
        return reply.json()

    campaign = str(post(first, "draft", "/v1/campaigns", example.draft)["campaign"])
    path = f"/v1/campaigns/{campaign}"
    post(first, "funding", f"{path}/funding", example.funding)
    post(second, "approval", f"{path}/funding/approval", example.funding)
    post(first, "open", f"{path}/open", {})
    if not example.gives_packets:
        return Opened(example, campaign)
    amount = {"amount": _money(PURSE_MINOR)}
    filling = post(first, "purse", f"{path}/purses", {"person": sender, **amount})
    purse = str(filling["purse"])
    post(second, "filling", f"/v1/purses/{purse}/approval", amount)
    return Opened(example, campaign, purse)


def _guide(settings: Settings, base: str, opened: list[Opened]) -> list[str]:
    lines = ["", "Tidebook is up. Ctrl-C ends it.", ""]
    lines += [f"  Docs     {base}/docs", f"  Ready    {base}/readyz", f"  Metrics  {base}/metrics"]
    lines += [f"  Home     {settings.home}"]
    if opened:
        lines += ["", "Example campaigns, open now:"]
        lines += [f"  {one.campaign}  {one.example.name}: {one.example.title}" for one in opened]
    if settings.dev_issuer:
        lines += [
            "",
            "A token, for whoever you name (roles: tourist, merchant, operator, auditor):",
        ]
        lines += [f"  TOKEN=$({_command(settings)} token --role tourist --identity alice)"]
    if opened:
        lines += ["", "A first claim; press again with the same key and nothing is claimed twice:"]
        lines += [
            f"  curl -X POST {base}/v1/campaigns/{opened[0].campaign}/claims \\",
            '    -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: first-claim"',
            f'  curl {base}/v1/wallet -H "Authorization: Bearer $TOKEN"',
        ]
    for purse in (one.purse for one in opened if one.purse is not None):
        lines += ["", f"A group packet of {SENDER}'s, and its code for whoever may take a share:"]
        lines += [
            f"  curl -X POST {base}/v1/purses/{purse}/groups \\",
            '    -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: first-group" \\',
            f"    -H \"Content-Type: application/json\" -d '{json.dumps(GROUP)}'",
            f'  curl {base}/v1/groups/$GROUP/code -H "Authorization: Bearer $TOKEN"',
        ]
    return [*lines, ""]


def _command(settings: Settings) -> str:
    """Return how this program was called, so that a copied line works in the same directory."""
    from api.settings import Settings as Defaults

    program = Path(sys.argv[0])
    if program.name != "tidebook":
        name = f"{shlex.quote(sys.executable)} -m api.cli"
    elif program.is_absolute() and program.is_relative_to(Path.cwd()):
        name = shlex.quote(str(program.relative_to(Path.cwd())))
    else:
        name = shlex.quote(str(program))
    default = Defaults.model_fields["home"].default.expanduser()
    return (
        name
        if settings.home == default
        else f"TIDEBOOK_HOME={shlex.quote(str(settings.home))} {name}"
    )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
