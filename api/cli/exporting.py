"""`tidebook export`: the whole history of books as files that prove themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Books, Home

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.settings import Settings
    from ledger.datastore import Datastore
    from ledger.transparency.notes import Note


def export(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIRECTORY", help="Where to; a directory for each book is in it."),
    ],
    book: Books = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Write the history of books to files that `tidebook verify DIRECTORY` needs nothing else for.

    Events as Parquet, the log's checkpoints, the verifier keys and a manifest that the log's key
    signs. It ends at the head that is served. Called again, it goes on where it was stopped or adds
    what has come since; what was killed leaves nothing that is taken for whole.

    Examples:
    * `tidebook export audit`
    * `tidebook export audit --book main --json`
    """
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        books = stores.chosen_books(datastore, book)
        told = [_export(settings, datastore, one, directory / one) for one in books]
    if as_json:
        output.print_json(told)
        return 0
    table = output.table(
        None, "book", "events", "files", "bytes", "signed", numbers=("events", "files", "bytes")
    )
    for one in told:
        table.add_row(
            one["book"],
            f"{one['events']:,}",
            f"{one['files']:,}",
            f"{one['bytes']:,}",
            "yes" if one["signed"] else "no",
        )
    output.console().print(table)
    return 0


def _export(settings: Settings, datastore: Datastore, book: str, to: Path) -> dict[str, Any]:
    from campaigns.event_types import MAPPER
    from ledger.exporting.source import StoreSource
    from ledger.exporting.writing import write_export

    source = StoreSource(datastore, book, MAPPER)
    end = source.end(_witness_keys(settings))
    sign = _signing(settings, book)
    with output.progress(f"{book}: events", end.size) as advance:
        manifest = write_export(to, source, end, sign, advance)
    return {
        "book": book,
        "events": manifest.size,
        "files": len(manifest.files),
        "bytes": sum(one.bytes for one in manifest.files),
        "origin": manifest.origin,
        "signed": sign is not None,
    }


def _signing(settings: Settings, book: str) -> Callable[[str], Note] | None:
    """Return how a text is signed by the keys of a book's log, None where they are not."""
    from api.transparency import memory_of
    from ledger.transparency.notes import signed_note

    files = memory_of(settings.home, book)
    if not files.keys.exists():
        return None
    signers = files.signers()
    return lambda text: signed_note(text, signers)


def _witness_keys(settings: Settings) -> list[str]:
    """Return the keys of the witnesses that the settings name, and of one in the same home."""
    from api.cli.witnessing import witness_key_file

    named = [str(one.verifier) for one in settings.log_witnesses]
    own = witness_key_file(settings.home)
    here = [str(one.verifier) for one in own.signers()] if own.exists() else []
    return list(dict.fromkeys(named + here))
