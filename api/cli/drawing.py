"""`tidebook bundle` and `tidebook beacon`: what is published of public draws, and is awaited."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Books, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.drawlists import Known
    from api.settings import Settings
    from ledger.books import PublicId
    from ledger.datastore import Datastore


def bundle(
    campaign: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="A campaign's id.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; is made.")],
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Write the bundle of a public draw: all that anybody needs to draw again.

    The bundle holds its own verifier, which needs nothing but Python: `python3
    FOLDER/verify_draw.py FOLDER`.

    Examples:
    * `tidebook bundle cmp_main_0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50 ./draw`
    """
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import MalformedId, PublicId

    try:
        wanted = PublicId.parse(campaign, CAMPAIGN_PREFIX)
    except MalformedId as error:
        raise Trouble(f"CAMPAIGN: {error}") from None
    if folder.exists() and any(folder.iterdir()):
        raise Trouble(f"FOLDER: {folder} is not empty")
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        document = _write(datastore, settings, wanted, folder)
    if as_json:
        output.print_json(document)
    else:
        for name, value in document.items():
            print(f"{name}: {value}")
    return 0


def beacon(
    values: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="Values to record, as drand's nodes answer them, one a line; `-` reads them from"
            " the standard input.",
            show_default=False,
        ),
    ] = None,
    book: Books = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Tell which rounds of a public beacon are awaited, and record values that were brought.

    Where no source is reached over HTTP, a value is brought as a file. It is recorded beside the
    others in the home, and two different values for one round make the draw wait.

    Examples:
    * `tidebook beacon`
    * `curl https://api.drand.sh/v2/chains/CHAIN/rounds/ROUND | tidebook beacon -`
    """
    settings = stores.load_settings(home)
    if values is not None:
        _record(settings, values)
    with stores.store(settings) as datastore:
        awaited = list(_awaited(datastore, settings, stores.chosen_books(datastore, book)))
    if as_json:
        output.print_json(awaited)
    else:
        for row in awaited:
            print(f"{row['campaign']}: round {row['round']} of {row['chain']}, {row['emitted_at']}")
        if not awaited:
            print("no draw awaits a beacon")
    return 0


def _record(settings: Settings, values: Path) -> None:
    from campaigns.draws.beacon import MalformedBeacon, parse_recorded

    data = sys.stdin.buffer.read() if str(values) == "-" else values.read_bytes()
    try:
        found = parse_recorded(data)
    except MalformedBeacon as error:
        raise Trouble(f"FILE: {error}") from None
    path = settings.home / "beacons.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for one in found:
            line = f'{{"round":{one.round},"signature":"{one.signature.hex()}"}}\n'
            file.write(line.encode())


def _awaited(
    datastore: Datastore, settings: Settings, books: list[str]
) -> Iterator[dict[str, Any]]:
    from api.drawlists import DrawLists
    from campaigns.event_types import MAPPER
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import PublicId
    from ledger.history import History

    for book in books:
        history = History(datastore, book, MAPPER)
        lists = DrawLists(history, settings.lists)
        for campaign in sorted({campaign for campaign, _ in history.standing().capacity}):
            known = lists.known(campaign)
            if known is None or known.draw.state not in {"registering", "frozen"}:
                continue
            yield {
                "campaign": str(PublicId(CAMPAIGN_PREFIX, lists.book, campaign)),
                "state": known.draw.state,
                "chain": known.terms.chain.hash,
                "round": known.draw.round,
                "emitted_at": known.terms.round_time.isoformat(),
            }


def _write(
    datastore: Datastore, settings: Settings, wanted: PublicId, folder: Path
) -> dict[str, Any]:
    from api.drawlists import DrawLists
    from api.upkeep import Troubled
    from campaigns.draws.announcing import announced, facts_of
    from campaigns.draws.bundle import write_bundle
    from campaigns.event_types import MAPPER
    from ledger.history import History

    stores.chosen_books(datastore, [wanted.book])
    lists = DrawLists(History(datastore, wanted.book, MAPPER), settings.lists)
    known = lists.known(wanted.uuid)
    if known is None or known.draw.frozen is None or known.draw.held is None:
        raise Trouble(f"CAMPAIGN: {_what_is_missing(known)}")
    held, frozen = known.draw.held, known.draw.frozen
    told = announced(lists.book, known.campaign, known.draw, facts_of(frozen))
    turns = [turn.seats for turn in known.draw.turns]
    try:
        with lists.frozen(known) as listed:
            outcome = write_bundle(
                folder,
                told,
                bytes.fromhex(held.seed),
                bytes.fromhex(held.signature),
                listed,
                turns,
            )
    except Troubled as error:
        raise Trouble(str(error)) from None
    if outcome.root != held.root:
        raise Trouble("what was recorded is not what is drawn with it again; `tidebook verify`")
    return {
        "campaign": str(wanted),
        "folder": str(folder),
        "announcement": frozen.announcement,
        "entries": frozen.entries,
        "withdrawn": frozen.withdrawn,
        **outcome._asdict(),
    }


def _what_is_missing(known: Known | None) -> str:
    if known is None:
        return "there is no public draw of this campaign, or it was not opened"
    return f"its draw is {known.draw.state}: a bundle is written of one that was held"
