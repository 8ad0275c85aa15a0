"""Public draws folded once more: who is in the list, who has a seat, who claimed and how much.

A chapter of `loadtest/books.py`. Entries and telephones lie on its shelf; in memory is one small
record for each draw. That ranks follow from the seed and the beacon is not checked here: a draw's
bundle brings its own verifier.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loadtest.feed import campaign_of, instant, plain_id, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.books import Books
    from loadtest.client import Json

TABLES: Final = """
DROP TABLE IF EXISTS temp.entry;
DROP TABLE IF EXISTS temp.phone;
CREATE TEMP TABLE entry (
    campaign TEXT, person TEXT, place INT, state TEXT, rank INT, tier INT, amount_minor INT,
    until TEXT, PRIMARY KEY (campaign, person)
) WITHOUT ROWID;
CREATE UNIQUE INDEX temp.entry_rank ON entry (campaign, rank);
CREATE TEMP TABLE phone (id TEXT PRIMARY KEY, entry TEXT) WITHOUT ROWID;
"""
_ENTRY: Final = """
SELECT place, state, tier, amount_minor, until FROM entry WHERE campaign = ? AND person = ?
"""
_NEW_ENTRY: Final = """
INSERT OR REPLACE INTO entry VALUES (?, ?, ?, 'registered', NULL, NULL, NULL, NULL)
"""
_CHANGED: Final = "UPDATE entry SET state = ? WHERE campaign = ? AND person = ?"
_WON: Final = """
UPDATE OR IGNORE entry SET state = 'won', rank = ?, tier = ?, amount_minor = ?, until = ?
WHERE campaign = ? AND person = ? AND state = 'registered' AND place = ?
"""
_PHONE: Final = "SELECT entry FROM phone WHERE id = ?"
_HOLD_PHONE: Final = "INSERT OR REPLACE INTO phone VALUES (?, ?)"


class Turn(NamedTuple):
    """Seats that were given at once, from one rank on."""

    first_rank: int
    seats: Sequence[int]
    until: str


class _Entry(NamedTuple):
    place: int
    state: str
    tier: int
    amount_minor: int
    until: str


@dataclass
class PublicDraw:
    """One public draw as its events say, up to now."""

    tiers: list[tuple[int, int]]
    """Amount and number of winners of each tier."""
    runners_up: int
    ends: str
    """When the registration is over."""
    commitment: str = ""
    places: int = 0
    empty: int = 0
    is_frozen: bool = False
    ranks: int = 0
    turns: list[Turn] = field(default_factory=list)
    given: int = 0
    claims: Counter[int] = field(default_factory=Counter)

    def seat(self, rank: int) -> tuple[int, int, int, str] | None:
        """Turn, tier, amount and deadline of a rank's seat; None for a rank without one."""
        for number, turn in enumerate(self.turns):
            place = rank - turn.first_rank
            for tier, count in enumerate(turn.seats, 1):
                if 0 <= place < count:
                    return number, tier, self.tiers[tier - 1][0], turn.until
                place -= count
        return None


