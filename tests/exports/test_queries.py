"""The auditor's first questions, as docs/export.md asks them, answered as we answer them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import pytest

from campaigns.event_types import MAPPER
from campaigns.export_synthetic import Synthetic
from campaigns.replay import fold_book
from campaigns.verification import Audit
from ledger.history import Positioned
from tests.exports.made import Made, exported

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
QUERIES: dict[str, str] = dict(
    re.findall(r"```sql\n-- ([^\n]+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
)


class Book:
    """A book as DuckDB reads it from its export, and as we fold it."""

    def __init__(self, where: Path, made: Made) -> None:
        exported(made, where / "audit" / "main")
        self.events = [
            Positioned(one.position, MAPPER.decode(one.topic, one.state, one.stream, one.version))
            for one in made.all
        ]
        self.at = fold_book(self.events)
        self._duck = duckdb.connect(":memory:")
        self._where = where

    def ask(self, name: str) -> list[tuple[Any, ...]]:
        """The rows of a question."""
        return list(self._duck.execute(self._of(name)).fetchall())

    def _of(self, name: str) -> str:
        return QUERIES[name].replace("audit/main", f"{self._where}/audit/main")

    def of(self, *kinds: str) -> list[Any]:
        """The events of topics."""
        return [one.event for one in self.events if one.event.TOPIC in kinds]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """A book of several campaigns of a demo's size."""
    size = 900
    made = Made(Synthetic(size, claims=120, block=30).entries(0, size), every=100)
    book = Book(tmp_path_factory.mktemp("duck"), made)
    book.ask("events")
    return book


def test_every_question_of_the_page_is_asked_here() -> None:
    """And none is asked here that is not there."""
    asked = set(re.findall(r'ask\("([^"]+)"\)', Path(__file__).read_text()))
    assert asked == set(QUERIES)


def test_the_totals_of_campaigns_are_those_of_the_replay(book: Book) -> None:
    """Counts and money, campaign by campaign."""
    rows = {row[0]: row[1:] for row in book.ask("totals")}
    assert len(rows) == len(book.at.campaigns) > 2
    for campaign, at in book.at.campaigns.items():
        counts = at.coupons
        claimed, redemptions, refunds, ended, granted = rows[str(campaign)]
        assert (claimed, refunds) == (counts.claimed, counts.refunds)
        assert redemptions == counts.redeemed + counts.refunds
        assert ended == counts.expired + counts.voided + counts.reclaimed
        assert granted == claimed * at.campaign.terms.face_minor


def test_the_claims_of_hours_are_all_claims(book: Book) -> None:
    """By the instants of the events."""
    hours: Counter[datetime] = Counter(
        one.at.replace(minute=0, second=0, microsecond=0) for one in book.of("coupon.claimed")
    )
    found = book.ask("claims per hour")
    assert found == [(hour.replace(tzinfo=None), hours[hour]) for hour in sorted(hours)]


def test_nothing_was_issued_beyond_the_quota(book: Book) -> None:
    """As the audit says; and one position is missing in neither."""
    audit = Audit("main")
    assert not audit.take_findings()
    assert book.ask("over-issue") == []
    assert book.ask("gaps") == []


def test_the_questions_find_what_is_wrong(tmp_path: Path) -> None:
    """The control: a claim beyond the quota, and a position that is not there, are rows."""
    made = Made(Synthetic(60, claims=40, block=40).entries(0, 60))
    funded = made.all[2]
    quota = b'"quota":40', b'"quota":30'
    change = b'"quota_change":40', b'"quota_change":30'
    state = funded.state.replace(*quota).replace(*change)
    wrong = Book(tmp_path, Made([*made.all[:2], funded._replace(state=state), *made.all[3:]]))
    wrong.ask("events")
    assert [row[0] for row in wrong.ask("over-issue")] == list(range(35, 45))
    duck = wrong._duck
    duck.execute("CREATE OR REPLACE TABLE kept AS SELECT * FROM events WHERE position <> 7")
    duck.execute("CREATE OR REPLACE VIEW events AS SELECT * FROM kept")
    assert wrong.ask("gaps") == [(8, 6)]


def test_who_has_most_is_who_claimed_most(book: Book) -> None:
    """Ties are broken by the pseudonym."""
    counts = Counter(one.person for one in book.of("coupon.claimed"))
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
    assert book.ask("most coupons") == most


def test_merchants_have_what_is_in_their_accounts(book: Book) -> None:
    """The balances of the double entry."""
    audit = Audit("main")
    for position, event in book.events:
        audit.book._post(event)
        assert position
    accounts = audit.book.balances["CNY"]
    merchants = {n.removeprefix("merchant:"): m for n, m in accounts.items() if "merchant:" in n}
    assert {name: minor for name, minor in book.ask("merchants") if minor} == merchants


def test_refunds_are_of_redemptions(book: Book) -> None:
    """Each with the last one before it."""
    last: dict[Any, int] = {}
    refunds = []
    for position, event in book.events:
        match event.TOPIC:
            case "coupon.redeemed":
                last[event.originator_id] = position
            case "coupon.refunded":
                stream = event.originator_id
                refunds.append((stream, position, last[stream], 500))
    assert refunds
    assert book.ask("refunds") == refunds


def test_the_lag_is_that_of_the_events(book: Book) -> None:
    """Whole seconds between claim and redemption."""
    claimed = {one.originator_id: one.at for one in book.of("coupon.claimed")}
    lags: defaultdict[str, list[float]] = defaultdict(list)
    for one in book.of("coupon.redeemed"):
        begin, end = claimed[one.originator_id], one.at
        seconds = int(end.timestamp()) - int(begin.timestamp())
        lags[str(one.campaign)].append(seconds)
    wanted = [(name, median(found), len(found)) for name, found in sorted(lags.items())]
    assert book.ask("lag") == wanted
