"""`tidebook luohu`: the replay of a real campaign of red packets that were drawn in public."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.luohu.report import Report

SCALE_MAX = 1_000


def luohu(
    scale: Annotated[
        int,
        typer.Option(
            min=1,
            max=SCALE_MAX,
            metavar="N",
            help="Divide every reported figure by N, rounding down; 1000 takes some seconds.",
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**31 - 1,
            metavar="N",
            help="Decides the keys, the beacon's value and who buys what.",
        ),
    ] = 1,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Replay Shenzhen Luohu, October 2020: 1,913,847 people register for 50,000 red packets.

    Registration, draw, claims, payments, expiry and return go through the real decisions, in a
    home of its own below yours; the bundle of the draw and the book are verified at the end. When
    it is interrupted, the next run goes on. Delete that home to begin anew. Exit status: **0**
    everything matches what was reported, **1** something differs, **2** could not run.

    Examples:
    * `tidebook luohu`
    * `tidebook luohu --scale 1000`
    * `tidebook luohu --scale 100 --seed 7 --json`
    """
    from api.embedded import EmbeddedError
    from api.luohu import LuohuOptions
    from api.luohu.campaign import Unexpected
    from api.luohu.run import replay
    from api.supervisor import StartFailed
    from ledger.commit import CommitError

    settings = stores.load_settings(home)
    options = LuohuOptions(home=settings.home, scale=scale, seed=seed)
    try:
        report = replay(options, output.progress)
    except (EmbeddedError, StartFailed, OSError) as error:
        raise Trouble(f"the replay cannot be run: {error}") from None
    except (Unexpected, CommitError) as error:
        raise Trouble(
            f"the replay stopped: {type(error).__name__}: {error}; the next run goes on, or delete"
            f" {options.own_home} to begin anew"
        ) from None
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    return report.exit_status


def _print(report: Report) -> None:
    from api.luohu.report import shown

    console = output.console()
    title = "Shenzhen Luohu, 12 to 18 October 2020"
    if report.scale > 1:
        title += f", a {report.scale:,}th of it"
    columns = ("", "reported", "in the book")
    table = output.table(title, *columns, "", numbers=columns[1:])
    for row in report.rows:
        pair = (shown(number, is_money=row.is_money) for number in (row.expected, row.found))
        table.add_row(row.name, *pair, "" if row.matches else "differs")
    console.print(table)
    console.print(f"{report.refunds:,} refunds gave payers back some of what they had added.")
    console.print(f"Announced before the beacon spoke: {report.announcement}")
    state = "verified by its own program" if report.bundle_verified else "REFUSED"
    console.print(f"Bundle of the draw: {report.bundle}, {state}")
    state = "nothing was found" if report.verified else "there are findings"
    console.print(f"tidebook verify: {state}, {report.position:,} events")
    steps = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in report.seconds.items())
    console.print(f"Time: {steps}")
    used = report.usage
    console.print(
        f"In all {used['wall_s']:,.1f} s, with {used['cpu_s']:,.1f} s of CPU time and"
        f" {used['peak_mib']:,.0f} MiB; PostgreSQL {used['postgres_cpu_s']:,.1f} s and"
        f" {used['postgres_peak_mib']:,.0f} MiB; load of the machine {used['load_5_min']}"
    )
    if not report.bundle_verified:
        console.print(report.bundle_said, style="red")
    if not report.verified:
        console.print(str(report.verification)[:2_000], style="red")
