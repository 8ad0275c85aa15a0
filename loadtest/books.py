"""A book folded a second time, event by event, in the plainest way: what must not be is collected.

Whatever grows with the number of events lies in a temporary SQLite database that spills to disk, so
a book of millions of events takes tens of MiB. Only campaigns and accounts of sponsors, pots and
merchants are held in memory. Findings are values; none is ever swallowed, and an event that this
module does not know is a finding, not something to skip. Packets, purses and groups are a chapter
of their own (`loadtest/packets.py`), and so are public draws (`loadtest/publicdraws.py`).
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loadtest import packets, publicdraws
from loadtest.feed import campaign_of, flat, instant, plain_id, pot_of, stream_of
from loadtest.packets import Packets
from loadtest.publicdraws import PublicDraws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from loadtest.client import Json

FINDINGS_MAX: Final = 1000
"""More than this are not kept: a store that broken is not read further."""

ENTERED: Final = "entered"
STATES: Final = ("held", "redeemed", "expired", "voided", "reclaimed")
FOREVER: Final = 2**62
"""The end of a span that has not ended."""
TOLD: Final = {
    "coupon.entered": (),
    "coupon.claimed": (
        "n",
        "face_minor",
        "threshold_minor",
        "currency",
        "valid_from",
        "valid_until",
    ),
    "coupon.redeemed": ("merchant", "order", "discount_minor", "currency"),
    "coupon.refunded": ("merchant", "order", "amount_minor", "currency"),
}
"""What an answer about an event has to tell as the event does, beside its time and its coupon."""
MOVES_NOTHING: Final = (
    "correction.proposed",
    "correction.approved",
    "person.particulars_kept",
    "person.particulars_inspected",
    "person.erasure_requested",
    "person.erasure_proposed",
    "person.erased",
)
"""Events about people, and about when something happened, which move no money."""
CACHE_KIB: Final = 64 * 1024
"""Pages of the temporary tables that may lie in memory; the others are on disk."""

_TABLES: Final = """
DROP TABLE IF EXISTS temp.coupon;
DROP TABLE IF EXISTS temp.holder;
DROP TABLE IF EXISTS temp.stream;
DROP TABLE IF EXISTS temp.span;
DROP TABLE IF EXISTS temp.effect;
CREATE TEMP TABLE coupon (
    id TEXT PRIMARY KEY, campaign TEXT, person TEXT, face_minor INT, threshold_minor INT,
    state TEXT, merchant TEXT, reference TEXT, version INT, valid_until TEXT
) WITHOUT ROWID;
CREATE TEMP TABLE holder (
    campaign TEXT, person TEXT, claimed INT, minor INT, PRIMARY KEY (campaign, person)
) WITHOUT ROWID;
CREATE TEMP TABLE stream (id TEXT PRIMARY KEY, version INT) WITHOUT ROWID;
CREATE TEMP TABLE span (
    what TEXT, thing TEXT, since INT, until INT, PRIMARY KEY (what, thing, since)
) WITHOUT ROWID;
CREATE TEMP TABLE effect (
    position INTEGER PRIMARY KEY, topic TEXT, thing TEXT, campaign TEXT, person TEXT, key TEXT,
    at TEXT, detail TEXT
);
CREATE INDEX temp.effect_key ON effect (key);
"""
_ENTRANTS: Final = "SELECT id FROM coupon WHERE campaign = ? AND state = 'entered' ORDER BY id"
_LAST_WINNER: Final = """
SELECT rank FROM (
    SELECT rank_of(?, id) AS rank FROM coupon WHERE campaign = ? AND state = 'entered'
    ORDER BY rank LIMIT ?
) ORDER BY rank DESC LIMIT 1
"""

_NEW_COUPON: Final = "INSERT INTO coupon VALUES (?, ?, ?, ?, ?, ?, '', '', ?, ?)"
_COUPON: Final = """
SELECT campaign, person, face_minor, threshold_minor, state, merchant, reference, version
FROM coupon WHERE id = ?
"""
_CHANGED: Final = (
    "UPDATE coupon SET state = ?, merchant = ?, reference = ?, version = ? WHERE id = ?"
)
_HELD: Final = """
INSERT INTO holder VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
SET claimed = claimed + ?3, minor = minor + ?4 RETURNING claimed, minor
"""
_VERSION: Final = "SELECT version FROM stream WHERE id = ?"
_NEXT: Final = "INSERT OR REPLACE INTO stream VALUES (?, ?)"
_EFFECT: Final = "INSERT OR IGNORE INTO effect VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SPAN_BEGINS: Final = "INSERT OR IGNORE INTO span VALUES (?, ?, ?, ?)"
_SPAN_ENDS: Final = "UPDATE span SET until = ? WHERE what = ? AND thing = ? AND until = ?"


class Finding(NamedTuple):
    """One thing that must not be: the rule, where it was seen, and what was seen."""

    rule: str
    position: int
    detail: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.position}: {self.detail}"


class Verdict(NamedTuple):
    """One rule: how often it was checked, and how often it did not hold."""

    rule: str
    checked: int
    broken: int


@dataclass
class Campaign:
    """One campaign as its events say, up to now."""

    state: str = "draft"
    limit: int = 0
    restock: bool = False
    currency: str = ""
    face_minor: int = 0
    claim_from: str = ""
    claim_until: str = ""
    intake: str = ""
    intake_s: float = 0.0
    rate_per_s: int = 0
    quota: int = 0
    budget_minor: int = 0
    issued: int = 0
    granted_minor: int = 0
    claimed: int = 0
    most_issued: int = 0
    version: int = 0
    commitment: str = ""
    intake_closed: int = 0
    """The position of the intake's end; 0 before it, and where there is none."""
    places: int = 0
    entrants: int = 0
    seed: str = ""
    threshold: str = ""
    to_give: int = 0
    is_packet: bool = False
    tiers: dict[int, int] = field(default_factory=dict)
    """Amount → packets of it that were not claimed yet."""
    split: tuple[int, int] | None = None
    """A sum, and the number of packets that share it."""
    split_commitment: str = ""
    awards: int = 0
    """Packets that were claimed from the pot, and what they held."""
    awards_minor: int = 0
    public_draw: bool = False


