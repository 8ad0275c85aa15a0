"""`tidebook log` and `tidebook witness`: who signs the books' heads, and who cosigns them."""

from __future__ import annotations

import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli import output, stores
from api.cli.daily import makers
from api.cli.longwork import in_threads, running, this_process
from api.cli.options import AsJson, Books, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from pathlib import Path

    from api.settings import Settings
    from ledger.datastore import Datastore
    from ledger.transparency.cosigning import WitnessAt
    from ledger.transparency.follower import Follower, Progress
    from ledger.transparency.keys import KeyFile
    from ledger.transparency.notes import Signer

WITNESS_PORT: Final = 8099
NICENESS: Final = 10
"""How far the log stands back: it follows, and those who claim wait. Where both processors have
enough to do it gets a tenth of one, four times what it takes."""
_KEY_RANDOM_BYTES: Final = 64


def log(
    once: Annotated[
        bool, typer.Option("--once", help="Sign the books as they are now, and end.")
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Print the keys that sign, for those who verify.")
    ] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Let a new key sign as well, and end.")
    ] = False,
    retire_key: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Let the key of this id (8 hex digits) sign no more."),
    ] = None,
    statement_key: Annotated[
        bool,
        typer.Option(
            "--statement-key",
            help="Print the key of the operator's statements: refusals, daily proofs.",
        ),
    ] = False,
    book: Books = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Build the books' logs behind their writers and sign their heads, until stopped.

    Makes the books' daily proofs as well (see `tidebook daily-proof`). Any number may run; one at a
    time holds the log of a book. The keys are in `log/` in the home,
    made on the first start. A book that does not extend the last signed head is halted.

    Examples:
    * `tidebook log`
    * `tidebook log --once --json`
    * `tidebook log --keys`
    * `tidebook log --new-key --book main`
    """
    settings = stores.load_settings(home)
    if statement_key:
        return _tell_statement_keys(settings, book, as_json)
    if keys or new_key or retire_key is not None:
        return _change_keys(settings, book, as_json, new_key=new_key, retire=retire_key)
    if as_json and not once:
        raise Trouble("--json: only --once and --keys end with something to tell")
    from api.transparency import witness_client

    with stores.store(settings) as datastore, witness_client() as client:
        books = stores.chosen_books(datastore, book) if once else book or list(settings.books)
        followers = [_follower(settings, datastore, one, client) for one in books]
        if once:
            return _tell([(one.book, one.run_once()) for one in followers], as_json)
        proving = makers(settings, datastore, books)
        with running(settings) as stop:
            os.nice(NICENESS)
            interval_s = settings.log_interval_s
            in_threads(
                [
                    *(
                        (f"the log of {one.book}", lambda one=one: one.run(stop, interval_s))
                        for one in followers
                    ),
                    *(
                        (f"the daily proofs of {one.book}", lambda one=one: one.run(stop))
                        for one in proving
                    ),
                ],
                stop,
            )
    return 0


def witness(
    home: Home = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=1, max=65_535, help="Port to listen on.")
    ] = WITNESS_PORT,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the witness's key when it is made, for example witness.example/w1."
            " Without it a name is made that nobody else has.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        bool, typer.Option("--key", help="Print the key of the cosignatures, and end.")
    ] = False,
) -> int:
    """Cosign the heads of logs that extend what was cosigned before (C2SP tlog-witness).

    Knows the logs whose verifier keys are in `witness/logs` in the home, a line each; the file is
    read again when it changes. Best run by somebody else, on another machine.

    Examples:
    * `tidebook witness --home ./witness --name witness.example/w1 --key`
    * `tidebook witness --home ./witness --port 8099`
    """
    settings = stores.load_settings(home)
    signer = begin_witness(settings.home, name)
    if key:
        print(signer.verifier)
        return 0
    return _serve_witness(settings, signer, host, port)


def begin_witness(home: Path, name: str | None = None) -> Signer:
    """Return the key of a home's witness, made if there was none."""
    from ledger.transparency.notes import COSIGNATURE, Signer

    random = secrets.token_bytes(_KEY_RANDOM_BYTES)
    called = name or f"witness-{random[32:40].hex()}.invalid"
    return witness_key_file(home).make(Signer(called, COSIGNATURE, random[:32]))[0]


