"""`tidebook receipt` and `tidebook check-receipt`: one event proved, and the proof judged alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from ledger.transparency.leaves import Leaf
    from ledger.transparency.notes import Verifier
    from ledger.transparency.receipts import Verified


def receipt(
    position: Annotated[int, typer.Argument(min=1, help="The event's position in its book.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it here; without it, to standard output."),
    ] = None,
    book: Annotated[str, typer.Option(metavar="BOOK", help="The event's book.")] = "main",
    home: Home = None,
) -> int:
    """Write the receipt of an event: a proof that verifies offline (C2SP tlog-proof).

    The head that is served must have reached the event; one is signed every second.

    Examples:
    * `tidebook receipt 12 > claim.tlog-proof`
    * `tidebook receipt 12 --to claim.tlog-proof`
    """
    from ledger.transparency.receipts import NotYetProved
    from ledger.transparency.receipts import receipt as receipt_of

    with stores.store(stores.load_settings(home)) as datastore, datastore.transaction() as cursor:
        try:
            data = receipt_of(cursor, book, position).encode()
        except NotYetProved as early:
            raise Trouble(f"POSITION: {early}") from None
    if to is None:
        sys.stdout.write(data.decode())
    else:
        to.write_bytes(data)
    return 0


def check_receipt(
    file: Annotated[Path, typer.Argument(help="The receipt.")],
    log_key: Annotated[
        list[str],
        typer.Option(metavar="KEY", help="Verifier key of the log; can be given again."),
    ],
    witness: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Verifier key of a witness that is believed; can be given again.",
            show_default=False,
        ),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="How many of these witnesses must have cosigned; without it all.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Say whether a receipt holds, from the file and the keys alone.

    Asks no network and no database. Exit status: **0** it holds, **1** it does not, **2** could
    not run.

    Examples:
    * `tidebook check-receipt claim.tlog-proof --log-key "$LOG" --witness "$WITNESS"`
    """
    from ledger.transparency.proofs import Policy, Refused
    from ledger.transparency.receipts import verify_receipt
    from ledger.transparency.texts import Malformed

    keys = [_key(text, "--log-key") for text in log_key]
    witnesses = [_key(text, "--witness") for text in witness or ()]
    needed = len(witnesses) if quorum is None else quorum
    policy = Policy(keys[0].name, tuple(keys), tuple(witnesses), needed)
    try:
        found = verify_receipt(file.read_bytes(), policy)
    except (Malformed, Refused) as wrong:
        if as_json:
            output.print_json({"holds": False, "why": str(wrong)})
        else:
            print(f"It does not hold: {wrong}")
        return 1
    if as_json:
        output.print_json({"holds": True, **_told(found)})
        return 0
    for name, value in _told(found).items():
        print(f"{name}: {value}")
    return 0


def _key(text: str, option: str) -> Verifier:
    from ledger.transparency.notes import Verifier
    from ledger.transparency.texts import Malformed

    try:
        return Verifier.parse(text.strip())
    except Malformed as malformed:
        raise Trouble(f"{option}: {malformed}") from None


def _told(found: Verified) -> dict[str, Any]:
    leaf = found.leaf
    return {
        "book": leaf.book,
        "position": leaf.position,
        "stream": str(leaf.stream),
        "version": leaf.version,
        "topic": leaf.topic,
        "state": _readable(leaf),
        "head": found.checkpoint.size,
        "cosigned by": ", ".join(one.name for one in found.cosignatures) or "nobody",
    }


def _readable(leaf: Leaf) -> str:
    """The state as it is stored; of one that is too long for an entry, its hash."""
    from ledger.transparency.leaves import DIGEST

    if leaf.form == DIGEST:
        return f"SHA-256 {leaf.state.hex()}"
    return leaf.state.decode("utf-8", "replace")
