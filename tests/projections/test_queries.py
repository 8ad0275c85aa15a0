"""What is asked of read models: pages without loss or doubling, in steps of constant cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger.datastore import Datastore
from projections import campaign_figures as figures
from projections import merchant_balances as merchants
from projections import wallets
from projections.runner import position
from projections.wallets import WALLETS
from tests.projections.helpers import catch_up
from tests.projections.histories import NOON, History, person, small_history, store

HOLDER = person(1)


@pytest.fixture
def history(datastore: Datastore) -> History:
    """Twenty-three coupons of one person in three campaigns, some redeemed; stored and applied."""
    made = History()
    campaigns = [made.opened() for _ in range(3)]
    for n in range(23):
        coupon = made.claim(campaigns[n % 3], HOLDER)
        assert coupon is not None
        if n % 4 == 0:
            made.redeem(coupon, "tea-house", f"A-{n}")
    store(datastore, made)
    catch_up(datastore)
    return made


def wallet(datastore: Datastore, limit: int, state: str | None = None) -> Iterator[list[UUID]]:
    """The pages of the holder's wallet, each read when it is asked for."""
    after = None
    while True:
        with datastore.transaction() as curs:
            page = wallets.coupons_of(curs, HOLDER, state=state, after=after, limit=limit)
        if not page:
            return
        yield [held.coupon for held in page]
        after = wallets.cursor_of(page[-1])


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_a_wallet_is_paged_newest_first(datastore: Datastore, history: History, limit: int) -> None:
    """Pages of any size together are the wallet, each coupon once, in order of the claim."""
    claims = [e.originator_id for e in reversed(history.events) if e.TOPIC == "coupon.claimed"]
    assert [coupon for page in wallet(datastore, limit) for coupon in page] == claims


def test_pages_of_one_state_hold_only_that_state(datastore: Datastore, history: History) -> None:
    """The filter is by what the coupon is now."""
    for state in wallets.STATES:
        shown = {coupon for page in wallet(datastore, 4, state) for coupon in page}
        assert shown == {c.id for c in history.coupons.values() if c.state == state}


def test_a_wallet_that_changes_between_pages_loses_and_doubles_nothing(
    datastore: Datastore, history: History
) -> None:
    """Claims, redemptions and refunds between two pages move no coupon across the cursor."""
    before = set(history.coupons)
    shown: list[UUID] = []
    since = len(history.events)
    for turn, page in enumerate(wallet(datastore, 3)):
        shown += page
        history.claim(next(iter(history.campaigns)), HOLDER)
        for coupon in sorted(before)[turn::5]:
            history.redeem(coupon)
            history.refund(coupon)
        store(datastore, history, since)
        since = len(history.events)
        catch_up(datastore)
    assert len(shown) == len(set(shown))
    assert set(shown) == before


def test_worth_counts_what_is_held(datastore: Datastore, history: History) -> None:
    """Redeemed coupons are worth nothing any more; a stranger has nothing."""
    held = [c for c in history.coupons.values() if c.state == "held"]
    with datastore.transaction() as curs:
        assert wallets.worth_of(curs, HOLDER) == [("CNY", len(held), 500 * len(held))]
        assert wallets.worth_of(curs, person(2)) == []
        assert wallets.coupons_of(curs, person(2), limit=5) == []


def test_a_coupon_is_found_by_its_id(datastore: Datastore, history: History) -> None:
    """All that its holder sees, and nothing under an unknown id or another book."""
    redeemed = next(c for c in history.coupons.values() if c.state == "redeemed")
    with datastore.transaction() as curs:
        found = wallets.coupon(curs, "main", redeemed.id)
        assert wallets.coupon(curs, "north", redeemed.id) is None
        assert wallets.coupon(curs, "main", uuid4()) is None
    assert found is not None
    assert (found.person, found.n, found.state) == (HOLDER, redeemed.n, "redeemed")
    assert (found.merchant, found.order_no) == ("tea-house", redeemed.order)
    assert found.claimed_at == redeemed.claimed_at
    assert found.claimed_at.utcoffset() == timedelta(0)
    assert found.redeemed_at == found.claimed_at + timedelta(seconds=1)


