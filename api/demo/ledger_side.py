"""The ledger's side of the reconciliation: what it says about itself, read over HTTP.

Campaigns are found by listing them, not by remembering what was sent: a campaign that the plan
never asked for would show up here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from api.demo.client import Client, Reply, Request
from api.demo.plan import CURRENCY
from api.demo.reconciliation import Figures, OfferId, StoreFigures
from api.demo.requests import bearer

BOOK: Final = "main"
PAGE: Final = 100

_NAME: Final = re.compile(r"Mailing (\d+) \(.*\), coupon (\d+)")


class StrangeLedger(Exception):
    """The ledger holds something that cannot be compared with the tables."""


class LedgerReader:
    """Reads one book as an auditor, as of a position."""

    def __init__(self, client: Client, auditor_token: str) -> None:
        self._client = client
        self._auditor = auditor_token

    async def head(self) -> int:
        """The book's last position."""
        found = await self._get(f"/v1/books/{BOOK}/head", self._auditor)
        return int(found["position"])

    async def offers(
        self, position: int, refused: Mapping[OfferId, Mapping[str, int]]
    ) -> dict[OfferId, Figures]:
        """The figures of every campaign of the book; refusals are those that were answered."""
        figures: dict[OfferId, Figures] = {}

        async def read(campaign: Any) -> None:
            offer = offer_named(campaign["name"])
            if offer in figures:
                raise StrangeLedger(f"two campaigns are called {campaign['name']}")
            figures[offer] = Figures()
            path = f"/v1/campaigns/{campaign['campaign']}/figures"
            found = await self._get(path, self._auditor, position)
            figures[offer] = figures_of(found, refused.get(offer, {}))

        await self._client.ask_all(await self._campaigns(position), read)
        return figures

    async def stores(self, position: int, tokens: Mapping[int, str]) -> dict[int, StoreFigures]:
        """What each store has to get, asked for by the store itself."""
        figures: dict[int, StoreFigures] = {}

        async def read(one: tuple[int, str]) -> None:
            found = await self._get("/v1/merchant/balance", one[1], position)
            if found["items"]:
                figures[one[0]] = store_figures_of(found["items"])

        await self._client.ask_all(list(tokens.items()), read)
        return figures

    async def _campaigns(self, position: int) -> list[Any]:
        items: list[Any] = []
        after: dict[str, str] = {}
        while True:
            query = urlencode({"limit": PAGE, **after})
            page = await self._get(f"/v1/campaigns?{query}", self._auditor, position)
            items += page["items"]
            if page["next"] is None:
                return items
            after = {"after": page["next"]}

    async def _get(self, path: str, token: str, position: int | None = None) -> Any:
        headers = [bearer(token)]
        if position is not None:
            headers.append(("Tidebook-Min-Position", f"{BOOK}:{position}"))
        reply: Reply = await self._client.ask(Request("GET", path, headers))
        if reply.status != 200:
            raise StrangeLedger(f"GET {path} was answered {reply.status} {reply.code}")
        return reply.json()


def offer_named(name: str) -> OfferId:
    """The offer that a campaign's name says it is."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise StrangeLedger(f"a campaign is called {name}, which the demo never drafted")
    return int(match[1]), int(match[2])


def figures_of(view: Any, refused: Mapping[str, int]) -> Figures:
    """A campaign's figures, from the reply of the figures endpoint."""
    coupons, money = view["coupons"], view["money"]
    unheard_of = coupons["voided"] + coupons["reclaimed"] + coupons["refunded"]
    if unheard_of:
        raise StrangeLedger(f"{unheard_of} coupons of {view['campaign']} were voided or refunded")
    return Figures(
        issued=coupons["claimed"],
        redeemed=coupons["redeemed"],
        expired=coupons["expired"],
        held=coupons["held"],
        funded_cents=_cents([money["funded"]]),
        redeemed_cents=_cents([money["spent"]]),
        returned_cents=_cents([money["reclaimed"]]),
        left_cents=_cents([money["pot"], money["held"]]),
        refused=dict(refused),
    )


def store_figures_of(balances: list[Any]) -> StoreFigures:
    """A store's figures, from its balances."""
    return StoreFigures(
        redeemed=sum(one["redemptions"] - one["refunds"] for one in balances),
        redeemed_cents=_cents(one["balance"] for one in balances),
    )


def _cents(amounts: Iterable[Any]) -> int:
    total = 0
    for amount in amounts:
        if amount["currency"] != CURRENCY:
            raise StrangeLedger(f"an amount is in {amount['currency']}, not in {CURRENCY}")
        total += int(amount["amount_minor"])
    return total
