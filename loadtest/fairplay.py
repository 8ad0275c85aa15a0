"""Whether nobody was let in before others without reason: waiting rooms, and draws by lot.

A waiting room promises: places before the opening by lot, later ones in order of arrival; one
place a person; turns in the order of places and no faster than the room lets in; nobody claims
before the turn; estimates that come true. What people were told of their places was recorded as
sightings. One that was `asked` for was found out between the sending of its call and the answer;
a later event of a stream only before it came. Rules use what holds for both, whatever the service
does inside, so that a finding is never an accident of timing. Nothing here decides about coupons:
`loadtest/testimony.py` does.
"""

from __future__ import annotations

import math
from datetime import datetime
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from loadtest.books import Campaign, rank_of
from loadtest.chance import unevenness
from loadtest.feed import instant, plain_id
from loadtest.testimony import CLOCKS_S, SPANS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from loadtest.books import Books
    from loadtest.recording import Recording

PARTS: Final = 10
"""Parts of the entries, in order of arrival, for which the report shows who won."""
ESTIMATE_S: Final = 1.0
"""By how much an estimate may miss: the service counts a queue anew every half second."""

_NUMBERS: Final = """
SELECT who, count(DISTINCT number) FROM sighting WHERE about = ? AND number > 0 GROUP BY who
"""
_HOLDERS: Final = """
SELECT number, count(DISTINCT who) FROM sighting WHERE about = ? AND number > 0 GROUP BY number
"""
_EARLY: Final = """
SELECT who, min(begin) FILTER (WHERE state = 'early') AS came, max(number) AS number
FROM sighting WHERE about = ? GROUP BY who
HAVING came IS NOT NULL AND number > 0 ORDER BY came
"""
_LATE: Final = """
SELECT min(begin) AS sent, min(at) AS told, max(number) AS number
FROM sighting WHERE about = ? GROUP BY who
HAVING sum(state = 'early') = 0 AND number > 0 ORDER BY sent
"""
_TURNS: Final = "SELECT min(at) AS told, number FROM sighting WHERE about = ? AND state = 'turn'"
_TURNS_BY_TIME: Final = f"{_TURNS} GROUP BY number ORDER BY told"
_WAITS_BY_TIME: Final = """
SELECT begin, number, who FROM sighting
WHERE about = ? AND state = 'waiting' AND asked ORDER BY begin
"""
_ESTIMATES: Final = """
SELECT s.who, s.begin, s.at, s.wait, turn.at, max(waiting.begin)
FROM sighting AS s
JOIN (SELECT who, min(at) AS at FROM sighting WHERE about = ?1 AND state = 'turn' GROUP BY who)
    AS turn ON turn.who = s.who
JOIN sighting AS waiting ON waiting.who = s.who AND waiting.about = ?1 AND waiting.asked
    AND waiting.state = 'waiting'
WHERE s.about = ?1 AND s.state = 'waiting' AND s.asked GROUP BY s.rowid
"""
_OPENINGS: Final = """
SELECT who, begin, at, wait FROM sighting WHERE about = ? AND state = 'early' AND asked
"""
_UNDULY: Final = """
SELECT e.position, e.key FROM effect AS e
WHERE e.topic = 'coupon.claimed' AND e.campaign = ?1 AND EXISTS (
    SELECT 1 FROM call AS c WHERE c.key = e.key
) AND NOT EXISTS (
    SELECT 1 FROM call AS c JOIN sighting AS s ON s.who = c.who
    WHERE c.key = e.key AND s.about = ?1 AND s.state = 'turn' AND s.pass AND s.at <= c.begin
)
"""
_CLAIMS: Final = "SELECT count(*) FROM effect WHERE topic = 'coupon.claimed' AND campaign = ?"
_SOLD: Final = """
SELECT c.low, c.high FROM sighting AS s JOIN call AS c ON c.who = s.who AND c.begin = s.begin
WHERE s.about = ? AND s.state = 'sold_out' AND s.asked
"""
_ENTRIES: Final = """
SELECT e.thing, min(c.begin) AS came FROM effect AS e JOIN call AS c ON c.key = e.key
WHERE e.topic = 'coupon.entered' AND e.campaign = ? GROUP BY e.thing ORDER BY came
"""


def check_fairness(books: Books, recording: Recording) -> None:
    """Check the run's waiting rooms and draws against what people were told.

    What the report draws of them is noted in the recording.
    """
    shelf = recording.shelf
    shelf.execute("CREATE INDEX IF NOT EXISTS sighting_who ON sighting (who)")
    release = recording.notes().get("release_utc")
    released = datetime.fromisoformat(release) if release else None
    rooms, draws = {}, {}
    for name in map(plain_id, recording.notes().get("campaigns", [])):
        campaign = books.campaigns.get(name, Campaign())
        if campaign.intake == "waiting_room":
            opens_s = None
            if released is not None and campaign.claim_from:
                opens_s = (instant(campaign.claim_from) - released).total_seconds()
            rooms[name] = {"opens_s": opens_s, "rate_per_s": campaign.rate_per_s}
            _check_places(books, shelf, name)
            _check_turns(books, shelf, name, campaign, opens_s)
            _check_estimates(books, shelf, name, opens_s)
            _check_passes(books, shelf, name)
        elif campaign.seed:
            luck = list(_luck(shelf, name, campaign))
            draws[name] = _by_arrival(luck)
            _check_luck(books, name, [won for _, won in luck])
    recording.note(rooms=rooms, draws=draws)


