"""One run of the demo: read the year, play it, read the ledger, compare, verify."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.demo.client import Client, Unanswered
from api.demo.expectations import expected
from api.demo.faces import faces
from api.demo.holdings import chosen_households, holdings
from api.demo.ledger_side import LedgerReader, StrangeLedger
from api.demo.orders import orders
from api.demo.pace import Pace
from api.demo.plan import Moment, count_steps, plan
from api.demo.player import Player, UnexpectedAnswer
from api.demo.reconciliation import Books, reconcile
from api.demo.report import Outcome, document, reconciliation_report, replay_report
from api.demo.requests import AUDITS
from api.demo.server import HOST, DemoService, NotStarted
from api.demo.year import load

if TYPE_CHECKING:
    from api.demo import DemoOptions

FAILED: Final = 1
NOT_RUN: Final = 2
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Script:
    """What will be played, and what must come out."""

    households: int
    moments: list[Moment]
    expected: Books


def prepare(households: int | None) -> Script:
    """Read the year and plan it, for some households or for all."""
    whole = load()
    worth = faces(whole)  # of the whole year, so that a sample has the same coupons
    year = whole
    if households is not None:
        year = whole.of_households(set(chosen_households(whole, households)))
    held, ordered = holdings(year), orders(year)
    return Script(
        households=int(held["household"].nunique()),
        moments=plan(year, worth, held, ordered),
        expected=expected(worth, held, ordered),
    )


def run(options: DemoOptions) -> int:
    """Run the demo and return the exit status."""
    alone = options.json and not sys.stderr.isatty()
    console = Console(stderr=options.json, quiet=alone, highlight=False)
    errors = Console(stderr=True, style="red", markup=False, highlight=False, soft_wrap=True)
    try:
        return _run(options, console)
    except (Unanswered, UnexpectedAnswer, StrangeLedger) as error:
        errors.print(f"The demo stopped: {error}")
        return FAILED
    except (NotStarted, OSError) as error:
        errors.print(f"The demo cannot be run: {error}")
        return NOT_RUN
    except KeyboardInterrupt:
        errors.print("Interrupted. The next run goes on where this one was.")
        return INTERRUPTED


def _run(options: DemoOptions, console: Console) -> int:
    with console.status("Reading the year"):
        script = prepare(options.households)
    console.print(_plan_line(script))
    service = DemoService(options.demo_home)
    with ExitStack() as running:
        with console.status(f"Starting the service in {service.home}"):
            running.enter_context(service)
        outcome = asyncio.run(_replay(script, service, options.connections, console))
        console.print(reconciliation_report(outcome), replay_report(outcome))
        console.print("\ntidebook verify", style="bold")
        outcome = replace(outcome, verification=service.verify(as_json=options.json))
        with console.status("Stopping the service"):
            running.close()
    if options.json:
        print(json.dumps(document(outcome), indent=2))
    return outcome.exit_status


async def _replay(
    script: Script, service: DemoService, connections: int, console: Console
) -> Outcome:
    """Play the script and read what the ledger made of it."""
    started = time.monotonic()
    async with Client(HOST, service.port, connections=connections) as client:
        player = Player(client)
        with console.status("Signing everybody in"):
            await player.sign_in(script.moments)
        reader = LedgerReader(client, player.tokens[AUDITS])
        head_before = await reader.head()
        await _play(script.moments, player, service, console)
        with console.status("Reading the ledger's figures"):
            head_after = await reader.head()
            ledger = await _ledger_books(player, reader, head_after)
    played = player.played
    return Outcome(
        households=script.households,
        requests=played.requests,
        replayed=played.replayed,
        unheard=played.unheard,
        head_before=head_before,
        head_after=head_after,
        seconds=time.monotonic() - started,
        rows=reconcile(script.expected, ledger),
    )


async def _play(
    moments: list[Moment], player: Player, service: DemoService, console: Console
) -> None:
    counts = count_steps(moments)
    pace = Pace(counts)
    with _progress(console) as bar:
        task = bar.add_task("", total=sum(counts.values()), day="", left="")
        for moment in moments:
            bar.update(task, day=f"{moment.at:%d %b %Y}", description=moment.kind)
            started = time.perf_counter()
            if moment.kind == "close":
                await asyncio.to_thread(service.expire, moment.at)
            await player.play(moment)
            pace.record(moment.kind, len(moment.steps), time.perf_counter() - started)
            bar.update(task, advance=len(moment.steps), left=_left(pace.left_s()))


async def _ledger_books(player: Player, reader: LedgerReader, position: int) -> Books:
    tills = {
        int(person.merchant.removeprefix("store-")): token
        for person, token in player.tokens.items()
        if person.merchant is not None
    }
    return Books(
        offers=await reader.offers(position, player.played.refused),
        stores=await reader.stores(position, tills),
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[day]}  {task.description:<7}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )


def _left(seconds: float | None) -> str:
    if not seconds:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes}:{rest:02} left"


def _plan_line(script: Script) -> str:
    counts = count_steps(script.moments)
    first, last = script.moments[0].at, script.moments[-1].at
    return (
        f"{script.households:,} households, {counts['draft']:,} campaigns, "
        f"{counts['claim']:,} coupons, {counts.get('redeem', 0):,} redemptions: "
        f"{sum(counts.values()):,} requests from {first:%d %B %Y} to {last:%d %B %Y}"
    )