def test_coupons_fall_due_at_the_end_of_their_validity(
    datastore: Datastore, history: History
) -> None:
    """Held ones only, the end itself included, the oldest first, of one book."""
    held = [c for c in history.coupons.values() if c.state == "held"]
    first_end = NOON + timedelta(days=1)
    first = {(c.id, c.campaign) for c in held if c.valid_until == first_end}
    with datastore.transaction() as curs:
        just_before = first_end - timedelta(microseconds=1)
        assert wallets.due_for_expiry(curs, "main", just_before, 100) == []
        assert set(wallets.due_for_expiry(curs, "main", first_end, 100)) == first
        late = wallets.due_for_expiry(curs, "main", first_end + timedelta(days=9), 100)
        assert len(late) == len(held)
        assert set(late[: len(first)]) == first
        assert len(wallets.due_for_expiry(curs, "main", first_end, 2)) == 2
        assert wallets.due_for_expiry(curs, "north", first_end, 100) == []


def test_campaigns_are_paged_newest_first_and_by_state(datastore: Datastore) -> None:
    """Pages together are the list, each campaign once, also while campaigns change."""
    history = History()
    for n in range(11):
        campaign = history.draft()
        if n % 2:
            history.propose(campaign, 5)
            history.approve(campaign)
    store(datastore, history)
    catch_up(datastore)
    since = len(history.events)
    shown: list[UUID] = []
    after = None
    while True:
        with datastore.transaction() as curs:
            page = figures.campaigns(curs, after=after, limit=2)
        if not page:
            break
        shown += [row.campaign for row in page]
        after = figures.cursor_of(page[-1])
        history.draft()
        history.move(shown[-1])
        store(datastore, history, since)
        since = len(history.events)
        catch_up(datastore)
    assert shown == list(history.campaigns)[10::-1]
    with datastore.transaction() as curs:
        opened = figures.campaigns(curs, states=["open"], limit=100)
        assert figures.campaigns(curs, states=[], limit=100) == []
    assert {row.campaign for row in opened} == {
        one.id for one in history.campaigns.values() if one.state == "open"
    }


def test_a_campaign_is_found_by_its_id(datastore: Datastore, history: History) -> None:
    """Its terms come back as they were written."""
    campaign = next(iter(history.campaigns.values()))
    with datastore.transaction() as curs:
        found = figures.campaign(curs, "main", campaign.id)
        assert figures.campaign(curs, "north", campaign.id) is None
    assert found is not None
    assert (found.name, found.sponsor) == (campaign.name, campaign.sponsor)
    assert found.terms["zone"] == "Asia/Shanghai"
    assert datetime.fromisoformat(found.terms["valid_until"]) == campaign.terms.valid_until


def test_redemptions_are_paged_newest_first(datastore: Datastore, history: History) -> None:
    """Pages together are the merchant's list, each redemption once, while some are refunded."""
    orders = [e.order for e in reversed(history.events) if e.TOPIC == "coupon.redeemed"]  # type: ignore[attr-defined]
    since = len(history.events)
    shown: list[str] = []
    after = None
    while True:
        with datastore.transaction() as curs:
            page = merchants.redemptions(curs, "tea-house", after=after, limit=2)
        if not page:
            break
        shown += [one.order_no for one in page]
        after = merchants.cursor_of(page[-1])
        history.refund(page[0].coupon)
        history.redeem(page[0].coupon, "tea-house", "again")
        store(datastore, history, since)
        since = len(history.events)
        catch_up(datastore)
    assert shown == orders


def test_a_merchant_sees_its_balance_and_nobody_elses(datastore: Datastore) -> None:
    """Balances are per merchant, book and currency."""
    for book in ("main", "north"):
        store(datastore, small_history(book))
        catch_up(datastore, book=book)
    with datastore.transaction() as curs:
        rows = merchants.balances(curs, "shop-1")
        assert merchants.balances(curs, "nobody") == []
        assert merchants.redemptions(curs, "nobody", limit=5) == []
    assert [(row.book, row.merchant, row.currency) for row in rows] == [
        ("main", "shop-1", "CNY"),
        ("north", "shop-1", "CNY"),
    ]


def test_the_position_is_that_of_the_rows(datastore: Datastore, history: History) -> None:
    """It is 0 for a book that nobody has heard of."""
    with datastore.transaction() as curs:
        assert position(curs, WALLETS, "main") == len(history.events)
        assert position(curs, WALLETS, "north") == 0


# Constant cost


class Explained:
    """A cursor that explains what it is asked to execute and remembers the plans."""

    def __init__(self, curs: Any) -> None:
        self._curs = curs
        self.plan: list[dict[str, Any]] = []

    def execute(self, statement: Any, parameters: Any = None) -> None:
        """Plan a statement and remember every node of the plan."""
        text = statement if isinstance(statement, str) else statement.as_string(self._curs)
        self._curs.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + text, parameters)
        self._collect(self._curs.fetchone()[0][0]["Plan"])

    def fetchone(self) -> None:
        """No rows."""

    def fetchall(self) -> list[Any]:
        """No rows."""
        return []

    def _collect(self, node: dict[str, Any]) -> None:
        self.plan.append(node)
        for child in node.get("Plans", ()):
            self._collect(child)


