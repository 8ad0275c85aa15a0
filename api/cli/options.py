"""Options that several commands share, and how their values are read. Nothing is opened here."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from api.cli.trouble import Trouble

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Directory of the embedded servers' data and the keys.  [env: TIDEBOOK_HOME]",
        show_default=False,
    ),
]
Books = Annotated[
    list[str] | None,
    typer.Option(
        "--book",
        metavar="BOOK",
        help="Only this book; can be given again. Without it, every book.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

EXAMPLE_INSTANT: Final = "2026-05-01T20:00:00+08:00"
POSITION_MAX: Final = 2**63 - 1

_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_POSITION: Final = re.compile(r"\d{1,19}", re.ASCII)
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def parse_until(text: str, option: str = "--until") -> int | datetime:
    """Return the position or the instant (UTC) that an option names; raise `Trouble`."""
    if _POSITION.fullmatch(text) and int(text) <= POSITION_MAX:
        return int(text)
    if re.fullmatch(r"[+-]?\d+", text):
        raise Trouble(f"{option}: a position is a whole number from 0 on, not {text}")
    return parse_instant(text, option, "a position or ")


def parse_instant(text: str, option: str, other: str = "") -> datetime:
    """Return the instant that an RFC 3339 time with its offset names, in UTC; raise `Trouble`."""
    if not _INSTANT.fullmatch(text):
        raise Trouble(
            f"{option}: {other}a time with its offset is wanted, for example {EXAMPLE_INSTANT},"
            f" not {text[:40]!r}"
        )
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Trouble(f"{option}: there is no such time as {text[:40]!r} ({error})") from None


def parse_person(text: str, name: str = "--person") -> str:
    """Return a person's pseudonym; raise `Trouble` about the option or argument of this name."""
    if not _PSEUDONYM.fullmatch(text):
        way = "; with --identity Tidebook makes it from the verified identity"
        hint = way if name == "--person" else ""
        raise Trouble(f"{name}: a pseudonym has 32 lower-case hex digits{hint}")
    return text