class PublicDraws:
    """Folds the events of public draws, their entries and the telephones of these."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.draws: dict[str, PublicDraw] = {}
        self.rules: dict[str, Callable[[Json], None]] = {
            "draw.opened": self._opened,
            "draw.entered": self._entered,
            "draw.phone_taken": self._phone_taken,
            "draw.phone_freed": self._phone_freed,
            "draw.withdrawn": self._emptied,
            "draw.entry_voided": self._emptied,
            "draw.frozen": self._frozen,
            "draw.drawn": self._drawn,
            "draw.won": self._won,
            "draw.moved_up": self._moved_up,
            "draw.voided": self._voided,
        }

    def drafted(self, name: str, terms: Json) -> None:
        """Take in what a campaign says of its draw."""
        tiers = [(tier["amount_minor"], tier["count"]) for tier in terms["tiers"]]
        self.draws[name] = PublicDraw(tiers, terms.get("runners_up", 0), terms["register_until"])

    def _draw(self, event: Json) -> PublicDraw:
        """The draw that an event is about, one version further in its stream."""
        draw = self.draws.get(campaign_of(event))
        self._books.check("draws are drafted first", draw is not None, campaign_of(event))
        self._books.check_stream(event)
        return PublicDraw([], 0, "9999-01-01T00:00:00Z") if draw is None else draw

    def _opened(self, event: Json) -> None:
        self._draw(event).commitment = event["commitment"]

    def _voided(self, event: Json) -> None:
        self._draw(event)

    # --- the list ---------------------------------------------------------------------------

    def _entry(self, event: Json) -> _Entry | None:
        row = self._row(_ENTRY, campaign_of(event), event["person"])
        return None if row is None else _Entry(*row)

    def _row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._books.shelf.execute(query, values).fetchone()
        return row

    def _entered(self, event: Json) -> None:
        draw, books, person = self._draw(event), self._books, event["person"]
        place, entry = event["index"], self._entry(event)
        in_order = place == draw.places
        books.check("places in a draw's list are dense", in_order, f"{place}, not {draw.places}")
        draw.places += 1
        is_new = entry is None or entry.state == "withdrawn"
        books.check("a person is in a draw's list once", is_new, person)
        in_time = bool(draw.commitment) and not draw.is_frozen
        in_time &= instant(event["at"]) < instant(draw.ends)
        books.check("a list takes entries until its end", in_time, event["at"])
        books.put(_NEW_ENTRY, campaign_of(event), person, place)

    def _emptied(self, event: Json) -> None:
        draw, books, person = self._draw(event), self._books, event["person"]
        entry, state = self._entry(event), event["topic"].partition(".")[2]
        is_listed = (
            not draw.is_frozen
            and entry is not None
            and (entry.state, entry.place) == ("registered", event["index"])
        )
        books.check("only what is in a list leaves it, before its end", is_listed, person)
        draw.empty += 1
        books.put(_CHANGED, state, campaign_of(event), person)

    def _phone_taken(self, event: Json) -> None:
        self._draw(event)
        row = self._row(_PHONE, stream_of(event))
        is_free = row is None or row[0] is None
        self._books.check("a telephone stands for one entry", is_free, stream_of(event))
        self._books.put(_HOLD_PHONE, stream_of(event), plain_id(event["entry"]))

    def _phone_freed(self, event: Json) -> None:
        self._draw(event)
        holds = self._row(_PHONE, stream_of(event)) == (plain_id(event["entry"]),)
        self._books.check("a telephone is freed by its entry", holds, stream_of(event))
        self._books.put(_HOLD_PHONE, stream_of(event), None)

    def _frozen(self, event: Json) -> None:
        draw = self._draw(event)
        found, listed = (event["entries"], event["withdrawn"]), (draw.places, draw.empty)
        detail = f"{found}, not {listed}"
        self._books.check("a frozen list has all who registered", found == listed, detail)
        draw.is_frozen = True

    # --- seats ------------------------------------------------------------------------------

    def _drawn(self, event: Json) -> None:
        draw, books, winners = self._draw(event), self._books, event["winners"]
        committed = sha256(bytes.fromhex(event["seed"])).hexdigest() == draw.commitment
        books.check("a draw shows the seed that it committed to", committed, event["seed"])
        valid, capacity = draw.places - draw.empty, sum(count for _, count in draw.tiers)
        fits = draw.is_frozen and winners == min(valid, capacity)
        detail = f"{winners} of {valid} for {capacity} places"
        books.check("as many win as there are places for", fits, detail)
        draw.ranks = winners + event["runners_up"]
        most = min(valid, capacity + draw.runners_up)
        books.check("no more have a rank than registered", draw.ranks <= most, f"of {most}")
        self._seat(draw, Turn(0, event["seats"], event["claim_until"]), winners)

    def _moved_up(self, event: Json) -> None:
        draw = self._draw(event)
        turn = Turn(event["first_rank"], event["seats"], event["claim_until"])
        last = draw.turns[-1] if draw.turns else Turn(0, (), event["at"])
        follows = turn.first_rank == last.first_rank + sum(last.seats)
        is_over = follows and instant(event["at"]) >= instant(last.until)
        self._books.check("seats move up when their time is over", is_over, event["at"])
        self._seat(draw, turn, min(sum(turn.seats), draw.ranks - turn.first_rank))

    def _seat(self, draw: PublicDraw, turn: Turn, people: int) -> None:
        """In no tier are more seats than nobody has claimed yet, nor more than people."""
        fits = sum(turn.seats) == people and len(turn.seats) == len(draw.tiers)
        for tier, seats in enumerate(turn.seats[: len(draw.tiers)], 1):
            fits &= 0 <= seats <= draw.tiers[tier - 1][1] - draw.claims[tier]
        detail = f"{list(turn.seats)} for {people}"
        self._books.check("no tier has more seats than places", fits, detail)
        draw.turns.append(turn)

    def _won(self, event: Json) -> None:
        draw, books, rank = self._draw(event), self._books, event["rank"]
        found = tuple(event[name] for name in ("turn", "tier", "amount_minor", "claim_until"))
        seat = draw.seat(rank)
        books.check("a seat is that of its rank", found == seat, f"{found}, not {seat}")
        place = (campaign_of(event), event["person"], event["index"])
        won = books.shelf.execute(_WON, (rank, *found[1:], *place)).rowcount == 1
        books.check("a seat is given once, to who is in the list", won, event["person"])
        draw.given += 1
        seats = sum(sum(turn.seats) for turn in draw.turns)
        books.check("no more seats are given than there are", draw.given <= seats, f"{draw.given}")

    def claimed(self, event: Json, amount: int) -> None:
        """Somebody claims what a draw gave: a coupon or a packet."""
        draw, books, person = self.draws[campaign_of(event)], self._books, event["person"]
        entry = self._entry(event)
        won = entry is not None and entry.state == "won"
        books.check("who claims from a draw has won, and claims once", won, person)
        if entry is None or not won:
            return
        in_time = instant(event["at"]) < instant(entry.until)
        books.check("winners claim in time", in_time, f"{person} at {event['at']}")
        worth = entry.amount_minor
        books.check("winners get what they won", amount == worth, f"{amount} for {worth}")
        draw.claims[entry.tier] += 1
        most = draw.tiers[entry.tier - 1][1]
        fits = draw.claims[entry.tier] <= most
        books.check("winners are no more than a tier's places", fits, f"{most} in {entry.tier}")
        books.put(_CHANGED, "claimed", campaign_of(event), person)
