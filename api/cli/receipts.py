"""`tidebook receipt` and `tidebook check-receipt`: one event proved, and the proof judged alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble, say

if TYPE_CHECKING:
    from ledger.transparency.leaves import Leaf
    from ledger.transparency.notes import Verifier
    from ledger.transparency.policies import PolicyFile
    from ledger.transparency.receipts import Verified

TERMINAL: Final = "terminal"
_POSITION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_OF_THING: Final = re.compile(r"[a-z]{3}_([a-z][a-z0-9]{0,15})_([0-9a-f]{32})/([1-9][0-9]{0,8})")


def receipt(
    position: Annotated[
        str,
        typer.Argument(
            metavar="POSITION",
            help="The event's position in its book, or a thing's id, a slash and the event's number"
            " in its life.",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it here; without it, to standard output."),
    ] = None,
    book: Annotated[str, typer.Option(metavar="BOOK", help="The event's book.")] = "main",
    qr: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write a QR code that holds the receipt: FILE.svg, FILE.png, or `terminal`.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of the service, which the code names where the receipt does not fit.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
) -> int:
    """Write the receipt of an event: a proof that verifies offline (C2SP tlog-proof).

    The head that is served must have reached the event; one is signed every second. `--qr` writes
    a code beside the file, or instead of printing it.

    Examples:
    * `tidebook receipt 12 > claim.tlog-proof`
    * `tidebook receipt cpn_main_7c9e6679742558de944be07fc1f90ae7/1 --to claim.tlog-proof`
    * `tidebook receipt 12 --qr terminal`
    """
    data, found_at = _receipt(position, book, home)
    if to is not None:
        to.write_bytes(data)
    elif qr is None:
        sys.stdout.write(data.decode())
    if qr is not None:
        place = None if url is None else f"{url.rstrip('/')}/v1/books/{found_at}/receipt"
        _write_code(data, qr, place)
    return 0


def check_receipt(
    file: Annotated[Path, typer.Argument(help="The receipt, or the text of its QR code.")],
    log_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Verifier key of the log; can be given again.",
            show_default=False,
        ),
    ] = None,
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
    statement_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Verifier key of the operator's statements, for signed refusals and for receipts"
            " that withhold something; can be given again.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The logs and witnesses that are believed, and the quorum, as a file (C2SP"
            " tlog-policy), instead of the three before.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Say whether a receipt or a signed refusal holds, from the file and the keys alone.

    Asks no network and no database; `check_receipt.py` does the same with nothing but Python. Exit
    status: **0** it holds, **1** it does not, **2** could not run.

    Examples:
    * `tidebook check-receipt claim.tlog-proof --log-key "$LOG" --witness "$WITNESS"`
    * `tidebook check-receipt claim.tlog-proof --policy policy.txt`
    * `tidebook check-receipt refusal.note --statement-key "$STATEMENTS"`
    """
    from ledger.transparency.notes import BadSignature, Untrusted
    from ledger.transparency.packing import file_of
    from ledger.transparency.proofs import HEADER, Refused
    from ledger.transparency.texts import Malformed

    if policy is not None and (log_key or witness or quorum is not None):
        raise Trouble("--policy: the file says it all, without --log-key, --witness and --quorum")
    keys = [
        tuple(verifier_key(text, option) for text in texts or ())
        for texts, option in (
            (log_key, "--log-key"),
            (witness, "--witness"),
            (statement_key, "--statement-key"),
        )
    ]
    known = None if policy is None else _policy(policy)
    data = file.read_bytes()
    try:
        data = file_of(data)
        if data.startswith(HEADER.encode()):
            found = _told_of_event(data, *keys, quorum=quorum, policy=known)
        else:
            found = _told_of_statement(data, keys[2])
    except (Malformed, Refused, Untrusted, BadSignature) as wrong:
        if as_json:
            output.print_json({"holds": False, "why": str(wrong)})
        else:
            print(f"It does not hold: {wrong}")
        return 1
    if as_json:
        output.print_json({"holds": True, **found})
        return 0
    for name, value in found.items():
        print(f"{name}: {value}")
    return 0


def _receipt(position: str, book: str, home: Path | None) -> tuple[bytes, str]:
    """Return a receipt, and where it is below `/v1/books/`."""
    from ledger.transparency.receipts import NotYetProved
    from ledger.transparency.receipts import receipt as receipt_of

    with stores.store(stores.load_settings(home)) as datastore, datastore.transaction() as cursor:
        if _POSITION.fullmatch(position):
            place = int(position)
        else:
            book, place = _place_of(cursor, position)
        try:
            proof = receipt_of(cursor, book, place)
        except NotYetProved as early:
            raise Trouble(f"POSITION: {early}") from None
    return proof.encode(), f"{book}/events/{place}"


