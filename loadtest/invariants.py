"""What must be true after every run, checked over HTTP by code that shares none with the service.

The events feed is folded here a second time (`loadtest/books.py`): positions dense, nothing issued
beyond stock or budget, nobody twice, every coupon spent at most once, money conserved, every figure
equal to its fold. What was answered during a run is held against that in `loadtest/testimony.py`.

    python -m loadtest.invariants --url http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from loadtest.books import Books, Finding, Verdict, fold
from loadtest.client import Caller, sign_in

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

__all__ = ["Books", "Finding", "Verdict", "check", "fold", "main", "report"]


def check(auditor: Caller, book: str, shelf: sqlite3.Connection | None = None) -> Books:
    """Read a whole book over HTTP and check it, figures of every campaign included.

    Nobody may write to the book meanwhile, or the figures are of a later position than the fold.
    """
    books = fold(auditor.events(book), shelf)
    for campaign in list(books.campaigns):
        address = f"/v1/campaigns/cmp_{book}_{campaign}/figures"
        seen = f"{book}:{books.position}"
        books.check_figures(campaign, auditor.get(address, min_position=seen))
    return books


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a running service; the exit status says whether everything held."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.invariants",
        description="Read a book over HTTP and check that nothing is over-issued, doubled or lost.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--book", default="main")
    parser.add_argument("--token", help="an auditor's token; default: from the development issuer")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    options = parser.parse_args(arguments)
    auditor = (
        Caller(options.url, options.token)
        if options.token
        else sign_in(options.url, "auditor", "loadtest auditor")
    )
    with auditor:
        books = check(auditor, options.book)
    report(books, as_json=options.json)
    return 1 if books.findings else 0


def report(books: Books, *, as_json: bool = False) -> None:
    """Print the findings, or that there are none."""
    if as_json:
        findings = [finding._asdict() for finding in books.findings]
        print(json.dumps({"position": books.position, "findings": findings}))
        return
    console = Console()
    for finding in books.findings[:20]:
        console.print(f"[red]✗[/red] {finding}", highlight=False)
    read = (
        f"{books.position:,} events, {len(books.campaigns)} campaigns, "
        f"{books.coupon_count:,} coupons"
    )
    verdict = f"{len(books.findings)} findings" if books.findings else "every invariant holds"
    console.print(f"{read}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
