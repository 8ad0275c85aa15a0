"""Red packets, purses and group packets folded once more: every fen in one place, none in two.

A chapter of `loadtest/books.py`, which moves the money and keeps what is found. Packets, payments,
purses, groups and shares lie on its shelf; in memory is only what the next event has to answer.
"""

from __future__ import annotations

from collections import defaultdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loadtest.feed import campaign_of, instant, plain_id, pot_of, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.books import Books, Campaign
    from loadtest.client import Json

TABLES: Final = """
DROP TABLE IF EXISTS temp.packet;
DROP TABLE IF EXISTS temp.payment;
DROP TABLE IF EXISTS temp.purse;
DROP TABLE IF EXISTS temp.party;
DROP TABLE IF EXISTS temp.share;
CREATE TEMP TABLE packet (
    id TEXT PRIMARY KEY, campaign TEXT, person TEXT, balance_minor INT, state TEXT,
    valid_from TEXT, valid_until TEXT
) WITHOUT ROWID;
CREATE TEMP TABLE payment (
    packet TEXT, merchant TEXT, reference TEXT, id TEXT, packet_minor INT, own_minor INT,
    PRIMARY KEY (packet, merchant, reference)
) WITHOUT ROWID;
CREATE TEMP TABLE purse (
    id TEXT PRIMARY KEY, campaign TEXT, person TEXT, balance_minor INT, asked_minor INT,
    asked_by TEXT
) WITHOUT ROWID;
CREATE TEMP TABLE party (
    id TEXT PRIMARY KEY, campaign TEXT, purse TEXT, shares INT, taken INT, left_minor INT,
    until TEXT, commitment TEXT, closed INT
) WITHOUT ROWID;
CREATE TEMP TABLE share (party TEXT, what TEXT, PRIMARY KEY (party, what)) WITHOUT ROWID;
"""
_PACKET: Final = """
SELECT campaign, person, balance_minor, state, valid_from, valid_until FROM packet WHERE id = ?
"""
_NEW_PACKET: Final = "INSERT INTO packet VALUES (?, ?, ?, ?, 'held', ?, ?)"
_FILL_PACKET: Final = "UPDATE packet SET balance_minor = balance_minor + ?, state = ? WHERE id = ?"
_NEW_PAYMENT: Final = "INSERT OR IGNORE INTO payment VALUES (?, ?, ?, ?, ?, ?)"
_PAY_BACK: Final = """
UPDATE payment SET packet_minor = packet_minor - ?, own_minor = own_minor - ?
WHERE packet = ? AND merchant = ? AND reference = ? AND id = ? RETURNING packet_minor, own_minor
"""
_PURSE: Final = (
    "SELECT campaign, person, balance_minor, asked_minor, asked_by FROM purse WHERE id = ?"
)
_ASK: Final = """
INSERT INTO purse VALUES (?, ?, ?, 0, ?, ?) ON CONFLICT DO UPDATE
SET asked_minor = excluded.asked_minor, asked_by = excluded.asked_by
"""
_FILL_PURSE: Final = "UPDATE purse SET balance_minor = balance_minor + ? WHERE id = ?"
_PARTY: Final = """
SELECT campaign, purse, shares, taken, left_minor, until, commitment, closed FROM party WHERE id = ?
"""
_NEW_PARTY: Final = "INSERT OR REPLACE INTO party VALUES (?, ?, ?, ?, 0, ?, ?, ?, 0)"
_TAKE: Final = "UPDATE party SET taken = taken + ?, left_minor = left_minor - ? WHERE id = ?"
_CLOSE: Final = "UPDATE party SET left_minor = left_minor - ?, closed = 1 WHERE id = ?"
_NEW_SHARE: Final = "INSERT OR IGNORE INTO share VALUES (?, ?)"
_FIGURES: Final = """
SELECT count(*) FILTER (WHERE state = ?2), coalesce(sum(balance_minor), 0) FROM packet
WHERE campaign = ?1
"""
_PAYMENTS: Final = """
SELECT count(*) FROM payment JOIN packet ON packet.id = payment.packet WHERE campaign = ?
"""
_HELD: Final = """
SELECT 'packets:' || campaign, sum(balance_minor) FROM packet GROUP BY campaign
UNION ALL SELECT 'purses:' || campaign, sum(balance_minor) FROM purse GROUP BY campaign
UNION ALL SELECT 'groups:' || campaign, sum(left_minor) FROM party GROUP BY campaign
"""

