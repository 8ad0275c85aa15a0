"""What must be true after every run, checked over HTTP by code that shares none with the service.

The events feed is folded here a second time, in the plainest way: positions dense, nothing issued
beyond stock or budget, nobody twice, every coupon spent at most once, money conserved, every answer
of 2xx in the store, every figure equal to its fold. Findings are values; none is ever swallowed,
and an event that this module does not know is a finding, not something to skip.

    python -m loadtest.invariants --url http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console

from loadtest.client import Caller, Json, sign_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FINDINGS_MAX: Final = 1000
"""More than this are not kept: a store that broken is not read further."""

STATES: Final = ("held", "redeemed", "expired", "voided", "reclaimed")


class Finding(NamedTuple):
    """One thing that must not be: the rule, where it was seen, and what was seen."""

    rule: str
    position: int
    detail: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.position}: {self.detail}"


@dataclass
class _Campaign:
    """One campaign as its events say, up to now."""

    state: str = "draft"
    limit: int = 0
    restock: bool = False
    quota: int = 0
    budget_minor: int = 0
    issued: int = 0
    granted_minor: int = 0
    claimed: int = 0
    most_issued: int = 0
    held_by: Counter[str] = field(default_factory=Counter)
    coupons: list[str] = field(default_factory=list)


@dataclass
class _Coupon:
    """One coupon as its events say, up to now."""

    campaign: str
    person: str
    face_minor: int
    threshold_minor: int
    state: str = "held"
    merchant: str = ""
    order: str = ""


class Books:
    """Folds events in order and collects what must not be."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.campaigns: dict[str, _Campaign] = {}
        self.coupons: dict[str, _Coupon] = {}
        self.balances: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.position = 0
        self._at = ""
        self._versions: dict[str, int] = {}
        self._apply: dict[str, Callable[[Json], None]] = {
            "campaign.drafted": self._drafted,
            "campaign.funding_proposed": lambda _: None,
            "campaign.funded": self._funded,
            "campaign.opened": self._opened,
            "campaign.paused": self._paused,
            "campaign.resumed": self._opened,
            "campaign.closed": self._closed,
            "campaign.budget_reclaimed": self._budget_reclaimed,
            "coupon.claimed": self._claimed,
            "coupon.redeemed": self._redeemed,
            "coupon.refunded": self._refunded,
            "coupon.reclaimed": self._returned,
            "coupon.expired": self._returned,
            "coupon.voided": self._returned,
        }

    def add(self, event: Json) -> None:
        """Check one event against all that came before it."""
        self._check_order(event)
        apply = self._apply.get(event["topic"])
        if apply is None:
            self._find("known events only", str(event["topic"]))
        else:
            apply(event)

    def _find(self, rule: str, detail: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(rule, self.position, detail))

    def _check(self, rule: str, holds: bool, detail: str) -> None:
        if not holds:
            self._find(rule, detail)

    # --- order ------------------------------------------------------------------------------

    def _check_order(self, event: Json) -> None:
        position, stream, version = event["position"], _stream(event), event["version"]
        expected = self.position + 1
        self.position = position
        self._check("positions are dense", position == expected, f"{expected} was expected")
        self._check("time does not run back", event["at"] >= self._at, event["at"])
        self._at = event["at"]
        following = self._versions.get(stream, 0) + 1
        self._check("versions are dense", version == following, f"{stream} version {version}")
        self._versions[stream] = version

    # --- campaigns --------------------------------------------------------------------------

    def _campaign(self, event: Json) -> _Campaign:
        campaign = _id(event["campaign"]) if "campaign" in event else _stream(event)
        if campaign not in self.campaigns:
            self._find("campaigns are drafted first", campaign)
        return self.campaigns.setdefault(campaign, _Campaign())

    def _drafted(self, event: Json) -> None:
        terms = event["terms"]
        self.campaigns[_stream(event)] = _Campaign(
            limit=terms["per_person_limit"], restock=terms["restock"]
        )

    def _funded(self, event: Json) -> None:
        campaign = self._campaign(event)
        change = event["budget_minor"] - campaign.budget_minor
        self._check(
            "funding adds up",
            change == event["budget_change_minor"]
            and event["quota"] - campaign.quota == event["quota_change"],
            f"budget {campaign.budget_minor} → {event['budget_minor']}",
        )
        campaign.quota, campaign.budget_minor = event["quota"], event["budget_minor"]
        self._move(event, f"sponsor:{event['sponsor']}", self._pot(event), change)
        self._check_stock(campaign)
        if campaign.state == "draft":
            campaign.state = "funded"

    def _opened(self, event: Json) -> None:
        campaign = self._campaign(event)
        self._check("a closed campaign stays closed", campaign.state != "closed", event["topic"])
        campaign.state = "open"

    def _paused(self, event: Json) -> None:
        self._campaign(event).state = "paused"

    def _closed(self, event: Json) -> None:
        self._campaign(event).state = "closed"

    def _budget_reclaimed(self, event: Json) -> None:
        campaign, amount = self._campaign(event), event["amount_minor"]
        free = campaign.budget_minor - campaign.granted_minor
        self._check("a close reclaims what is free", amount == free, f"{amount} of {free}")
        campaign.budget_minor -= amount
        self._move(event, self._pot(event), f"sponsor:{event['sponsor']}", amount)

    def _check_stock(self, campaign: _Campaign) -> None:
        self._check(
            "issued ≤ quota",
            campaign.issued <= campaign.quota,
            f"{campaign.issued} > {campaign.quota}",
        )
        self._check(
            "granted ≤ budget",
            campaign.granted_minor <= campaign.budget_minor,
            f"{campaign.granted_minor} > {campaign.budget_minor}",
        )

    # --- coupons ----------------------------------------------------------------------------

    def _claimed(self, event: Json) -> None:
        campaign, person, face = self._campaign(event), event["person"], event["face_minor"]
        stream = _stream(event)
        self._check("claims only while open", campaign.state == "open", campaign.state)
        self._check("a coupon is claimed once", stream not in self.coupons, stream)
        campaign.held_by[person] += 1
        self._check(
            "the limit per person",
            event["n"] == campaign.held_by[person] <= campaign.limit,
            f"{person} claims number {event['n']} of {campaign.limit}",
        )
        campaign.claimed += 1
        campaign.issued += 1
        campaign.most_issued = max(campaign.most_issued, campaign.issued)
        campaign.granted_minor += face
        self._check_stock(campaign)
        self.coupons[stream] = _Coupon(
            _id(event["campaign"]), person, face, event["threshold_minor"]
        )
        campaign.coupons.append(stream)
        self._move(event, self._pot(event), f"holder:{person}", face)

    def _coupon(self, event: Json, *states: str) -> _Coupon:
        coupon = self.coupons.get(_stream(event))
        if coupon is None:
            self._find("coupons are claimed first", _stream(event))
            return _Coupon(_id(event["campaign"]), event["person"], 0, 0)
        self._check(f"{event['topic']} only when {states}", coupon.state in states, coupon.state)
        self._check(
            "a coupon keeps its holder and campaign",
            (coupon.person, coupon.campaign) == (event["person"], _id(event["campaign"])),
            _stream(event),
        )
        return coupon

    def _redeemed(self, event: Json) -> None:
        coupon = self._coupon(event, "held")
        discount, total = event["discount_minor"], event["order_total_minor"]
        self._check("a discount is the face value", discount == coupon.face_minor, str(discount))
        self._check(
            "an order reaches the threshold",
            total >= max(coupon.threshold_minor, discount),
            f"{total} < {coupon.threshold_minor}",
        )
        coupon.state, coupon.merchant, coupon.order = "redeemed", event["merchant"], event["order"]
        self._move(event, f"holder:{coupon.person}", f"merchant:{coupon.merchant}", discount)

    def _refunded(self, event: Json) -> None:
        coupon, amount = self._coupon(event, "redeemed"), event["amount_minor"]
        self._check("a refund is what was redeemed", amount == coupon.face_minor, str(amount))
        self._check(
            "a refund is for the order that was redeemed",
            (event["merchant"], event["order"]) == (coupon.merchant, coupon.order),
            f"{event['merchant']} {event['order']}",
        )
        coupon.state = "held"
        self._move(event, f"merchant:{event['merchant']}", f"holder:{coupon.person}", amount)

    def _returned(self, event: Json) -> None:
        """Reclaimed, expired or voided: the value leaves the holder for good."""
        coupon, campaign, amount = self._coupon(event, "held"), self._campaign(event), 0
        amount = event["amount_minor"]
        self._check("all of a coupon returns", amount == coupon.face_minor, str(amount))
        coupon.state = event["topic"].partition(".")[2]
        campaign.granted_minor -= amount
        if campaign.restock:
            campaign.issued -= 1
        if event["to"] == "sponsor":
            campaign.budget_minor -= amount
            target = f"sponsor:{event['sponsor']}"
        else:
            target = self._pot(event)
        self._move(event, f"holder:{coupon.person}", target, amount)

    # --- money ------------------------------------------------------------------------------

    def _pot(self, event: Json) -> str:
        return f"campaign:{_id(event['campaign']) if 'campaign' in event else _stream(event)}"

    def _move(self, event: Json, source: str, target: str, amount_minor: int) -> None:
        """Move money; only a sponsor, who brings it from outside, may stand below zero."""
        currency = event["currency"]
        for account, change in ((source, -amount_minor), (target, amount_minor)):
            self.balances[account, currency] += change
            balance = self.balances[account, currency]
            self._check(
                "nothing is negative",
                balance >= 0 or account.startswith("sponsor:"),
                f"{account} has {balance} {currency}",
            )

    def check_conservation(self) -> None:
        """At the end: what sponsors gave is in pots, with holders and with merchants."""
        totals: defaultdict[str, int] = defaultdict(int)
        held: defaultdict[str, int] = defaultdict(int)
        for (account, currency), balance in self.balances.items():
            totals[currency] += balance
            if account.startswith("holder:"):
                held[currency] += balance
        for currency, total in totals.items():
            self._check("money is conserved", total == 0, f"{total} {currency}")
        worth = sum(c.face_minor for c in self.coupons.values() if c.state == "held")
        self._check("holders hold their coupons' worth", sum(held.values()) == worth, str(worth))

    # --- against what was answered ------------------------------------------------------------

    def check_claim_answers(
        self, campaign: str, acknowledged: Iterable[str], *, unknown: int, sold_out: int = 0
    ) -> None:
        """Every claim answered with 2xx is in the store, and nothing that nobody asked for.

        `unknown` requests had no answer or a 5xx: each of them may or may not have claimed.
        """
        stock = self.campaigns.get(_id(campaign), _Campaign())
        mine = set(stock.coupons)
        answered = [_id(coupon) for coupon in acknowledged]
        for coupon, count in Counter(answered).items():
            self._check("one answer per claim", count == 1, f"{coupon} answered {count} times")
        for coupon in set(answered) - mine:
            self._find("what was answered is stored", coupon)
        extra = len(mine - set(answered))
        self._check("what is stored was asked for", extra <= unknown, f"{extra} > {unknown}")
        self._check(
            "sold out is said when it is so",
            not sold_out or stock.most_issued == stock.quota,
            f"{stock.most_issued} of {stock.quota} were ever out",
        )

    def check_figures(self, campaign: str, figures: Json) -> None:
        """The service's figures of a campaign equal the fold of its events."""
        stock = self.campaigns.get(_id(campaign))
        if stock is None:
            self._find("campaigns are drafted first", campaign)
            return
        coupons = [self.coupons[coupon] for coupon in stock.coupons]
        states = Counter(coupon.state for coupon in coupons)
        money = figures["money"]
        said = {
            "quota": figures["quota"],
            **{state: figures["coupons"][state] for state in ("claimed", *STATES)},
            "pot": money["pot"]["amount_minor"],
            "held money": money["held"]["amount_minor"],
        }
        folded = {
            "quota": stock.quota,
            "claimed": stock.claimed,
            **{state: states[state] for state in STATES},
            "pot": stock.budget_minor - stock.granted_minor,
            "held money": sum(c.face_minor for c in coupons if c.state == "held"),
        }
        for name, expected in folded.items():
            self._check(
                "figures equal the fold",
                said[name] == expected,
                f"{name} {said[name]}, folded {expected}",
            )

    def merchants(self) -> list[str]:
        """Everybody who ever redeemed a coupon."""
        accounts = {account for account, _ in self.balances}
        return sorted(a.removeprefix("merchant:") for a in accounts if a.startswith("merchant:"))

    def check_merchant(self, merchant: str, balances: Sequence[Json]) -> None:
        """What the service says that it owes a merchant equals the fold."""
        said = {b["balance"]["currency"]: b["balance"]["amount_minor"] for b in balances}
        ours = {
            currency: minor
            for (account, currency), minor in self.balances.items()
            if account == f"merchant:{merchant}"
        }
        for currency in said.keys() | ours.keys():
            self._check(
                "a merchant's balance equals the fold",
                said.get(currency, 0) == ours.get(currency, 0),
                f"{merchant} {said.get(currency, 0)} ≠ {ours.get(currency, 0)} {currency}",
            )