class _Coupon(NamedTuple):
    """One coupon as its events say, up to now."""

    campaign: str
    person: str
    face_minor: int
    threshold_minor: int
    state: str = "held"
    merchant: str = ""
    order: str = ""
    version: int = 0


class Judge:
    """Counts what was checked, rule by rule, and keeps what was found broken."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.position = 0
        self._checked: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()

    def check(self, rule: str, holds: bool, detail: str) -> None:
        """Count a check; keep it as a finding when it does not hold."""
        self._checked[rule] += 1
        if not holds:
            self._broken[rule] += 1
            if len(self.findings) < FINDINGS_MAX:
                self.findings.append(Finding(rule, self.position, detail))

    def find(self, rule: str, detail: str, position: int | None = None) -> None:
        """Keep what is wrong however one looks at it, at this position or another."""
        if position is not None:
            self.position, position = position, self.position
        self.check(rule, holds=False, detail=detail)
        if position is not None:
            self.position = position

    def checked(self, rule: str, times: int) -> None:
        """Count checks that were made elsewhere and held."""
        self._checked[rule] += times

    def verdicts(self) -> list[Verdict]:
        """Every rule that was checked at least once, in the order of first use."""
        return [Verdict(rule, n, self._broken[rule]) for rule, n in self._checked.items()]


class Books(Judge):
    """Folds events in order and collects what must not be."""

    def __init__(self, shelf: sqlite3.Connection | None = None) -> None:
        """Keep the fold beside what lies on `shelf`, in temporary tables of its connection."""
        super().__init__()
        self.shelf = sqlite3.connect("", isolation_level=None) if shelf is None else shelf
        self.shelf.execute("PRAGMA temp_store = FILE")
        self.shelf.execute(f"PRAGMA temp.cache_size = {-CACHE_KIB}")
        self.shelf.execute("PRAGMA temp.journal_mode = OFF")
        self.shelf.executescript(_TABLES + packets.TABLES + publicdraws.TABLES)
        self.shelf.create_function("rank_of", 2, rank_of, deterministic=True)
        self.campaigns: dict[str, Campaign] = {}
        self.balances: defaultdict[tuple[str, str], int] = defaultdict(int)
        """Of sponsors, pots and merchants; what holders have is on the shelf."""
        self._at = ""
        self._open_spans: set[tuple[str, str]] = set()
        self._apply: dict[str, Callable[[Json], None]] = {
            "campaign.drafted": self._drafted,
            "campaign.funding_proposed": self._proposed,
            "campaign.funded": self._funded,
            "campaign.opened": self._opened,
            "campaign.paused": self._paused,
            "campaign.resumed": self._opened,
            "campaign.closed": self._closed,
            "campaign.intake_closed": self._intake_closed,
            "campaign.drawn": self._drawn,
            "campaign.budget_reclaimed": self._budget_reclaimed,
            "coupon.entered": self._entered,
            "coupon.claimed": self._claimed,
            "coupon.redeemed": self._redeemed,
            "coupon.refunded": self._refunded,
            "coupon.reclaimed": self._returned,
            "coupon.expired": self._returned,
            "coupon.voided": self._returned,
            **dict.fromkeys(MOVES_NOTHING, self.check_stream),
        }
        self.packets, self.draws = Packets(self), PublicDraws(self)
        self._apply |= self.packets.rules | self.draws.rules

    @property
    def topics(self) -> set[str]:
        """The topics of the events that are known here."""
        return set(self._apply)

    def add(self, event: Json) -> None:
        """Check one event against all that came before it."""
        self._check_order(event)
        apply = self._apply.get(event["topic"])
        if apply is None:
            self.find("known events only", str(event["topic"]))
            return
        self.checked("known events only", 1)
        apply(event)
        if event["topic"].startswith("coupon."):
            self._keep_effect(event)

    def _keep_effect(self, event: Json) -> None:
        """Keep what was done for whom by which key, for `loadtest/testimony.py`."""
        topic, key = event["topic"], event.get("why", {}).get("key")
        place = (
            event["position"],
            topic,
            stream_of(event),
            campaign_of(event),
            event["person"],
            key,
        )
        detail = json.dumps([event.get(name) for name in TOLD.get(topic, ())])
        self.put(_EFFECT, *place, event["at"], detail)

    def put(self, statement: str, *values: Any) -> None:
        self.shelf.execute(statement, values)

    # --- order ------------------------------------------------------------------------------

    def _check_order(self, event: Json) -> None:
        position = event["position"]
        expected = self.position + 1
        self.position = position
        self.check("positions are dense", position == expected, f"{expected} was expected")
        self.check("time does not run back", event["at"] >= self._at, event["at"])
        self._at = event["at"]

    def check_version(self, event: Json, before: int) -> None:
        version = event["version"]
        detail = f"{stream_of(event)} version {version}"
        self.check("versions are dense", version == before + 1, detail)

    def check_stream(self, event: Json) -> None:
        """Check the version of an event in a stream whose versions are kept here."""
        stream = stream_of(event)
        row = self.shelf.execute(_VERSION, (stream,)).fetchone()
        self.check_version(event, row[0] if row is not None else 0)
        self.put(_NEXT, stream, event["version"])

    # --- campaigns --------------------------------------------------------------------------

    def campaign(self, event: Json) -> Campaign:
        campaign = campaign_of(event)
        known = campaign in self.campaigns
        self.check("campaigns are drafted first", known, campaign)
        return self.campaigns.setdefault(campaign, Campaign())

    def turned(self, event: Json) -> Campaign:
        """The campaign whose own event this is, one version further."""
        campaign = self.campaign(event)
        self.check_version(event, campaign.version)
        campaign.version = event["version"]
        return campaign

    def _drafted(self, event: Json) -> None:
        self.check_version(event, 0)
        terms = event["terms"]
        intake, packet = terms.get("intake") or {}, terms.get("packet") or {}
        split = packet.get("split")
        self.campaigns[stream_of(event)] = Campaign(
            limit=terms["per_person_limit"],
            restock=terms["restock"],
            currency=terms.get("currency", ""),
            face_minor=terms.get("face_minor", 0),
            claim_from=terms.get("claim_from", ""),
            claim_until=terms.get("claim_until", ""),
            intake=intake.get("kind", ""),
            intake_s=intake.get("seconds") or 0.0,
            rate_per_s=intake.get("rate_per_s") or 0,
            version=event["version"],
            is_packet=terms.get("kind") == "packet",
            tiers={tier["amount_minor"]: tier["count"] for tier in packet.get("tiers", ())},
            split=(split["total_minor"], split["count"]) if split else None,
            public_draw=bool(terms.get("public_draw")),
        )
        if terms.get("public_draw"):
            self.draws.drafted(stream_of(event), terms["public_draw"])
        self._mark("not_open", stream_of(event), holds=True)

    def _proposed(self, event: Json) -> None:
        self.turned(event)

    def _funded(self, event: Json) -> None:
        campaign = self.turned(event)
        change = event["budget_minor"] - campaign.budget_minor
        self.check(
            "funding adds up",
            change == event["budget_change_minor"]
            and event["quota"] - campaign.quota == event["quota_change"],
            f"budget {campaign.budget_minor} → {event['budget_minor']}",
        )
        campaign.quota, campaign.budget_minor = event["quota"], event["budget_minor"]
        campaign.currency = event["currency"]
        self.move(event, f"sponsor:{event['sponsor']}", pot_of(event), change)
        self.check_stock(campaign, campaign_of(event))
        if campaign.state == "draft":
            campaign.state = "funded"

    def _opened(self, event: Json) -> None:
        campaign = self.turned(event)
        self.check("a closed campaign stays closed", campaign.state != "closed", event["topic"])
        campaign.state = "open"
        campaign.commitment = event.get("seed_commitment", campaign.commitment)
        campaign.split_commitment = event.get("split_commitment", campaign.split_commitment)
        self._mark("not_open", campaign_of(event), holds=False)
        if campaign.commitment and not campaign.seed:
            self._mark("draw_pending", campaign_of(event), holds=True)

    def _paused(self, event: Json) -> None:
        self.turned(event).state = "paused"
        self._mark("not_open", campaign_of(event), holds=True)

    def _closed(self, event: Json) -> None:
        self.turned(event).state = "closed"
        self._mark("not_open", campaign_of(event), holds=True)

    def _intake_closed(self, event: Json) -> None:
        campaign = self.turned(event)
        campaign.places, campaign.intake_closed = event["places"], event["position"]
        left = campaign.quota - campaign.issued
        self.check("a draw has as many places as coupons", campaign.places <= left, f"{left} left")

    def _drawn(self, event: Json) -> None:
        """Draw once more: the seed, everybody who entered, and the rank of the last winner."""
        campaign, name, seed = self.turned(event), campaign_of(event), event["seed"]
        committed = sha256(bytes.fromhex(seed)).hexdigest() == campaign.commitment
        self.check("a draw shows the seed that it committed to", committed, seed)
        entered, digest = 0, sha256()
        for (coupon,) in self.shelf.execute(_ENTRANTS, (name,)):
            entered += 1
            digest.update(bytes.fromhex(coupon))
        winners = min(campaign.places, entered)
        self.check(
            "a draw is among all who entered",
            (event["entrants"], event["entrants_sha256"]) == (entered, digest.hexdigest()),
            f"{event['entrants']}, not {entered} with the digest {digest.hexdigest()}",
        )
        last = self.shelf.execute(_LAST_WINNER, (seed, name, winners)).fetchone()
        drawn = (winners, last[0] if last else None)
        self.check(
            "those of the lowest ranks win",
            (event["winners"], event["threshold"]) == drawn,
            f"{event['winners']} up to {event['threshold']}, not {drawn[0]} up to {drawn[1]}",
        )
        campaign.seed, campaign.to_give = seed, event["winners"]
        campaign.threshold = event["threshold"] or ""
        self._mark("draw_pending", name, holds=campaign.to_give > 0)

    def _budget_reclaimed(self, event: Json) -> None:
        campaign, amount = self.turned(event), event["amount_minor"]
        free = campaign.budget_minor - campaign.granted_minor
        self.check("a close reclaims what is free", amount == free, f"{amount} of {free}")
        campaign.budget_minor -= amount
        self.move(event, pot_of(event), f"sponsor:{event['sponsor']}", amount)

    def check_stock(self, campaign: Campaign, name: str) -> None:
        """Nothing beyond stock or budget; remember since when there is nothing left."""
        issued, quota = campaign.issued, campaign.quota
        granted, budget = campaign.granted_minor, campaign.budget_minor
        self.check("issued ≤ quota", issued <= quota, f"{issued} > {quota}")
        self.check("granted ≤ budget", granted <= budget, f"{granted} > {budget}")
        self._mark("sold_out", name, holds=issued >= quota)
        self._mark("budget_exhausted", name, holds=budget - granted < campaign.face_minor)

    def _mark(self, what: str, thing: str, *, holds: bool) -> None:
        """Begin or end the span of positions in which something is so."""
        mark = (what, thing)
        if holds and mark not in self._open_spans:
            self._open_spans.add(mark)
            self.put(_SPAN_BEGINS, what, thing, self.position, FOREVER)
        elif not holds and mark in self._open_spans:
            self._open_spans.remove(mark)
            self.put(_SPAN_ENDS, self.position, what, thing, FOREVER)

    # --- coupons ----------------------------------------------------------------------------

    def _claimed(self, event: Json) -> None:
        name, campaign, face = campaign_of(event), self.campaign(event), event["face_minor"]
        campaign.claimed += 1
        self.check_claim(event, campaign, face)
        self.take(event, campaign, face)
        self._issue(event, name, stream_of(event))
        self.move(event, pot_of(event), (name, event["person"]), face)

    def check_claim(self, event: Json, campaign: Campaign, worth_minor: int) -> None:
        """Whether somebody may have a coupon or packet of a campaign, and one more of them."""
        name, person = campaign_of(event), event["person"]
        if event.get("drawn") and not campaign.public_draw:
            self._check_win(campaign, stream_of(event))
            self._mark("draw_pending", name, holds=campaign.to_give > 0)
        else:
            self.check("claims only while open", campaign.state == "open", campaign.state)
        if campaign.public_draw:
            self.draws.claimed(event, worth_minor)
        [(count, _)] = self.shelf.execute(_HELD, (name, person, 1, 0)).fetchall()
        self.check(
            "the limit per person",
            event["n"] == count <= campaign.limit,
            f"{person} claims number {event['n']} of {campaign.limit}",
        )

    def take(self, event: Json, campaign: Campaign, minor: int) -> None:
        """One piece and its money are granted."""
        campaign.issued += 1
        campaign.most_issued = max(campaign.most_issued, campaign.issued)
        campaign.granted_minor += minor
        self.check_stock(campaign, campaign_of(event))

    def give_back(
        self, event: Json, source: str | tuple[str, str], minor: int, pieces: int = 0
    ) -> None:
        """Money goes back to the pot or the sponsor, as the event says; it is granted no more."""
        campaign, target = self.campaign(event), pot_of(event)
        campaign.granted_minor -= minor
        campaign.issued -= pieces
        if event["to"] == "sponsor":
            campaign.budget_minor -= minor
            target = f"sponsor:{event['sponsor']}"
        self.check_stock(campaign, campaign_of(event))
        self.move(event, source, target, minor)

    def _check_win(self, campaign: Campaign, stream: str) -> None:
        """Whoever wins drew a rank that wins, and no more win than there are to be given."""
        rank = rank_of(campaign.seed, stream)
        wins = bool(campaign.seed) and rank <= campaign.threshold
        self.check("only who drew a winning rank wins", wins, f"{stream} drew {rank}")
        campaign.to_give -= 1
        self.check("no more win than were drawn", campaign.to_give >= 0, stream)

    def _entered(self, event: Json) -> None:
        campaign = self.campaign(event)
        self.check("entries only while open", campaign.state == "open", campaign.state)
        campaign.entrants += 1
        ends = intake_ends(campaign)
        self.check(
            "entries only in the intake",
            not campaign.intake_closed and ends is not None and instant(event["at"]) < ends,
            f"at {event['at']}, the intake ends at {ends}",
        )
        self._issue(event, campaign_of(event), stream_of(event), ENTERED)

    def _issue(self, event: Json, campaign: str, stream: str, state: str = "held") -> None:
        """A new coupon or entry; a coupon may follow on its own entry."""
        row = self.shelf.execute(_COUPON, (stream,)).fetchone()
        rule = "a coupon is claimed once"
        if row is None:
            self.check_version(event, 0)
            worth = (event["face_minor"], event["threshold_minor"], state)
            rest = (event["version"], event.get("valid_until", ""))
            self.put(_NEW_COUPON, stream, campaign, event["person"], *worth, *rest)
            self.checked(rule, 1)
            return
        entry = _Coupon(*row)
        self.check(rule, (entry.state, state) == (ENTERED, "held"), stream)
        if entry.state == ENTERED:
            self.check_version(event, entry.version)
            self._change(event, state)

    def _coupon(self, event: Json, *states: str) -> _Coupon:
        stream = stream_of(event)
        row = self.shelf.execute(_COUPON, (stream,)).fetchone()
        self.check("coupons are claimed first", row is not None, stream)
        if row is None:
            return _Coupon(campaign_of(event), event["person"], 0, 0)
        coupon = _Coupon(*row)
        self.check_version(event, coupon.version)
        self.check(f"{event['topic']} only when {states}", coupon.state in states, coupon.state)
        self.check(
            "a coupon keeps its holder and campaign",
            (coupon.person, coupon.campaign) == (event["person"], campaign_of(event)),
            stream,
        )
        return coupon

    def _change(self, event: Json, state: str, merchant: str = "", order: str = "") -> None:
        self.put(_CHANGED, state, merchant, order, event["version"], stream_of(event))

    def _redeemed(self, event: Json) -> None:
        coupon = self._coupon(event, "held")
        discount, total = event["discount_minor"], event["order_total_minor"]
        self.check("a discount is the face value", discount == coupon.face_minor, str(discount))
        self.check(
            "an order reaches the threshold",
            total >= max(coupon.threshold_minor, discount),
            f"{total} < {coupon.threshold_minor}",
        )
        merchant = event["merchant"]
        self._change(event, "redeemed", merchant, event["order"])
        self.put(_SPAN_BEGINS, "already_redeemed", stream_of(event), self.position, FOREVER)
        holder = (coupon.campaign, coupon.person)
        self.move(event, holder, f"merchant:{merchant}", discount)

    def _refunded(self, event: Json) -> None:
        coupon, amount = self._coupon(event, "redeemed"), event["amount_minor"]
        self.check("a refund is what was redeemed", amount == coupon.face_minor, str(amount))
        self.check(
            "a refund is for the order that was redeemed",
            (event["merchant"], event["order"]) == (coupon.merchant, coupon.order),
            f"{event['merchant']} {event['order']}",
        )
        self._change(event, "held")
        self.put(_SPAN_ENDS, self.position, "already_redeemed", stream_of(event), FOREVER)
        holder = (coupon.campaign, coupon.person)
        self.move(event, f"merchant:{event['merchant']}", holder, amount)

    def _returned(self, event: Json) -> None:
        """Reclaimed, expired or voided: the value leaves the holder for good."""
        coupon, campaign = self._coupon(event, "held"), self.campaign(event)
        amount, state = event["amount_minor"], event["topic"].partition(".")[2]
        self.check("all of a coupon returns", amount == coupon.face_minor, str(amount))
        self._change(event, state)
        self.put(_SPAN_BEGINS, f"coupon_{state}", stream_of(event), self.position, FOREVER)
        holder = (coupon.campaign, coupon.person)
        self.give_back(event, holder, amount, pieces=1 if campaign.restock else 0)

    # --- money ------------------------------------------------------------------------------

    def move(
        self, event: Json, source: str | tuple[str, str], target: str | tuple[str, str], minor: int
    ) -> None:
        """Move money; only a sponsor, who brings it from outside, may stand below zero.

        A holder's account is one for each campaign: that none of them is negative is more than
        that their sum is not.
        """
        currency = event["currency"]
        for account, change in ((source, -minor), (target, minor)):
            if isinstance(account, tuple):
                [(_, balance)] = self.shelf.execute(_HELD, (*account, 0, change)).fetchall()
            else:
                self.balances[account, currency] += change
                balance = self.balances[account, currency]
            self.check(
                "nothing is negative",
                balance >= 0 or (isinstance(account, str) and account.startswith("sponsor:")),
                f"{account} has {balance} {currency}",
            )

    def check_draws(self) -> None:
        """At the end: whoever was drawn has the coupon, unless the campaign does not go on."""
        for name, campaign in self.campaigns.items():
            if campaign.seed:
                given = campaign.to_give == 0 or campaign.state != "open"
                self.check("every winner gets a coupon", given, f"{campaign.to_give} of {name}")

    def check_conservation(self) -> None:
        """At the end: what sponsors gave is in pots, purses, groups, with holders or merchants."""
        totals: defaultdict[str, int] = defaultdict(int)
        for (_, currency), balance in self.balances.items():
            totals[currency] += balance
        held = 0
        rows = self.shelf.execute("SELECT campaign, sum(minor) FROM holder GROUP BY campaign")
        for campaign, minor in rows:
            totals[self.campaigns[campaign].currency] += minor
            held += minor
        for currency, total in totals.items():
            self.check("money is conserved", total == 0, f"{total} {currency}")
        worth = self._number("SELECT coalesce(sum(face_minor), 0) FROM coupon WHERE state = 'held'")
        self.check("holders hold their coupons' worth", held == worth, f"{held} ≠ {worth}")
        self.packets.check_conservation()

    # --- what the fold knows ----------------------------------------------------------------

    @property
    def coupon_count(self) -> int:
        """How many coupons were ever claimed."""
        return self._number("SELECT count(*) FROM coupon WHERE state <> 'entered'")

    def states(self, campaign: str | None = None) -> dict[str, tuple[int, int]]:
        """Number and face value of the coupons in each state, of one campaign or of all."""
        rows = self.shelf.execute(
            "SELECT state, count(*), sum(face_minor) FROM coupon"
            " WHERE ?1 IS NULL OR campaign = ?1 GROUP BY state",
            (campaign,),
        )
        return {state: (count, minor) for state, count, minor in rows}

    def is_so(self, what: str, thing: str, low: int, high: int) -> bool:
        """Whether something was so after at least one position from `low` to `high`."""
        last = self.shelf.execute(
            "SELECT until FROM span WHERE what = ? AND thing = ? AND since <= ?"
            " ORDER BY since DESC LIMIT 1",
            (what, thing, high),
        ).fetchone()
        return last is not None and last[0] > low

    def _number(self, query: str, *values: Any) -> int:
        return int(self.shelf.execute(query, values).fetchone()[0])

    # --- against what was answered ------------------------------------------------------------

    def check_claim_answers(
        self, campaign: str, acknowledged: Iterable[str], *, unknown: int, sold_out: int = 0
    ) -> None:
        """Every claim answered with 2xx is in the store, and nothing that nobody asked for.

        `unknown` requests had no answer or a 5xx: each of them may or may not have claimed.
        """
        name = plain_id(campaign)
        stock = self.campaigns.get(name, Campaign())
        answered = Counter(plain_id(coupon) for coupon in acknowledged)
        stored = 0
        for coupon, count in answered.items():
            self.check("one answer per claim", count == 1, f"{coupon} answered {count} times")
            row = self.shelf.execute(_COUPON, (coupon,)).fetchone()
            is_stored = row is not None and row[0] == name
            stored += is_stored
            self.check("what was answered is stored", is_stored, coupon)
        mine = self._number(
            "SELECT count(*) FROM coupon WHERE campaign = ? AND state <> 'entered'", name
        )
        extra = mine - stored
        self.check("what is stored was asked for", extra <= unknown, f"{extra} > {unknown}")
        self.check(
            "sold out is said when it is so",
            not sold_out or stock.most_issued == stock.quota,
            f"{stock.most_issued} of {stock.quota} were ever out",
        )

    def check_figures(self, campaign: str, figures: Json) -> None:
        """The service's figures of a campaign equal the fold of its events."""
        stock = self.campaigns.get(plain_id(campaign))
        self.check("campaigns are drafted first", stock is not None, campaign)
        if stock is None:
            return
        money = figures["money"]
        said = {
            "quota": figures["quota"],
            "pot": money["pot"]["amount_minor"],
            "held money": money["held"]["amount_minor"],
        }
        folded = {
            "quota": stock.quota,
            "claimed": stock.claimed,
            "pot": stock.budget_minor - stock.granted_minor,
        }
        if stock.is_packet:
            said["purses"] = money["purses"]["amount_minor"]
            folded |= self.packets.figures(plain_id(campaign))
        else:
            states = self.states(plain_id(campaign))
            folded |= {state: states.get(state, (0, 0))[0] for state in STATES}
            folded["held money"] = states.get("held", (0, 0))[1]
        counts = figures["packets" if stock.is_packet else "coupons"]
        said |= {name: counts[name] for name in folded.keys() - said.keys()}
        for name, expected in folded.items():
            self.check(
                "figures equal the fold",
                said[name] == expected,
                f"{name} {said[name]}, folded {expected}",
            )

    def merchants(self) -> list[str]:
        """Everybody who ever redeemed a coupon or took a payment."""
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
            self.check(
                "a merchant's balance equals the fold",
                said.get(currency, 0) == ours.get(currency, 0),
                f"{merchant} {said.get(currency, 0)} ≠ {ours.get(currency, 0)} {currency}",
            )


def intake_ends(campaign: Campaign) -> datetime | None:
    """When a lottery takes no more entries; None where there is no lottery."""
    if campaign.intake != "lottery" or not campaign.claim_from:
        return None
    return instant(campaign.claim_from) + timedelta(seconds=campaign.intake_s)


def rank_of(seed: str, coupon: str) -> str:
    """What a coupon's id draws with a seed, both and the rank in hex digits: the lowest win."""
    return sha256(bytes.fromhex(seed + coupon)).hexdigest()


def fold(events: Iterable[Json], shelf: sqlite3.Connection | None = None) -> Books:
    """All events, checked one by one and as a whole."""
    books = Books(shelf)
    books.shelf.execute("BEGIN")  # one by one, each change would be written out by itself
    try:
        for event in events:
            books.add(flat(event))
    finally:
        books.shelf.execute("COMMIT")
    books.check_draws()
    books.check_conservation()
    return books
