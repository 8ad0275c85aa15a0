"""`tidebook sandbox`, `dispatch` and `reconcile`: digital wallets and their operator."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.longwork import in_threads, running
from api.cli.options import AsJson, Books, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.settings import Settings
    from api.wallets.dispatcher import Dispatcher
    from ledger.datastore import Datastore
    from ledger.verification import Finding

LISTED: Final = 1_000
"""Differences that are told one by one; of more only the number is told."""


def sandbox(
    port: Annotated[
        int, typer.Option(min=0, max=65_535, metavar="PORT", help="Port; 0 picks a free one.")
    ] = 0,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not tell the address.")] = False,
    spoil: Annotated[
        str | None,
        typer.Option(
            metavar="FAULT",
            help="Instead of running: let the one that runs on this home go wrong, as"
            " fail_before, fail_after, cut_before, cut_after, delay, late, twice or nonsense.",
            show_default=False,
        ),
    ] = None,
    calls: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="With --spoil: how many calls.")
    ] = 1,
    seconds: Annotated[
        float, typer.Option(min=0, max=3_600, help="With --spoil: for delay and late.")
    ] = 10.0,
    wallet: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", help="With --spoil: only calls for this wallet.", show_default=False
        ),
    ] = None,
    home: Home = None,
) -> int:
    """Run the sandbox operator: a wallet operator with a store of its own, to try the ledger with.

    It takes and gives no real money. It listens until stopped, on the loopback address unless
    another is given, and only answers whoever has the shared key. `tidebook run` starts one where
    no operator is set.

    Examples:
    * `tidebook sandbox --port 8090`
    * `tidebook sandbox --spoil cut_after --calls 3`
    """
    settings = stores.load_settings(home)
    if spoil is not None:
        return _spoil(settings, spoil, calls, seconds, wallet)
    from api.sandbox.running import run
    from api.wallets.wiring import sandbox_address, sandbox_folder

    address = sandbox_address(settings.home)

    def on_up(found: int) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{found}"
        _write(address, url)
        if not quiet:
            print(f"The sandbox operator listens on {url}", flush=True)

    try:
        run(
            sandbox_folder(settings.home) / "store.sqlite",
            settings.wallet_operator_secret(),
            host,
            port,
            on_up,
        )
    finally:
        address.unlink(missing_ok=True)
    return 0


def dispatch(
    once: Annotated[
        bool, typer.Option("--once", help="Settle what can be settled now, and end.")
    ] = False,
    book: Books = None,
    home: Home = None,
) -> int:
    """Have the wallet operator move the money of packets, behind the books, until stopped.

    Any number of these may run: a lease lets one dispatch each book. An instruction whose outcome
    is unknown is asked for by its number. With `--once`: status **1** when something is left open.

    Examples:
    * `tidebook dispatch`
    * `tidebook dispatch --once --book main`
    """
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore, ExitStack() as stack:
        books = stores.chosen_books(datastore, book) if once else book or list(settings.books)
        dispatchers = [_dispatcher(stack, datastore, one, settings) for one in books]
        if once:
            return 1 if sum(_settle(datastore, one) for one in dispatchers) else 0
        with running(settings) as stop:
            work = [
                (f"the dispatcher of {one.book}", lambda one=one: one.run(stop))
                for one in dispatchers
            ]
            in_threads(work, stop)
    return 0


def reconcile(home: Home = None, as_json: AsJson = False) -> int:
    """Compare the wallet operator's statement with the journal of instructions and the ledger.

    Reads all books and the whole statement, and changes nothing. Work that is under way is no
    difference. Exit status: **0** all sides agree, **1** they differ, **2** could not run.

    Examples:
    * `tidebook reconcile`
    * `tidebook reconcile --json | jq .counts`
    """
    from api.wallets.reconciling import reconcile as compare
    from api.wallets.wiring import names_of
    from campaigns.wallets.port import OperatorError

    settings = stores.load_settings(home)
    operator = _operator(settings)
    with stores.store(settings) as datastore:
        books = stores.books_in(datastore)

        async def main(advance: Callable[[int], object]) -> Any:
            try:
                return await compare(datastore, books, operator, names_of(settings), advance)
            finally:
                await operator.hang_up()

        try:
            with output.progress("lines and events", None) as advance:
                found = asyncio.run(main(advance))
        except OperatorError as error:
            raise Trouble(f"operator {operator.name} gave no answer to believe: {error}") from None
    differences, counts = _listed(found.findings)
    if as_json:
        output.print_json(
            {
                "agree": not counts,
                "operator": operator.name,
                "positions": found.positions,
                "sums": found.sums,
                "findings": [one._asdict() for one in differences],
                "counts": counts,
            }
        )
    else:
        _show(operator.name, found.sums, differences, counts)
    return 1 if counts else 0


def _spoil(settings: Settings, fault: str, calls: int, seconds: float, wallet: str | None) -> int:
    import msgspec

    from api.sandbox.faults import FAULTS
    from campaigns.wallets.port import OperatorError

    if fault not in FAULTS:
        raise Trouble(f"--spoil: one of {', '.join(FAULTS)} is wanted, not {fault[:40]!r}")
    plan = {"fault": fault, "calls": calls, "seconds": seconds, "wallet": wallet}
    operator = _operator(settings)

    async def main() -> Any:
        try:
            return await operator.control("POST", "faults", msgspec.json.encode([plan]))
        finally:
            await operator.hang_up()

    try:
        planned = asyncio.run(main())
    except OperatorError as error:
        raise Trouble(f"the operator did not take it: {error}") from None
    print(f"{FAULTS[fault]}, {calls:,} times; {len(planned):,} faults are planned")
    return 0


def _operator(settings: Settings) -> Any:
    from api.wallets.wiring import NoOperator, operator_of

    try:
        return operator_of(settings)
    except NoOperator as error:
        raise Trouble(str(error)) from None


def _dispatcher(
    stack: ExitStack, datastore: Datastore, book: str, settings: Settings
) -> Dispatcher:
    from api.cli.sweeping import is_simulated, writer_of
    from api.wallets.wiring import NoOperator, dispatcher_of
    from campaigns.event_types import MAPPER
    from ledger.history import History

    writer = stack.enter_context(writer_of(datastore, book, settings))
    history = History(datastore, book, MAPPER)
    simulated = is_simulated(datastore, settings)

    def instant() -> datetime | None:
        return history.standing().at if simulated else None

    try:
        made = dispatcher_of(settings, datastore, writer, instant)
    except NoOperator as error:
        raise Trouble(str(error)) from None
    stack.callback(made.close)
    return made


def _settle(datastore: Datastore, dispatcher: Dispatcher) -> int:
    """Work until nothing can be done at this moment; return how many are left open."""
    from projections.lease import LeaseHeld

    try:
        with output.progress(f"{dispatcher.book}: dispatch", None) as advance:
            while done := dispatcher.run_once():
                advance(done)
    except LeaseHeld as held:
        raise Trouble(str(held)) from None
    with datastore.transaction() as cursor:
        standing = dispatcher.journal.standing(cursor)
    left = sum(standing.open.values())
    words = ", ".join(f"{count:,} {state}" for state, count in standing.open.items())
    print(f"{dispatcher.book}: {words or 'nothing open'}")
    return left


def _listed(findings: Any) -> tuple[list[Finding], Counter[str]]:
    counts: Counter[str] = Counter()
    listed: list[Finding] = []
    for one in findings:
        counts[one.code] += 1
        if len(listed) < LISTED:
            listed.append(one)
    return listed, counts


def _show(operator: str, sums: Any, differences: list[Finding], counts: Counter[str]) -> None:
    screen = output.console()
    sides = ("ledger", "journal, done", f"operator {operator}")
    table = output.table(None, "", *sides, numbers=sides)
    for title, count, money in (
        ("credits", "credits", "credited_minor"),
        ("debits", "debits", "debited_minor"),
        ("closings", "closings", "closed_minor"),
        ("balance", None, "balance_minor"),
    ):
        cells = [
            (f"{getattr(side, count):,} × " if count else "") + f"{getattr(side, money) / 100:,.2f}"
            for side in (sums.ledger, sums.journal, sums.operator)
        ]
        table.add_row(title, *cells)
    screen.print(table)
    screen.print(f"{sums.open:,} under way, {sums.refused:,} refused")
    if not counts:
        screen.print("All sides agree.", style="green")
        return
    found = output.table(None, "difference", "where", "expected", "found")
    for one in differences:
        found.add_row(*one)
    screen.print(found)
    screen.print(
        f"{counts.total():,} differences: "
        + ", ".join(f"{count:,} × {code}" for code, count in counts.items()),
        style="red",
    )


def _write(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, for its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft.write_text(text)
    draft.chmod(0o600)
    draft.replace(path)