def _id(public_id: str) -> str:
    """The 32 hex digits by which a thing is the same in answers and in events."""
    return public_id.replace("-", "").rpartition("_")[2]


def _stream(event: Json) -> str:
    return _id(event["stream"])


def fold(events: Iterable[Json]) -> Books:
    """All events, checked one by one and as a whole."""
    books = Books()
    for event in events:
        books.add(flat(event))
    books.check_conservation()
    return books


def flat(event: Json) -> Json:
    """An event of the feed with what its state says beside its place in the book."""
    state: Json = event["state"]
    return {**state, **event}


def check(auditor: Caller, book: str) -> Books:
    """Read a whole book over HTTP and check it, figures of every campaign included.

    Nobody may write to the book meanwhile, or the figures are of a later position than the fold.
    """
    books = fold(auditor.events(book))
    for campaign in list(books.campaigns):
        address = f"/v1/campaigns/cmp_{book}_{campaign}/figures"
        seen = f"{book}:{books.position}"
        books.check_figures(campaign, auditor.get(address, min_position=seen))
    return books


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a running service; the exit status says whether everything held."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.invariants",
        description="Read a book over HTTP and check that nothing is over-issued, doubled or lost.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--book", default="main")
    parser.add_argument("--token", help="an auditor's token; default: from the development issuer")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    options = parser.parse_args(arguments)
    auditor = (
        Caller(options.url, options.token)
        if options.token
        else sign_in(options.url, "auditor", "loadtest auditor")
    )
    with auditor:
        books = check(auditor, options.book)
    report(books, as_json=options.json)
    return 1 if books.findings else 0


def report(books: Books, *, as_json: bool = False) -> None:
    """Print the findings, or that there are none."""
    if as_json:
        findings = [finding._asdict() for finding in books.findings]
        print(json.dumps({"position": books.position, "findings": findings}))
        return
    console = Console()
    for finding in books.findings[:20]:
        console.print(f"[red]✗[/red] {finding}", highlight=False)
    read = (
        f"{books.position:,} events, {len(books.campaigns)} campaigns, "
        f"{len(books.coupons):,} coupons"
    )
    verdict = f"{len(books.findings)} findings" if books.findings else "every invariant holds"
    console.print(f"{read}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
