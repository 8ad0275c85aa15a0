"""`tidebook replay`: what a book, or one thing in it, was at any past position or instant."""

from __future__ import annotations

import sys
from bisect import bisect_right
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import EXAMPLE_INSTANT, AsJson, Home, parse_person, parse_until
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.settings import Settings
    from campaigns.replay import BookAt, CampaignAt, CouponCounts, GroupCounts, Life, PacketCounts
    from ledger.datastore import Datastore
    from ledger.history import History

COUNTED: Final = (
    *("claimed", "held", "redeemed", "expired", "voided", "reclaimed", "refunds"),
    *("entered", "drawn"),
)
PACKETS_COUNTED: Final = (
    *("claimed", "held", "expired", "closed", "payments", "refunds"),
    *("paid_minor", "refunded_minor", "returned_minor"),
)
GROUPS_COUNTED: Final = (
    *("sent", "open", "shares_taken", "sent_minor", "taken_minor", "returned_minor"),
    "outstanding_minor",
)

Until = Annotated[
    str | None,
    typer.Option(
        metavar="TIME|POSITION",
        help=f"A position, or a time with its offset ({EXAMPLE_INSTANT}): the state after all"
        " events up to then. Without it, the state now.",
        show_default=False,
    ),
]


def replay(
    until: Until = None,
    book: Annotated[
        str | None, typer.Option(metavar="BOOK", help="The book.  [default: main]")
    ] = None,
    coupon: Annotated[
        str | None, typer.Option(metavar="CPN", help="One coupon, step by step.")
    ] = None,
    packet: Annotated[
        str | None, typer.Option(metavar="PKT", help="One red packet, step by step.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="GRP", help="One group packet, step by step.")
    ] = None,
    purse: Annotated[
        str | None, typer.Option(metavar="PRS", help="One purse, step by step.")
    ] = None,
    draw: Annotated[
        str | None, typer.Option(metavar="CMP", help="The public draw of a campaign.")
    ] = None,
    campaign: Annotated[
        str | None, typer.Option(metavar="CMP", help="One campaign, step by step.")
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="A person's coupons and packets, by pseudonym."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            help="A person's coupons and packets, by verified identity and this home's key."
        ),
    ] = None,
    step: Annotated[
        bool, typer.Option("--step", help="Show one step at a time: Enter goes on, q ends.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Show the state at any past instant or position: of all, or of one thing or person.

    All: every event is folded, and coupons, packets, groups, money and campaigns are counted. One
    thing: only its own events are read, so that it takes no longer in a large book: each step with
    who caused it, under which version of the campaign, and the money that it moved. A time is by
    the ledger's own clock, which every event carries.

    Examples:
    * `tidebook replay --until 2026-05-01T20:00:00+08:00`
    * `tidebook replay --until 1000 --json`
    * `tidebook replay --coupon cpn_main_3f2c… --step`
    * `tidebook replay --identity alice --until 2026-05-01T12:00:00Z`
    """
    moment = None if until is None else parse_until(until)
    things = (coupon, packet, group, purse, draw, campaign)
    wanted = _Wanted(book, things, person, identity)
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        document, show = wanted.replay(datastore, settings, moment)
    if as_json:
        output.print_json(document)
        return 0
    if step:
        document["step"] = True
    show()
    return 0


_THINGS: Final = {
    "--coupon": "cpn",
    "--packet": "pkt",
    "--group": "grp",
    "--purse": "prs",
    "--draw": "cmp",
    "--campaign": "cmp",
}
"""Option that names one thing → how its public id begins."""


class _Wanted:
    """What is asked for: at most one thing, in one book."""

    def __init__(
        self,
        book: str | None,
        things: tuple[str | None, ...],
        person: str | None,
        identity: str | None,
    ) -> None:
        given = dict(zip(_THINGS, things, strict=True))
        given |= {"--person": person, "--identity": identity}
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise Trouble(f"{' and '.join(names)}: only one of them can be given")
        self.person = None if person is None else parse_person(person)
        self.identity = identity
        self.thing = next((name for name in _THINGS if given[name] is not None), None)
        own = None
        if self.thing is not None:
            own = public_id(self.thing, given[self.thing], _THINGS[self.thing])
        self.own = own
        if own is not None and book not in (None, own.book):
            raise Trouble(f"--book: {names[0]} {own} is in the book {own.book}, not in {book}")
        self.book = own.book if own is not None else book or "main"

    def replay(self, datastore: Datastore, settings: Settings, moment: Any) -> tuple[Any, Any]:
        """Return the document, and the function that prints it for people."""
        from campaigns.event_types import MAPPER
        from ledger.history import History

        stores.chosen_books(datastore, [self.book])
        history = History(datastore, self.book, MAPPER)
        until = position_of(history, moment)
        head = _head_of(history, until)
        if self.thing is not None:
            show = _SHOWS[self.thing]
            document, print_it = show(history, self.own, until, head)
            return document, print_it
        if self.identity is not None:
            self.person = _person_of(datastore, settings, self.identity)
        if self.person is not None:
            return _person(history, self.person, until, head)
        return _all(history, until, head)


def _person_of(datastore: Datastore, settings: Settings, identity: str) -> str:
    from api.vault.wiring import person_of_identity

    with datastore.transaction() as cursor:
        person = person_of_identity(settings, cursor, identity)
    if person is None:
        raise Trouble("--identity: nobody is known by it, or whoever was known by it was erased")
    return person


def public_id(option: str, text: str | None, prefix: str) -> Any:
    """Return the public id that an option names; raise `Trouble`."""
    from ledger.books import MalformedId, PublicId

    if text is None:
        return None
    try:
        return PublicId.parse(text, prefix)
    except MalformedId:
        form = f"{prefix}_<book>_<32 hex digits>"
        raise Trouble(f"{option}: an id has the form {form}, not {text[:64]!r}") from None


def position_of(history: History, moment: int | datetime | None) -> int:
    """Return the position that `--until` names, the head without it; raise `Trouble`."""
    head = history.head()
    if moment is None:
        return head
    if isinstance(moment, datetime):
        return history.position_at(moment)
    if moment > head:
        raise Trouble(f"--until: the book {history.book} ends at position {head}, before {moment}")
    return moment


def _head_of(history: History, until: int) -> dict[str, Any]:
    """Return how every document begins: which book, up to where, up to when."""
    at = history.instant_of(until) if until else None
    return {"book": history.book, "position": until, "at": at}


def _line(head: dict[str, Any]) -> str:
    at = "before its first event" if head["at"] is None else _instant(head["at"])
    return f"Book {head['book']} at position {head['position']:,}, {at}"


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


# One coupon, packet or campaign


def _coupon(history: History, coupon: Any, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.replay import coupon_life

    life = coupon_life(history, coupon.uuid, until)
    state = _coupon_state(history, life[-1].state, until) if life else None
    document = head | {"coupon": str(coupon), "state": state, "life": _steps(history, life)}
    return document, lambda: _print_life(document, "coupon", "was not claimed")


def _packet(history: History, packet: Any, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.replay import packet_life

    life = packet_life(history, packet.uuid, until)
    state = _packet_state(history, life[-1].state) if life else None
    document = head | {"packet": str(packet), "state": state, "life": _steps(history, life)}
    return document, lambda: _print_life(document, "packet", "was not claimed")


def _packet_state(history: History, packet: Any) -> dict[str, Any]:
    from campaigns.packets.replies import packet_reply
    from ledger.books import Book

    return _fields(packet_reply(Book(history.book), packet)) | {"person": packet.person}


def _group(history: History, group: Any, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.replay import group_life

    life = group_life(history, group.uuid, until)
    state = _group_state(life[-1].state) if life else None
    document = head | {"group": str(group), "state": state, "life": _steps(history, life)}
    return document, lambda: _print_life(document, "group", "was not sent")


def _group_state(group: Any) -> dict[str, Any]:
    """Return a group with its takings; the hash of its code tells nobody anything."""
    fields = _fields(group)
    for name in ("id", "version", "members", "code_sha256"):
        del fields[name]
    return fields | {"members": sorted(group.members) if group.members is not None else None}


def _campaign(history: History, campaign: Any, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.replay import campaign_life
    from campaigns.replies import campaign_reply

    life = campaign_life(history, campaign.uuid, until)
    state = campaign_reply(campaign.book, life[-1].state) if life else None
    document = head | {"campaign": str(campaign), "state": state, "life": _steps(history, life)}
    return document, lambda: _print_life(document, "campaign", "was not drafted")


def _coupon_state(history: History, coupon: Any, until: int) -> dict[str, Any]:
    from campaigns.replay import shown_state
    from campaigns.replies import coupon_reply
    from ledger.books import Book

    reply = coupon_reply(Book(history.book), coupon)
    used = {"merchant": coupon.merchant, "order": coupon.order}
    shown = {"state": shown_state(history, coupon, until)}
    return _fields(reply) | shown | {"person": coupon.person} | used


def _purse(history: History, purse: Any, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.groups.replies import purse_reply
    from campaigns.replay import purse_life
    from ledger.books import Book

    life = purse_life(history, purse.uuid, until)
    state = purse_reply(Book(history.book), life[-1].state) if life else None
    document = head | {"purse": str(purse), "state": state, "life": _steps(history, life)}
    return document, lambda: _print_life(document, "purse", "was not asked for")


def _draw(history: History, campaign: Any, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.replay import draw_life

    life = draw_life(history, campaign.uuid, until)
    state = None
    if life:
        fields = _fields(life[-1].state)
        del fields["id"], fields["version"], fields["campaign"]
        state = fields | {"state": life[-1].state.state}
    document = head | {"draw": str(campaign), "state": state, "life": _steps(history, life)}
    return document, lambda: _print_life(document, "draw", "had no public draw")


def _steps(history: History, life: Life[Any]) -> list[dict[str, Any]]:
    versions = _versions(history, life)
    return [
        {
            "position": step.position,
            "at": step.event.at,
            "event": step.event.TOPIC,
            "by": step.event.by.role,
            "actor": step.event.by.id,
            "campaign_version": bisect_right(versions, step.position),
            "state": _after(step.state),
            "moved": [
                {
                    "from": one.credit,
                    "to": one.debit,
                    "amount": {"amount_minor": one.amount_minor, "currency": one.currency},
                }
                for one in step.transfers
            ],
        }
        | _corrected(step.event)
        for step in life
    ]


def _corrected(event: Any) -> dict[str, Any]:
    """Return what a correction says of what was taken: both of its times, and why."""
    from campaigns.corrections.correction import CORRECTION_EVENTS

    if not isinstance(event, CORRECTION_EVENTS):
        return {}
    fields = _fields(event)
    return {"corrected": {name: fields[name] for name in _OF_CORRECTIONS}}


_OF_CORRECTIONS: Final = ("order", "recorded_at", "effective_at", "reason")


def _versions(history: History, life: Life[Any]) -> list[int]:
    """Return the positions of a thing's campaign: the rules of a step are those by then."""
    if not life:
        return []
    first = life[0].event
    campaign = getattr(first, "campaign", first.originator_id)
    return [position for position, _ in history.stream(campaign, life[-1].position)]


def _after(state: Any) -> str:
    """Return a state in a word; a purse has none but what is in it."""
    word: str = getattr(state, "state", "")
    return word or f"{state.balance_minor:,} {state.currency}"


def _print_life(document: dict[str, Any], kind: str, absent: str) -> None:
    console = output.console()
    console.print(_line(document))
    if not document["life"]:
        console.print(f"{document[kind]} {absent} by then.")
        return
    console.print(f"{document[kind]} is {document['life'][-1]['state']}.", style="bold")
    if document.get("step"):
        _walk(document["life"])
        return
    columns = ("position", "at", "event", "by", "version", "then", "money moved")
    steps = output.table(None, *columns, numbers=("position", "version"))
    for step in document["life"]:
        steps.add_row(*_cells(step))
    console.print(steps)


def _cells(step: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a step: of people and operators the first digits are enough here."""
    actor = step["actor"] if len(step["actor"]) <= _SHORT else f"{step['actor'][:8]}…"
    told = [f"{_money(one['amount'])} {one['from']} → {one['to']}" for one in step["moved"]]
    if "corrected" in step:
        counts = _instant(step["corrected"]["effective_at"])
        told = [f"none: order {step['corrected']['order']} to count for {counts}"]
    return (
        f"{step['position']:,}",
        _instant(step["at"]),
        step["event"],
        f"{step['by']} {actor}",
        str(step["campaign_version"]),
        step["state"],
        "; ".join(told),
    )


_SHORT: Final = 16
"""Names of merchants and of the service's own processes are shown whole."""


def _walk(life: list[dict[str, Any]]) -> None:
    """Show one step at a time, until there is none left or the reader has seen enough."""
    console = output.console()
    for number, step in enumerate(life, 1):
        position, at, event, by, version, then, moved = _cells(step)
        console.print(f"{number}/{len(life)}  {position}  {at}", style="bold")
        console.print(f"  {event} by {by}, under version {version} of the campaign")
        console.print(f"  then {then}" + (f"; {moved}" if moved else ""))
        if number < len(life) and sys.stdin.readline().strip().lower().startswith("q"):
            return


_SHOWS: Final = {
    "--coupon": _coupon,
    "--packet": _packet,
    "--group": _group,
    "--purse": _purse,
    "--draw": _draw,
    "--campaign": _campaign,
}


# A person


def _person(history: History, person: str, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.coupon import Coupon
    from campaigns.replay import holdings_of

    held = holdings_of(history, person, until)
    document = head | {
        "person": person,
        "coupons": [_coupon_state(history, one, until) for one in held if isinstance(one, Coupon)],
        "packets": [_packet_state(history, one) for one in held if not isinstance(one, Coupon)],
    }
    return document, lambda: _print_person(document)


def _print_person(document: dict[str, Any]) -> None:
    console = output.console()
    console.print(_line(document))
    console.print(f"{len(document['coupons'])} coupons of {document['person']}", style="bold")
    if document["coupons"]:
        held = output.table(None, "coupon", "state", "face", "claimed", "valid until")
        for one in document["coupons"]:
            face = {"amount_minor": one["face"].amount_minor, "currency": one["face"].currency}
            held.add_row(
                one["coupon"],
                one["state"],
                _money(face),
                _instant(one["claimed_at"]),
                _instant(one["valid_until"]),
            )
        console.print(held)
    if document["packets"]:
        console.print(f"{len(document['packets'])} packets", style="bold")
        _print_packets(document["packets"])


def _print_packets(packets: list[dict[str, Any]]) -> None:
    held = output.table(None, "packet", "state", "amount", "balance", "claimed", "valid until")
    for one in packets:
        amounts = [_money(_fields(one[name])) for name in ("amount", "balance")]
        instants = [_instant(one[name]) for name in ("claimed_at", "valid_until")]
        held.add_row(one["packet"], one["state"], *amounts, *instants)
    output.console().print(held)


# Everything


def _all(history: History, until: int, head: dict[str, Any]) -> tuple[Any, Any]:
    from campaigns.replay import fold_book

    with output.progress(f"{history.book}: replay", until) as advance:
        one, rest = output.counted(advance)
        book = fold_book(history.events(until), lambda _: one())
        rest()
    document = head | _book_document(history, book)
    return document, lambda: _print_book(document)


def _book_document(history: History, book: BookAt) -> dict[str, Any]:
    from campaigns.replies import campaign_reply
    from ledger.books import Book

    name = Book(history.book)
    return {
        "coupons": _counts(book.coupons),
        "packets": _packet_counts(book.packets),
        "groups": _group_counts(book.groups),
        "money": [_fields(money) | {"sum_minor": money.sum_minor} for money in book.money()],
        "campaigns": [
            _fields(campaign_reply(name, one.campaign)) | _counts_of(one)
            for one in book.campaigns.values()
        ],
    }


def _counts_of(campaign: CampaignAt) -> dict[str, Any]:
    if campaign.campaign.terms.packet is None:
        return {"coupons": _counts(campaign.coupons)}
    groups = _group_counts(campaign.groups)
    return {"packets": _packet_counts(campaign.packets), "groups": groups}


def _group_counts(counts: GroupCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in GROUPS_COUNTED}


def _packet_counts(counts: PacketCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in PACKETS_COUNTED}


def _counts(counts: CouponCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in COUNTED}


def _fields(struct: Any) -> dict[str, Any]:
    from msgspec import UNSET
    from msgspec.structs import asdict

    return {name: value for name, value in asdict(struct).items() if value is not UNSET}


def _print_book(document: dict[str, Any]) -> None:
    console = output.console()
    console.print(_line(document))
    from campaigns.replay import ACCOUNT_KINDS

    kinds = (*ACCOUNT_KINDS, "sum", "moved")
    money = output.table(
        "Money: debits minus credits, in minor units", "currency", *kinds, numbers=kinds
    )
    for one in document["money"]:
        money.add_row(one["currency"], *(f"{one[f'{kind}_minor']:,}" for kind in kinds))
    console.print(money)
    _print_campaigns("Campaigns", "coupons", COUNTED, document)
    if document["packets"]["claimed"]:
        _print_campaigns("Red packets", "packets", PACKETS_COUNTED, document)
    if document["groups"]["sent"]:
        _print_campaigns("Group packets", "groups", GROUPS_COUNTED, document)


def _print_campaigns(
    title: str, kind: str, counted: tuple[str, ...], document: dict[str, Any]
) -> None:
    rows = output.table(
        title, "campaign", "name", "state", "quota", *counted, numbers=("quota", *counted)
    )
    for one in document["campaigns"]:
        if kind in one:
            counts = [f"{one[kind][name]:,}" for name in counted]
            rows.add_row(one["campaign"], one["name"], one["state"], f"{one['quota']:,}", *counts)
    total = [f"{document[kind][name]:,}" for name in counted]
    rows.add_row("all", "", "", "", *total, style="bold")
    output.console().print(rows)


def _money(amount: dict[str, Any]) -> str:
    return f"{amount['amount_minor']:,} {amount['currency']}"
