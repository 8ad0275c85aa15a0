"""The reference: pages that are written from the code that they describe, never by hand.

`make reference` writes them to `docs/reference/`; a test fails when what is committed there is
not what the code says today.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from api.reference import commands, errors, events, findings, http, metrics, settings

PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands.page,
    "errors.md": errors.page,
    "events.md": events.page,
    "findings.md": findings.page,
    "http.md": http.page,
    "metrics.md": metrics.page,
    "settings.md": settings.page,
}
"""File name → what writes it."""


def write(folder: Path) -> list[Path]:
    """Write every page into `folder`; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, page in PAGES.items():
        path = folder / name
        path.write_text(page())
        written.append(path)
    return written