def _check_places(books: Books, shelf: sqlite3.Connection, name: str) -> None:
    """One place each, drawn before the opening and in order after it."""
    for who, numbers in shelf.execute(_NUMBERS, (name,)):
        books.check("a person keeps his place", numbers == 1, f"{who} had {numbers} numbers")
    for number, people in shelf.execute(_HOLDERS, (name,)):
        books.check("a place is one person's", people == 1, f"{people} have number {number}")
    early = [number for _, _, number in shelf.execute(_EARLY, (name,))]
    uneven = unevenness(early)
    if uneven is not None:
        found, bound = uneven
        detail = f"chi-square {found:.1f} over {bound} among {len(early)} people of {name}"
        books.check("places before the opening are by lot", found <= bound, detail)
    last, following = max(early, default=0), 0
    answered: list[tuple[float, int]] = []
    for sent, told, number in shelf.execute(_LATE, (name,)):
        books.check("who came early stands in front", number > last, f"number {number} of {name}")
        while answered and answered[0][0] <= sent:
            following = max(following, heappop(answered)[1])
        heappush(answered, (told, number))
        in_order = number > following
        detail = f"number {number} of {name}, behind {following}"
        books.check("who comes later stands behind", in_order, detail)


def _check_turns(
    books: Books, shelf: sqlite3.Connection, name: str, campaign: Campaign, opens_s: float | None
) -> None:
    """In the order of the numbers, and no faster than the room lets in."""
    turns = shelf.execute(_TURNS_BY_TIME, (name,)).fetchall()
    following, reached = iter([*turns, (float("inf"), 0)]), 0
    told, number = next(following)
    for begin, waiting, who in shelf.execute(_WAITS_BY_TIME, (name,)):
        while told <= begin:
            reached = max(reached, number)
            told, number = next(following)
        detail = f"{who} waits with {waiting} after the turn of {reached}"
        books.check("turns come in the order of places", waiting > reached, detail)
    if opens_s is None:
        return
    per_s = campaign.rate_per_s
    for told, number in turns:
        due_s = opens_s + max(0.0, (number - per_s) / per_s)
        detail = f"number {number} at {told:.1f} s, due at {due_s:.1f} s"
        books.check("turns come no faster than the rate", told + CLOCKS_S >= due_s, detail)


def _check_estimates(
    books: Books, shelf: sqlite3.Connection, name: str, opens_s: float | None
) -> None:
    """The turn came between the last look that still waited and the first one that did not."""
    for who, begin, at, wait_s, turn, waited in shelf.execute(_ESTIMATES, (name,)):
        soonest, latest = begin + wait_s - ESTIMATE_S, at + wait_s + ESTIMATE_S
        detail = f"{who} was told {wait_s} s at {at:.1f} s; the turn came by {turn:.1f} s"
        books.check("an estimate comes true", soonest <= turn and waited <= latest, detail)
    if opens_s is None:
        return
    for who, begin, at, wait_s in shelf.execute(_OPENINGS, (name,)):
        soonest, latest = begin + wait_s - CLOCKS_S, at + wait_s + CLOCKS_S
        detail = f"{who} was told {wait_s} s at {at:.1f} s; claims begin at {opens_s:.1f} s"
        books.check("the opening is as it was told", soonest <= opens_s <= latest, detail)


def _check_passes(books: Books, shelf: sqlite3.Connection, name: str) -> None:
    """Whoever got a coupon had been told before the call that it is his turn."""
    rule = "nobody claims before the turn"
    books.checked(rule, int(shelf.execute(_CLAIMS, (name,)).fetchone()[0]))
    for position, key in shelf.execute(_UNDULY, (name,)):
        books.find(rule, f"the claim with the key {key}", position)
    for low, high in shelf.execute(_SOLD, (name,)):
        so = books.is_so("sold_out", name, low, high)
        books.check(SPANS["sold_out"], so, f"the waiting room of {name} from {low} to {high}")


def _check_luck(books: Books, name: str, won: list[int]) -> None:
    """Who entered early wins no more often, and no less."""
    uneven = unevenness(won)
    if uneven is not None:
        found, bound = uneven
        detail = f"chi-square {found:.1f} over {bound} in the draw of {name}"
        books.check("an early entry wins no more often", found <= bound, detail)


def _luck(shelf: sqlite3.Connection, name: str, campaign: Campaign) -> Iterator[tuple[float, int]]:
    """When each entry was sent, in order, and whether it won."""
    for thing, came in shelf.execute(_ENTRIES, (name,)):
        yield came, int(rank_of(campaign.seed, thing) <= campaign.threshold)


def _by_arrival(luck: Sequence[tuple[float, int]]) -> list[list[float]]:
    """For each tenth of the entries in order of arrival: until when, how many, how many won."""
    size = max(1, math.ceil(len(luck) / PARTS))
    parts = [luck[start : start + size] for start in range(0, len(luck), size)]
    return [[part[-1][0], len(part), sum(won for _, won in part)] for part in parts]