MANY = 4000
PAGE = 10


@pytest.fixture
def crowd(datastore: Datastore) -> None:
    """Thousands of coupons and redemptions of one person and merchant, with statistics."""
    with datastore.transaction() as curs:
        curs.execute(
            "INSERT INTO rm_wallets.coupon SELECT 'main', gen_random_uuid(), gen_random_uuid(),"
            " %s, n, CASE WHEN n %% 10 = 0 THEN 'redeemed' ELSE 'held' END, 500, 500, 'CNY',"
            " %s, %s, %s::timestamptz + n * interval '1 s', NULL, NULL, NULL, n"
            " FROM generate_series(1, %s) AS n",
            (HOLDER, NOON, NOON, NOON, MANY),
        )
        curs.execute(
            "INSERT INTO rm_merchant_balances.redemption SELECT 'main', gen_random_uuid(), 2,"
            " 'tea-house', NULL, 'A-' || n, 500, 'CNY', %s::timestamptz + n * interval '1 s',"
            " NULL, n FROM generate_series(1, %s) AS n",
            (NOON, MANY),
        )
        curs.execute(
            "INSERT INTO rm_campaign_figures.campaign (book, campaign, name, sponsor, state,"
            " version, terms, currency, drafted_at, position) SELECT 'main', gen_random_uuid(),"
            " 'Spring', 'city', CASE WHEN n %% 50 = 0 THEN 'open' ELSE 'draft' END, 1, '{}', 'CNY',"
            " %s::timestamptz + n * interval '1 s', n FROM generate_series(1, %s) AS n",
            (NOON, MANY),
        )
        curs.execute(
            "ANALYZE rm_wallets.coupon, rm_merchant_balances.redemption,"
            " rm_campaign_figures.campaign"
        )


MIDDLE = NOON + timedelta(seconds=MANY / 2)
LOW = UUID(int=0)

QUESTIONS: dict[str, Callable[[Any], object]] = {
    "wallet": lambda c: wallets.coupons_of(c, HOLDER, limit=PAGE),
    "wallet, further on": lambda c: wallets.coupons_of(
        c, HOLDER, after=wallets.WalletCursor(MIDDLE, "main", LOW), limit=PAGE
    ),
    "wallet, one state": lambda c: wallets.coupons_of(c, HOLDER, state="redeemed", limit=PAGE),
    "coupon": lambda c: wallets.coupon(c, "main", LOW),
    "due": lambda c: wallets.due_for_expiry(c, "main", NOON, PAGE),
    "redemptions": lambda c: merchants.redemptions(c, "tea-house", limit=PAGE),
    "redemptions, further on": lambda c: merchants.redemptions(
        c, "tea-house", after=merchants.RedemptionCursor(MIDDLE, "main", LOW, 0), limit=PAGE
    ),
    "campaigns": lambda c: figures.campaigns(c, limit=PAGE),
    "campaigns, rare state": lambda c: figures.campaigns(c, states=["open"], limit=PAGE),
    "campaigns, further on": lambda c: figures.campaigns(
        c, after=figures.CampaignCursor(MIDDLE, "main", LOW), limit=PAGE
    ),
    "campaign": lambda c: figures.campaign(c, "main", LOW),
    "balances": lambda c: merchants.balances(c, "tea-house"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_touches_no_more_rows_than_it_shows(
    datastore: Datastore, crowd: None, question: str
) -> None:
    """However many rows there are, each index range gives at most one page of them.

    And one row more, where rows of one instant are sorted: it tells that the instant is over.
    """
    with datastore.transaction() as curs:
        curs.execute("SET LOCAL enable_seqscan = off")
        explained = Explained(curs)
        QUESTIONS[question](explained)
    for node in explained.plan:
        assert node["Node Type"] not in {"Seq Scan", "Bitmap Heap Scan"}
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            assert read <= PAGE + 1


def test_without_its_index_a_question_touches_everything(datastore: Datastore, crowd: None) -> None:
    """The control: the same look at the plan notices a missing index."""
    with datastore.transaction() as curs:
        curs.execute("DROP INDEX rm_wallets.coupon_of_person")
        explained = Explained(curs)
        wallets.coupons_of(explained, HOLDER, limit=PAGE)
    scans = [node for node in explained.plan if "Relation Name" in node]
    most = max(n["Actual Rows"] + n.get("Rows Removed by Filter", 0) for n in scans)
    assert most > PAGE + 1
