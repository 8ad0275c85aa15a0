"""What was answered during a run, held against the book: every success stored, every refusal true.

Each call has the moments at which it was sent and answered, on one clock. The book has an order.
Two things tie them together, and both are sound whatever the service does inside:

- a position that an answer named before a call was sent had been reached by then, so the call saw
  the book at that position or later (`low`);
- an event whose call was sent after another call was answered was not there yet, so that other call
  saw the book before it (`high`).

A refusal is **true** when what it says was so after some position from `low` to `high`, and
**false** when it was so after none of them: then no moment inside the call can justify it. The
width of that span is the resolution; it is about the number of calls in flight.

One sweep in the order of time finds the bounds; everything large lies in SQLite's files. Nothing
here may use what only the service knows.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from loadtest.books import FOREVER, TOLD, Campaign, intake_ends
from loadtest.feed import instant, plain_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from loadtest.books import Books
    from loadtest.recording import Recording

CLOCKS_S: Final = 1.0
"""How far the clocks of the load generator and of the database may be apart at a window's edge."""

SPANS: Final = {
    "sold_out": "sold out is said when it is so",
    "budget_exhausted": "budget exhausted is said when it is so",
    "not_open": "not open is said when it is so",
    "draw_pending": "draw pending is said when it is so",
    "already_redeemed": "already redeemed is said when it is so",
    "coupon_voided": "voided is said when it is so",
    "coupon_expired": "expired is said when it is so",
    "coupon_reclaimed": "reclaimed is said when it is so",
}
"""Refusals that are true in spans of positions, and the rule that each stands under."""

PROPER: Final = ("already_claimed", "already_entered", "limit_reached", *SPANS)

_FAULTS: Final = """
SELECT name, who, status, code FROM call
WHERE (status BETWEEN 400 AND 499 AND status NOT IN (409, 429)) OR code = 'internal_error'
"""
_SUCCESSES: Final = """
SELECT c.id, c.about, c.position, c.replayed, c.low, c.body,
       e.position, e.topic, e.thing, e.campaign, e.at, e.detail
FROM call c LEFT JOIN effect e ON e.key = c.key
WHERE c.method = 'POST' AND c.key <> '' AND c.status BETWEEN 200 AND 299
"""
_TOLD_TWICE: Final = """
SELECT key, count(DISTINCT digest) FROM call
WHERE key <> '' AND status BETWEEN 200 AND 299 GROUP BY key HAVING count(*) > 1
"""
_DONE_TWICE: Final = """
SELECT key, count(*) FROM effect WHERE key IN (SELECT key FROM call) GROUP BY key
"""
_TAKEN_BACK: Final = """
SELECT later.key, later.code FROM call AS first JOIN call AS later ON later.key = first.key
WHERE first.key <> '' AND first.status BETWEEN 200 AND 299 AND later.begin >= first.end
  AND later.status BETWEEN 400 AND 499 AND later.status <> 429
  AND later.code <> 'idempotency_in_flight'
"""
_REFUSED_YET_DONE: Final = """
SELECT e.position, e.key FROM effect e
WHERE e.key IN (SELECT key FROM call WHERE key <> '' GROUP BY key
                HAVING min(status BETWEEN 400 AND 499) = 1)
"""
_NOT_ASKED_FOR: Final = """
SELECT position, topic, key FROM effect
WHERE campaign IN (SELECT value FROM json_each(?)) AND key IS NOT NULL
  AND key NOT IN (SELECT key FROM call)
"""
_REFUSALS: Final = """
SELECT code, about, who, end, position, low, high, body FROM call
WHERE status = 409 AND replayed = 0 AND code IN (SELECT value FROM json_each(?))
"""
_OWNED: Final = """
CREATE TEMP TABLE asked AS
SELECT DISTINCT c.who, e.campaign, e.thing, e.person, e.topic, e.position
FROM effect e JOIN call c ON c.key = e.key WHERE e.topic IN ('coupon.claimed', 'coupon.entered');
CREATE INDEX temp.asked_thing ON asked (thing);
CREATE INDEX temp.asked_who ON asked (who, campaign);
CREATE TEMP TABLE owned AS
SELECT DISTINCT a.who, e.campaign, e.thing, e.person, e.position
FROM effect e JOIN asked a ON a.thing = e.thing WHERE e.topic = 'coupon.claimed';
CREATE INDEX temp.owned_who ON owned (who, campaign, position);
"""
"""Who asked for what, and who owns what: a winner of a lottery asked for an entry."""
_COUPONS_OF: Final = "SELECT thing FROM owned WHERE who = ? AND campaign = ? AND position <= ?"
_ENTRIES_OF: Final = """
SELECT thing FROM asked
WHERE who = ? AND campaign = ? AND position <= ? AND topic = 'coupon.entered'
"""


