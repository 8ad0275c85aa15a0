"""Trouble: everything that keeps a command from running, in one line for a person."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final

FAILED: Final = 2
"""The exit status of a command that could not do its work."""

_DEBUG: Final = "TIDEBOOK_LOG_LEVEL"

_OURS: Final = ("api", "campaigns", "ledger", "projections")
"""Errors of these packages are written for people."""


class Trouble(Exception):
    """A command cannot run as asked; the message names the option and the rule."""


def explain(error: Exception) -> str:
    """Return one line about an error: what is wrong and, where it can be said, what to do."""
    if os.environ.get(_DEBUG, "").lower() == "debug":
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, Trouble):
        return str(error)
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    module = type(error).__module__
    if module.partition(".")[0] in _OURS:
        return text or type(error).__name__
    if module.startswith(("psycopg2", "eventsourcing")):
        return _of_database(error, text)
    if isinstance(error, OSError):
        return text
    return f"unexpected {type(error).__name__}: {text} ({_DEBUG}=debug shows where)"


def say(line: str) -> None:
    """Print a line of trouble to standard error."""
    sys.stderr.write(f"tidebook: {' '.join(line.split())}\n")


def _of_database(error: Exception, text: str) -> str:
    cause = error.__cause__ or error
    state = getattr(cause, "pgcode", None)
    if state in {"42P01", "3F000", "22023", "42704"}:  # no such table, schema, role
        return f"the database is not Tidebook's yet ({text}): run `tidebook migrate`"
    if state == "42501":  # permission denied
        return f"the database refuses ({text}): run `tidebook migrate` as its owner"
    return f"the database cannot be used: {text}"
