"""Which store a command works on: settings, the database behind them, the books in it.

A home whose PostgreSQL runs is joined; one whose PostgreSQL does not run is started for as long
as the command lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.settings import Settings
    from ledger.datastore import Datastore

READY_S = 30.0
"""How long a server that another process has just started may take to answer."""


def load_settings(home: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings from the environment and the options given; raise `Trouble`."""
    from pydantic import ValidationError

    from api.settings import PREFIX, Settings

    given = {name: value for name, value in overrides.items() if value is not None}
    if home is not None:
        given["home"] = home
    try:
        return Settings(**given)
    except ValidationError as error:
        rules = []
        for each in error.errors(include_url=False):
            name = str(each["loc"][0])
            source = f"--{name.replace('_', '-')}" if name in given else PREFIX + name.upper()
            rules.append(f"{source}: {each['msg'].removeprefix('Value error, ')}")
        raise Trouble("; ".join(rules)) from None


@contextmanager
def database(settings: Settings, *, create: bool = False) -> Iterator[str]:
    """Lend the URL of the database that the settings name, or of the home's own PostgreSQL.

    A home that has none is only given one when the command may `create` it.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    from api.embedded import EmbeddedPostgres, HomeInUse
    from ledger.datastore import wait_until_ready

    server = EmbeddedPostgres(settings.home)
    if not create and not server.data.exists():
        raise Trouble(
            f"TIDEBOOK_HOME: there is no ledger in {settings.home}; `tidebook run` begins one, and"
            " --home or TIDEBOOK_DATABASE_URL name another"
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(server)
        except HomeInUse:
            wait_until_ready(server.url, READY_S)
        yield server.url


@contextmanager
def store(settings: Settings) -> Iterator[Datastore]:
    """Lend a pool of connections to the settings' database, in the application's role."""
    from ledger.datastore import Datastore

    with database(settings) as url:
        datastore = Datastore(url)
        try:
            yield datastore
        finally:
            datastore.close()


def books_in(datastore: Datastore) -> list[str]:
    """Return every book that the store has, by name."""
    with datastore.transaction() as cursor:
        cursor.execute("SELECT book FROM book_head ORDER BY book")
        return [book for (book,) in cursor.fetchall()]


def chosen_books(datastore: Datastore, wanted: Sequence[str] | None) -> list[str]:
    """Return the books that `--book` names, or all; raise `Trouble` for one that is not there."""
    known = books_in(datastore)
    for book in wanted or ():
        if book not in known:
            there = ", ".join(known) or "no book yet"
            raise Trouble(f"--book: there is no book {book!r}; the store has {there}")
    return list(dict.fromkeys(wanted)) if wanted else known