def check_answers(books: Books, recording: Recording) -> None:
    """Check every recorded answer against the book; `books` was folded on the recording's shelf."""
    shelf = recording.shelf
    assert books.shelf is shelf, "the fold lies beside the recording"
    shelf.execute("CREATE INDEX IF NOT EXISTS call_key ON call (key)")
    bound_positions(shelf)
    shelf.executescript(
        "DROP TABLE IF EXISTS temp.asked; DROP TABLE IF EXISTS temp.owned;" + _OWNED
    )
    campaigns = [plain_id(one) for one in recording.notes().get("campaigns", [])]
    _check_behaviour(books, shelf)
    _check_successes(books, shelf)
    _check_keys(books, shelf, campaigns)
    _check_people(books, shelf)
    _check_refusals(books, recording)


# --- when each call can have seen the book --------------------------------------------------------


def bound_positions(shelf: sqlite3.Connection) -> None:
    """Write for each call the least and the greatest position that it can have seen."""
    shelf.executescript(
        "DROP TABLE IF EXISTS temp.bound;"
        "CREATE TEMP TABLE bound (id INTEGER PRIMARY KEY, low INT, high INT);"
    )
    shelf.execute("BEGIN")
    shelf.executemany("INSERT INTO bound VALUES (?, ?, NULL)", _lows(shelf))
    shelf.executemany("UPDATE bound SET high = ?2 WHERE id = ?1", _highs(shelf))
    shelf.execute("COMMIT")
    shelf.execute(
        "UPDATE call SET (low, high) = (SELECT low, high FROM bound WHERE bound.id = call.id)"
    )