def _place_of(cursor: Any, text: str) -> tuple[str, int]:
    from uuid import UUID

    match = _OF_THING.fullmatch(text)
    if match is None:
        raise Trouble(
            "POSITION: a position is a whole number from 1 on, and an event of a thing is the"
            f" thing's id, a slash and a number, not {text[:60]!r}"
        )
    book, digits, number = match.groups()
    cursor.execute(
        "SELECT position FROM event"
        " WHERE book = %s AND originator_id = %s AND originator_version = %s",
        (book, UUID(digits), int(number)),
    )
    row = cursor.fetchone()
    if row is None:
        raise Trouble(f"POSITION: there is no such event as {text}")
    return book, int(row[0])


def _write_code(data: bytes, where: str, address: str | None) -> None:
    from api.qr import DoesNotFit, coded
    from ledger.merkle import leaf_hash
    from ledger.transparency.proofs import parse_proof

    leaf = leaf_hash(parse_proof(data).extra or b"")
    try:
        code = coded(data, leaf, address)
    except DoesNotFit as error:
        raise Trouble(f"--qr: {error}; with --url the code names where it is to be had") from None
    if where == TERMINAL:
        print(code.terminal(), end="")
        return
    path = Path(where)
    if path.suffix not in {".svg", ".png"}:
        raise Trouble(f"--qr: FILE.svg, FILE.png or `terminal`, not {where!r}")
    path.write_bytes(code.svg() if path.suffix == ".svg" else code.png())
    if not code.whole:
        say(f"{path} names the receipt: it is too long for a QR code")


def verifier_key(text: str, option: str) -> Verifier:
    """Return the verifier key that an option names; raise `Trouble`."""
    from ledger.transparency.notes import Verifier
    from ledger.transparency.texts import Malformed

    try:
        return Verifier.parse(text.strip())
    except Malformed as malformed:
        raise Trouble(f"{option}: {malformed}") from None


def _policy(path: Path) -> PolicyFile:
    from ledger.transparency.policies import parse_policy
    from ledger.transparency.texts import Malformed

    try:
        return parse_policy(path.read_bytes())
    except (Malformed, OSError) as wrong:
        raise Trouble(f"--policy: {wrong}") from None


def _told_of_event(
    data: bytes,
    log: tuple[Verifier, ...],
    witnesses: tuple[Verifier, ...],
    statements: tuple[Verifier, ...],
    *,
    quorum: int | None,
    policy: PolicyFile | None,
) -> dict[str, Any]:
    from ledger.transparency.checkpoints import Checkpoint
    from ledger.transparency.policies import PolicyFile
    from ledger.transparency.proofs import parse_proof
    from ledger.transparency.receipts import verify_receipt

    if policy is None and not log:
        raise Trouble("--log-key: a receipt is judged by the key of its log")
    needed = len(witnesses) if quorum is None else quorum
    known = policy or PolicyFile(log, witnesses, needed)
    origin = Checkpoint.parse(parse_proof(data).checkpoint.text).origin
    return _told(verify_receipt(data, known.of_log(origin, statements)))


def _told_of_statement(data: bytes, keys: tuple[Verifier, ...]) -> dict[str, Any]:
    from ledger.transparency.notes import parse_note
    from ledger.transparency.statements import Statement, verify_statement

    note = parse_note(data)
    Statement.parse(note.text)
    if not keys:
        raise Trouble("--statement-key: a signed statement is judged by the key of statements")
    told = verify_statement(note, keys)
    return {"statement": told.title, **told.lines}


def _told(found: Verified) -> dict[str, Any]:
    leaf = found.leaf
    told = {
        "book": leaf.book,
        "position": leaf.position,
        "stream": str(leaf.stream),
        "version": leaf.version,
        "topic": leaf.topic,
        "state": _readable(leaf),
        "head": found.checkpoint.size,
        "cosigned by": ", ".join(one.name for one in found.cosignatures) or "nobody",
    }
    if found.withheld:
        told["withheld"] = ", ".join(found.withheld)
    return told


def _readable(leaf: Leaf) -> str:
    """The state as it is stored; of one that is too long for an entry, its hash."""
    from ledger.transparency.leaves import DIGEST

    if leaf.form == DIGEST:
        return f"SHA-256 {leaf.state.hex()}"
    return leaf.state.decode("utf-8", "replace")