ACCOUNTS: Final = ("packets:", "purses:", "groups:")
HELD: Final = "held"
EXPIRED: Final = "expired"
CLOSED: Final = "wallet_closed"
_COUNTS: Final = {HELD: HELD, EXPIRED: EXPIRED, CLOSED: "wallets_closed"}
"""State of a packet → the name of its figure."""


class _Packet(NamedTuple):
    campaign: str
    person: str
    balance_minor: int
    state: str
    valid_from: str
    valid_until: str


class _Purse(NamedTuple):
    campaign: str
    person: str
    balance_minor: int
    asked_minor: int
    asked_by: str


class _Party(NamedTuple):
    """A group packet."""

    campaign: str
    purse: str
    shares: int
    taken: int
    left_minor: int
    until: str
    commitment: str
    closed: int


class Packets:
    """Folds the events of packets, purses and groups, and of money that goes to the next round."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._owed: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        """What an event has promised of one that must follow in the same decision."""
        self.rules: dict[str, Callable[[Json], None]] = {
            "campaign.rolled_over": self._rolled_over,
            "campaign.rolled_in": self._rolled_in,
            "campaign.split_shown": self._split_shown,
            "packet.claimed": self._claimed,
            "packet.paid": self._paid,
            "packet.refunded": self._refunded,
            "packet.expired": self._ended,
            "packet.wallet_closed": self._ended,
            "purse.filling_proposed": self._filling_proposed,
            "purse.filled": self._filled,
            "purse.sent": self._sent,
            "purse.returned": self._returned,
            "purse.emptied": self._emptied,
            "group.funded": self._funded,
            "group.share_taken": self._share_taken,
            "group.closed": self._closed,
            "group.giving_up_proposed": self._giving_up_proposed,
            "group.given_up": self._given_up,
        }

    def _row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._books.shelf.execute(query, values).fetchone()
        return row

    def _owe(self, what: str, *promised: Any) -> None:
        self._owed[what].append(promised)

    def _is_owed(self, what: str, *found: Any) -> bool:
        """Whether an event is the one that was promised; it is not owed any more."""
        promised = self._owed[what]
        if found not in promised:
            return False
        promised.remove(found)
        return True

    # --- campaigns --------------------------------------------------------------------------

    def _rolled_over(self, event: Json) -> None:
        campaign, amount = self._books.turned(event), event["amount_minor"]
        free = campaign.budget_minor - campaign.granted_minor
        self._books.check(
            "all that is left rolls over",
            campaign.state == "closed" and amount == free,
            f"{amount} of {free} of a campaign that is {campaign.state}",
        )
        campaign.budget_minor -= amount
        into = plain_id(event["into"])
        self._owe("rolled_in", into, stream_of(event), amount)
        self._books.move(event, pot_of(event), f"campaign:{into}", amount)

    def _rolled_in(self, event: Json) -> None:
        campaign, amount = self._books.turned(event), event["amount_minor"]
        source = plain_id(event["from_campaign"])
        came = self._is_owed("rolled_in", stream_of(event), source, amount)
        self._books.check("what rolls over comes in", came, f"{amount} from {source}")
        campaign.budget_minor += amount
        self._books.check_stock(campaign, stream_of(event))

    def _split_shown(self, event: Json) -> None:
        campaign = self._books.turned(event)
        found = sha256(bytes.fromhex(event["seed"])).hexdigest()
        is_own = found == campaign.split_commitment
        self._books.check("a split shows the seed that it committed to", is_own, event["seed"])

    # --- packets ----------------------------------------------------------------------------

    def _claimed(self, event: Json) -> None:
        books, stream, name = self._books, stream_of(event), campaign_of(event)
        campaign, amount = books.campaign(event), event["amount_minor"]
        is_new = self._row(_PACKET, stream) is None
        books.check("a packet is claimed once", is_new, stream)
        if not is_new:
            return
        books.check_stream(event)
        window = (event["valid_from"], event["valid_until"])
        books.put(_NEW_PACKET, stream, name, event["person"], amount, *window)
        campaign.claimed += 1
        if "group" in event:
            group = plain_id(event["group"])
            self._owe("share_taken", group, stream, event["person"], amount)
            books.check("claims only while open", campaign.state == "open", campaign.state)
            books.move(event, f"groups:{name}", f"packets:{name}", amount)
            return
        books.check_claim(event, campaign, amount)
        if not campaign.public_draw:
            self._check_promise(campaign, amount)
        books.take(event, campaign, amount)
        books.move(event, pot_of(event), f"packets:{name}", amount)

    def _check_promise(self, campaign: Campaign, amount: int) -> None:
        """One amount for all, one of the tiers that are left, or a share of what is left."""
        campaign.awards += 1
        campaign.awards_minor += amount
        given, given_minor = campaign.awards, campaign.awards_minor
        if campaign.split is not None:
            total, count = campaign.split
            fits = given <= count and amount >= 1
            fits &= given_minor == total if given == count else given_minor < total
        elif campaign.tiers:
            campaign.tiers[amount] -= 1
            fits = campaign.tiers[amount] >= 0
        else:
            fits = amount == campaign.face_minor
        detail = f"packet {given} holds {amount}, {given_minor} in all"
        self._books.check("packets hold what was promised", fits, detail)

    def _packet(self, event: Json) -> _Packet | None:
        stream = stream_of(event)
        row = self._row(_PACKET, stream)
        self._books.check("packets are claimed first", row is not None, stream)
        if row is None:
            return None
        packet = _Packet(*row)
        self._books.check_stream(event)
        self._books.check(
            "a packet keeps its holder and campaign",
            (packet.person, packet.campaign) == (event["person"], campaign_of(event)),
            stream,
        )
        return packet

    def _paid(self, event: Json) -> None:
        packet, books, stream = self._packet(event), self._books, stream_of(event)
        if packet is None:
            return
        minor, own, total = event["amount_minor"], event["own_minor"], event["total_minor"]
        left = packet.balance_minor - minor
        books.check("payments are no more than a packet holds", left >= 0, f"{left} is left")
        first = 0 < minor == min(packet.balance_minor, total) and minor + own == total
        books.check("a packet is spent first", first, f"{minor} and {own} of {total}")
        at = instant(event["at"])
        in_time = instant(packet.valid_from) <= at < instant(packet.valid_until)
        valid = packet.state == HELD and in_time
        books.check("packets are spent while they are valid", valid, f"{packet.state} at {at}")
        order = (stream, event["merchant"], event["order"])
        told = (plain_id(event["payment"]), minor, own)
        is_new = books.shelf.execute(_NEW_PAYMENT, (*order, *told)).rowcount == 1
        books.check("an order is paid once from a packet", is_new, event["order"])
        books.put(_FILL_PACKET, -minor, packet.state, stream)
        books.move(event, f"packets:{packet.campaign}", f"merchant:{event['merchant']}", minor)

    def _refunded(self, event: Json) -> None:
        packet, books, stream = self._packet(event), self._books, stream_of(event)
        if packet is None:
            return
        into, back, own = (
            event[name] for name in ("to_packet_minor", "reclaimed_minor", "to_own_minor")
        )
        order = (event["merchant"], event["order"])
        payment = (stream, *order, plain_id(event["payment"]))
        left = self._row(_PAY_BACK, into + back, own, *payment)
        books.check("a refund is of a payment for its order", left is not None, str(order))
        fits = left is not None and min(*left, into, back, own) >= 0
        books.check("refunds are no more than was paid", fits, f"{into + back} and {own}")
        spendable = packet.state == HELD and instant(event["at"]) < instant(packet.valid_until)
        books.check(
            "a refund fills a packet that can be spent, and no other",
            not (back if spendable else into),
            f"{into} into a packet that is {packet.state}, {back} back",
        )
        books.put(_FILL_PACKET, into, packet.state, stream)
        merchant = f"merchant:{event['merchant']}"
        books.move(event, merchant, f"packets:{packet.campaign}", into)
        if back:
            books.give_back(event, merchant, back)

    def _ended(self, event: Json) -> None:
        packet, books, stream = self._packet(event), self._books, stream_of(event)
        if packet is None:
            return
        amount, state = event["amount_minor"], event["topic"].partition(".")[2]
        balance = packet.balance_minor
        books.check("all of a packet returns", amount == balance, f"{amount} of {balance}")
        books.check("a packet ends once", packet.state == HELD, packet.state)
        is_late = instant(event["at"]) >= instant(packet.valid_until)
        on_time = is_late == (state == EXPIRED)
        books.check("packets expire when their time is over", on_time, f"{state} at {event['at']}")
        books.put(_FILL_PACKET, -amount, state, stream)
        books.give_back(event, f"packets:{packet.campaign}", amount)

    # --- purses -----------------------------------------------------------------------------

    def _filling_proposed(self, event: Json) -> None:
        self._books.check_stream(event)
        asked = (event["amount_minor"], event["by"]["id"])
        if self._row(_PURSE, stream_of(event)) is not None:
            self._purse(event)
        place = (stream_of(event), campaign_of(event), event["person"])
        self._books.put(_ASK, *place, *asked)

    def _purse(self, event: Json, change: int = 0) -> _Purse:
        """A purse as it is after a change of what is in it."""
        stream = stream_of(event)
        self._books.put(_FILL_PURSE, change, stream)
        row = self._row(_PURSE, stream)
        purse = _Purse(*row) if row is not None else _Purse("", "", change, 0, "")
        own = (purse.person, purse.campaign) == (event["person"], campaign_of(event))
        self._books.check("a purse is one person's", own, stream)
        is_there = purse.balance_minor >= 0
        self._books.check("a purse is never negative", is_there, str(purse.balance_minor))
        return purse

    def _filled(self, event: Json) -> None:
        books, amount = self._books, event["amount_minor"]
        books.check_stream(event)
        campaign, purse = books.campaign(event), self._purse(event, amount)
        asked = (purse.asked_minor, purse.asked_by) == (amount, event["proposed_by"])
        by_another = event["by"]["id"] not in {event["proposed_by"], event["person"]}
        detail = f"{amount} by {event['by']['id']}, {purse.asked_minor} by {purse.asked_by}"
        books.check("purses are filled as another proposed", asked and by_another, detail)
        campaign.granted_minor += amount
        books.check_stock(campaign, campaign_of(event))
        books.move(event, pot_of(event), f"purses:{campaign_of(event)}", amount)

    def _sent(self, event: Json) -> None:
        books, name, amount = self._books, campaign_of(event), event["amount_minor"]
        books.check_stream(event)
        purse, campaign = self._purse(event, -amount), books.campaign(event)
        books.check("groups are sent while open", campaign.state == "open", campaign.state)
        group = plain_id(event["group"])
        self._owe("funded", group, stream_of(event), purse.person, amount)
        books.move(event, f"purses:{name}", f"groups:{name}", amount)

    def _returned(self, event: Json) -> None:
        books, name, amount = self._books, campaign_of(event), event["amount_minor"]
        books.check_stream(event)
        self._purse(event, amount)
        group = plain_id(event["group"])
        came = self._is_owed("returned", group, stream_of(event), amount)
        books.check("what nobody took is in the purse again", came, f"{amount} of {group}")
        books.move(event, f"groups:{name}", f"purses:{name}", amount)

    def _emptied(self, event: Json) -> None:
        books, amount = self._books, event["amount_minor"]
        books.check_stream(event)
        left = self._purse(event, -amount).balance_minor
        books.check("all of a purse returns", left == 0, f"{left} is left")
        books.give_back(event, f"purses:{campaign_of(event)}", amount)

    # --- groups -----------------------------------------------------------------------------

    def _funded(self, event: Json) -> None:
        books, stream, name = self._books, stream_of(event), campaign_of(event)
        books.check_stream(event)
        purse, shares, total = plain_id(event["purse"]), event["shares"], event["total_minor"]
        sent = self._is_owed("funded", stream, purse, event["person"], total)
        books.check("a group has what was sent", sent, f"{total} from {purse}")
        books.check("a share has a minor unit or more", 1 <= shares <= total, f"{shares} shares")
        rest = (shares, total, event["until"], event["seed_commitment"])
        books.put(_NEW_PARTY, stream, name, purse, *rest)
        campaign = books.campaign(event)
        campaign.issued += shares
        campaign.most_issued = max(campaign.most_issued, campaign.issued)
        books.check_stock(campaign, name)

    def _party(self, event: Json) -> _Party | None:
        row = self._row(_PARTY, stream_of(event))
        self._books.check("groups are sent first", row is not None, stream_of(event))
        if row is None:
            return None
        self._books.check_stream(event)
        return _Party(*row)

    def _share_taken(self, event: Json) -> None:
        party, books, stream = self._party(event), self._books, stream_of(event)
        if party is None:
            return
        number, person, amount = event["index"], event["person"], event["amount_minor"]
        share = plain_id(event["share"])
        is_packet = self._is_owed("share_taken", stream, share, person, amount)
        books.check("a share is a packet of its amount", is_packet, f"{amount} to {person}")
        is_new = books.shelf.execute(_NEW_SHARE, (stream, f"number {number}")).rowcount == 1
        fits = is_new and 1 <= number <= party.shares
        books.check("a share is taken once", fits, f"share {number} of {party.shares}")
        is_first = books.shelf.execute(_NEW_SHARE, (stream, f"person {person}")).rowcount == 1
        books.check("a person takes one share of a group", is_first, person)
        in_time = not party.closed and instant(event["at"]) < instant(party.until)
        books.check("shares are taken in time", in_time, f"{event['at']}, until {party.until}")
        left = party.left_minor - amount
        books.check("shares come to no more than was sent", left >= 0, f"{left} is left")
        books.put(_TAKE, 1, amount, stream)

    def _closed(self, event: Json) -> None:
        party = self._party(event)
        if party is None:
            return
        found = sha256(bytes.fromhex(event["seed"])).hexdigest()
        is_own = found == party.commitment
        self._books.check("a group shows the seed that it committed to", is_own, event["seed"])
        self._ended_group(party, event)

    def _giving_up_proposed(self, event: Json) -> None:
        self._party(event)

    def _given_up(self, event: Json) -> None:
        party = self._party(event)
        if party is None:
            return
        are_two = event["by"]["id"] != event["proposed_by"]
        self._books.check("two people give a group up", are_two, event["proposed_by"])
        self._ended_group(party, event)

    def _ended_group(self, party: _Party, event: Json) -> None:
        books, stream = self._books, stream_of(event)
        returned, minor = event["returned"], event["returned_minor"]
        books.check(
            "shares sum up to what was sent, with nothing over",
            (party.taken + returned, minor) == (party.shares, party.left_minor),
            f"{party.taken} and {returned} of {party.shares}, {minor} of {party.left_minor}",
        )
        is_over = not returned or instant(event["at"]) >= instant(party.until)
        books.check("a group closes once, at its end", is_over and not party.closed, stream)
        if returned:
            self._owe("returned", stream, party.purse, minor)
        books.put(_CLOSE, minor, stream)
        campaign = books.campaign(event)
        campaign.issued -= returned
        books.check_stock(campaign, campaign_of(event))

    # --- at the end -------------------------------------------------------------------------

    def check_conservation(self) -> None:
        """What was moved into packets, purses and groups is what their events say of them."""
        books = self._books
        said = {account: minor for account, minor in self._rows(_HELD) if minor}
        moved = {
            account: minor
            for (account, currency), minor in books.balances.items()
            if account.startswith(ACCOUNTS) and minor
            if currency == books.campaigns[account.partition(":")[2]].currency
        }
        for account in sorted(said.keys() | moved.keys()):
            found, expected = moved.get(account, 0), said.get(account, 0)
            detail = f"{account} has {found}, its events say {expected}"
            books.check("packets, purses and groups hold their money", found == expected, detail)
        for what, promised in self._owed.items():
            books.check("no decision is cut short", not promised, f"{what} of {promised}")

    def _rows(self, query: str) -> list[tuple[str, int]]:
        return self._books.shelf.execute(query).fetchall()

    def figures(self, name: str) -> dict[str, int]:
        """How many packets of a campaign are in each state, their payments, and their money."""
        found = {}
        for state, called in _COUNTS.items():
            count, minor = self._row(_FIGURES, name, state) or (0, 0)
            found[called] = count
            found["held money"] = minor
        [found["payments"]] = self._row(_PAYMENTS, name) or (0,)
        accounts = (f"purses:{name}", f"groups:{name}")
        found["purses"] = sum(
            minor for (account, _), minor in self._books.balances.items() if account in accounts
        )
        return found