def _lows(shelf: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """In the order of sending: the greatest position that had been named by then."""
    named = shelf.execute("SELECT end, position FROM call WHERE position > 0 ORDER BY end")
    following, low = named.fetchone(), 0
    for call, begin in shelf.execute("SELECT id, begin FROM call ORDER BY begin"):
        while following is not None and following[0] <= begin:
            low = max(low, following[1])
            following = named.fetchone()
        yield call, low


def _highs(shelf: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Backwards in the order of answers: one before the least position that was made later."""
    made = shelf.execute(
        "SELECT begin, position FROM call WHERE position > 0 AND replayed = 0 AND key <> ''"
        " AND status BETWEEN 200 AND 299 ORDER BY begin DESC"
    )
    following, high = made.fetchone(), FOREVER
    for call, end in shelf.execute("SELECT id, end FROM call ORDER BY end DESC"):
        while following is not None and following[0] >= end:
            high = min(high, following[1] - 1)
            following = made.fetchone()
        yield call, high


# --- successes ------------------------------------------------------------------------------------


def _check_behaviour(books: Books, shelf: sqlite3.Connection) -> None:
    """Nothing was answered as it must not be, as far as whoever asked could tell."""
    rule = "every answer is as it must be"
    books.checked(rule, _count(shelf, "SELECT count(*) FROM call"))
    for name, who, what in shelf.execute("SELECT name, who, what FROM amiss"):
        books.find(rule, f"{name} of {who}: {what}")
    for name, who, status, code in shelf.execute(_FAULTS):
        books.find(rule, f"{name} of {who}: {status} {code}")


def _check_successes(books: Books, shelf: sqlite3.Connection) -> None:
    """Every 2xx is in the store, says what the store says, and comes after what was told before."""
    for _, about, position, replayed, low, body, *event in shelf.execute(_SUCCESSES):
        stored, topic, thing, campaign, at, detail = event
        books.check("what was answered is stored", stored is not None, about)
        if stored is None:
            continue
        books.check(
            "an answer names its event's position", position == stored, f"{position} ≠ {stored}"
        )
        if not replayed:
            books.check(
                "what was answered first comes first", stored > low, f"{stored}, after {low}"
            )
        if topic == "coupon.entered":
            end = books.campaigns[campaign].intake_closed
            in_draw = not end or stored < end
            books.check("what was entered is in the draw", in_draw, f"{about}, at {stored}")
        if body is not None and topic in TOLD:
            said = told(topic, json.loads(body))
            happened = [thing, campaign, at, *json.loads(detail)]
            books.check("an answer says what is stored", said == happened, f"{said} ≠ {happened}")


def told(topic: str, body: dict[str, Any]) -> list[Any]:
    """What an answer says, in the order of `TOLD` behind the coupon, its campaign and the time."""
    thing = [plain_id(body["coupon"]), plain_id(body["campaign"])]
    if topic == "coupon.entered":
        return [*thing, body["entered_at"]]
    if topic == "coupon.claimed":
        face, threshold = body["face"], body["threshold"]
        worth = [face["amount_minor"], threshold["amount_minor"], face["currency"]]
        validity = [body["valid_from"], body["valid_until"]]
        return [*thing, body["claimed_at"], body["n"], *worth, *validity]
    amount = body["discount" if topic == "coupon.redeemed" else "refunded"]
    at = body["redeemed_at" if topic == "coupon.redeemed" else "refunded_at"]
    order = [body["merchant"], body["order"]]
    return [*thing, at, *order, amount["amount_minor"], amount["currency"]]


def _check_keys(books: Books, shelf: sqlite3.Connection, campaigns: list[str]) -> None:
    """One key has one effect and one answer; what has an effect was asked for and not refused."""
    for key, answers in shelf.execute(_TOLD_TWICE):
        books.check("a replay is what was told first", answers == 1, f"{key}: {answers} answers")
    for key, effects in shelf.execute(_DONE_TWICE):
        books.check("one key, one effect", effects == 1, f"{key}: {effects} effects")
    rule = "what succeeded stays so"
    books.checked(rule, _count(shelf, "SELECT count(DISTINCT key) FROM call WHERE status < 300"))
    for key, code in shelf.execute(_TAKEN_BACK):
        books.find(rule, f"{key}: {code} after a success")
    rule = "what was refused is not stored"
    refused = "SELECT count(*) FROM call WHERE key <> '' AND status BETWEEN 400 AND 499"
    books.checked(rule, _count(shelf, refused))
    for position, key in shelf.execute(_REFUSED_YET_DONE):
        books.find(rule, key, position)
    rule = "what is stored was asked for"
    books.checked(rule, _count(shelf, "SELECT count(*) FROM effect"))
    for position, topic, key in shelf.execute(_NOT_ASKED_FOR, (json.dumps(campaigns),)):
        books.find(rule, f"{topic} with the key {key}", position)


def _check_people(books: Books, shelf: sqlite3.Connection) -> None:
    """An identity is one person, whatever it calls from, and has no more than its limit."""
    for who, persons in shelf.execute("SELECT who, count(DISTINCT person) FROM asked GROUP BY who"):
        books.check("an identity is one person", persons == 1, f"{who} is {persons}")
    for person, whos in shelf.execute(
        "SELECT person, count(DISTINCT who) FROM asked GROUP BY person"
    ):
        books.check("a person is one identity", whos == 1, f"{person} is {whos}")
    counts = shelf.execute("SELECT who, campaign, count(*) FROM owned GROUP BY who, campaign")
    for who, campaign, count in counts:
        limit = books.campaigns.get(campaign, Campaign()).limit
        books.check("the limit per identity", count <= limit, f"{who} has {count} of {limit}")
    entries = shelf.execute(
        "SELECT who, count(DISTINCT thing) FROM asked WHERE topic = 'coupon.entered'"
        " GROUP BY who, campaign"
    )
    for who, count in entries:
        books.check("one entry an identity", count == 1, f"{who} entered {count} times")


# --- refusals -------------------------------------------------------------------------------------


def _check_refusals(books: Books, recording: Recording) -> None:
    """Every 409 about the state of things was true at some moment inside its call."""
    shelf, notes = recording.shelf, recording.notes()
    release = notes.get("release_utc")
    released = datetime.fromisoformat(release) if release else None
    for row in shelf.execute(_REFUSALS, (json.dumps(PROPER),)):
        code, about, who, end, position, low, high, body = row
        if code in SPANS:
            at = released + timedelta(seconds=max(end, -1e6)) if released else None
            _check_span(books, code, about, position, (low, high), at)
        else:
            _check_ownership(books, code, about, who, high, body)


def _check_span(
    books: Books, code: str, about: str, position: int, seen: tuple[int, int], at: datetime | None
) -> None:
    low, high = seen
    detail = f"{about} from {low} to {'the end' if high >= FOREVER else high}"
    by_clock = at is not None and _is_over(books, code, about, at)
    too_early = at is not None and _is_early(books, code, about, at)
    so = by_clock or (books.is_so(code, about, low, high) and not too_early)
    books.check(SPANS[code], so, detail)
    if position:
        books.check(
            "a refusal names a position at which it was so",
            by_clock or books.is_so(code, about, position, position),
            f"{code} of {about} at {position}",
        )


def _is_over(books: Books, code: str, about: str, at: datetime) -> bool:
    """Whether the clock alone explains a refusal: a window that had not begun or was over."""
    slack = timedelta(seconds=CLOCKS_S)
    if code == "coupon_expired":
        row = books.shelf.execute(
            "SELECT valid_until FROM coupon WHERE id = ?", (about,)
        ).fetchone()
        return bool(row and row[0]) and at + slack >= instant(row[0])
    campaign = books.campaigns.get(about)
    if code != "not_open" or campaign is None or not campaign.claim_until:
        return False
    begins, ends = instant(campaign.claim_from), instant(campaign.claim_until)
    return at - slack < begins or at + slack >= ends


def _is_early(books: Books, code: str, about: str, at: datetime) -> bool:
    """Whether the clock refutes a refusal: a draw cannot be pending while people enter."""
    campaign = books.campaigns.get(about)
    ends = None if campaign is None else intake_ends(campaign)
    return code == "draw_pending" and ends is not None and at + timedelta(seconds=CLOCKS_S) < ends


def _check_ownership(
    books: Books, code: str, about: str, who: str, high: int, body: bytes | None
) -> None:
    """Whoever is told that he has a coupon or an entry has it; the one that is named is his."""
    query = _ENTRIES_OF if code == "already_entered" else _COUPONS_OF
    things = {thing for (thing,) in books.shelf.execute(query, (who, about, high))}
    if code == "limit_reached":
        limit = books.campaigns.get(about, Campaign()).limit
        books.check("limit reached is said when it is so", len(things) >= limit, who)
        return
    named = json.loads(body).get("coupon") if body else None
    holds = bool(things) and (named is None or plain_id(named) in things)
    detail = f"{who}, {about}: {named}"
    if code == "already_entered":
        books.check("already entered is said when it is so", holds, detail)
    else:
        books.check("already claimed is said when it is so", holds, detail)


def _count(shelf: sqlite3.Connection, query: str) -> int:
    return int(shelf.execute(query).fetchone()[0])