def introduce(home: Path, books: list[str]) -> None:
    """Let a home's own witness know the logs of the same home."""
    from api.transparency import memory_of
    from ledger.transparency.witnessing import LogsFile

    known = [one.verifier for book in books for one in memory_of(home, book).signers()]
    LogsFile(home / "witness" / "logs").write(known)


def begin_logs(settings: Settings) -> None:
    """Make the keys of the books' logs where there are none."""
    from api.transparency import begin_log

    for book in settings.books:
        random = secrets.token_bytes(_KEY_RANDOM_BYTES)
        begin_log(settings.home, book, settings.log_name, random)


def own_witness(settings: Settings, port: int) -> WitnessAt:
    """Return the witness of a home that has none elsewhere, introduced to its logs."""
    from ledger.transparency.cosigning import WitnessAt

    signer = begin_witness(settings.home)
    introduce(settings.home, list(settings.books))
    return WitnessAt(signer.verifier, f"http://127.0.0.1:{port}")


def witness_key_file(home: Path) -> KeyFile:
    from ledger.transparency.keys import KeyFile

    return KeyFile(home / "witness" / "witness.keys")


def _follower(settings: Settings, datastore: Datastore, book: str, client: object) -> Follower:
    from api.transparency import begin_log, reached
    from ledger.transparency.follower import Follower

    random = secrets.token_bytes(_KEY_RANDOM_BYTES)
    return Follower(
        datastore,
        book,
        this_process(),
        begin_log(settings.home, book, settings.log_name, random),
        witnesses=reached(settings.log_witnesses, client),  # type: ignore[arg-type]
        quorum=settings.log_quorum,
    )


def _tell(progress: list[tuple[str, Progress]], as_json: bool) -> int:
    if as_json:
        output.print_json([{"book": book, **one._asdict()} for book, one in progress])
        return 0
    for book, one in progress:
        served = "none" if one.published is None else f"{one.published:,}"
        print(f"{book}: {one.size:,} leaves, signed; the head that is served has {served}")
    return 0


def _change_keys(
    settings: Settings, books: list[str] | None, as_json: bool, *, new_key: bool, retire: str | None
) -> int:
    from api.transparency import memory_of
    from ledger.transparency.notes import ED25519, Signer

    begin_logs(settings)
    found = {}
    for book in books or list(settings.books):
        files = memory_of(settings.home, book).keys
        if new_key:
            name = files.signers()[0].verifier.name
            files.add(Signer(name, ED25519, secrets.token_bytes(32)))
        if retire is not None:
            files.retire(retire)
        found[book] = [str(one.verifier) for one in files.signers()]
    if (new_key or retire is not None) and (settings.home / "witness" / "logs").exists():
        introduce(settings.home, list(settings.books))
    if as_json:
        output.print_json(found)
        return 0
    for texts in found.values():
        print("\n".join(texts))
    return 0


def _tell_statement_keys(settings: Settings, books: list[str] | None, as_json: bool) -> int:
    from api.transparency import memory_of
    from ledger.transparency.statements import statement_signer

    begin_logs(settings)
    found = {
        book: str(
            statement_signer(
                memory_of(settings.home, book).signers()[0].verifier.name,
                settings.refusal_secret(),
            ).verifier
        )
        for book in books or list(settings.books)
    }
    if as_json:
        output.print_json(found)
    else:
        print("\n".join(found.values()))
    return 0


def _serve_witness(settings: Settings, signer: Signer, host: str, port: int) -> int:
    import uvicorn

    from api import logs
    from api.witness import WitnessApp
    from ledger.transparency.witnessing import LogsFile, Witness

    logs.configure(settings.log_level, sys.stdout)
    directory = settings.home / "witness"
    one = Witness(
        directory / "witness.db", signer, LogsFile(directory / "logs"), lambda: int(time.time())
    )
    try:
        uvicorn.run(
            WitnessApp(one),
            host=host,
            port=port,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
        )
    finally:
        one.close()
    return 0
