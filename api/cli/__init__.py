"""The command `tidebook`: every process that Tidebook starts and every tool around the book.

Modules here are loaded at every start, so what is heavy is imported where it is used. Whatever
goes wrong ends in one line that names what to change, and in exit status 2; what a command found
is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer

from api.cli import (
    access,
    bookkeeping,
    daily,
    deciding,
    drawing,
    erasing,
    exporting,
    fairness,
    luohu,
    migrating,
    projecting,
    receipts,
    replaying,
    restating,
    running,
    sweeping,
    verifying,
    wallets,
    witnessing,
)
from api.cli.trouble import FAILED, explain, say

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="tidebook",
    help="An event-sourced ledger for coupons.\n\n"
    "`tidebook run` brings the whole system up; `tidebook COMMAND --help` has examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

for panel, commands in (
    ("Run", (running.run, running.demo, luohu.luohu)),
    (
        "Prove",
        (
            replaying.replay,
            bookkeeping.trial_balance,
            bookkeeping.statement,
            bookkeeping.journal,
            deciding.reexecute,
            deciding.what_if,
            restating.restate,
            verifying.verify,
            exporting.export,
            receipts.receipt,
            receipts.check_receipt,
            daily.daily_proof,
            drawing.bundle,
            wallets.reconcile,
            fairness.fairness,
            erasing.erasure,
        ),
    ),
    (
        "Single processes",
        (
            running.serve,
            running.reload,
            projecting.project,
            sweeping.sweep,
            sweeping.draw,
            drawing.beacon,
            witnessing.log,
            witnessing.witness,
            wallets.dispatch,
            wallets.sandbox,
        ),
    ),
    ("Around it", (migrating.migrate, access.token, access.suspend, access.settings)),
):
    for command in commands:
        app.command(rich_help_panel=panel)(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = app(args=arguments, standalone_mode=False, prog_name="tidebook")
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.TyperException as error:
        say(error.format_message())
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last place where it can be put into words
        say(explain(error))
        return FAILED
    return status if isinstance(status, int) else 0
