"""`tidebook migrate`: bring a database's schema up to this version."""

from __future__ import annotations

from api.cli import output, stores
from api.cli.options import AsJson, Home


def migrate(home: Home = None, as_json: AsJson = False) -> int:
    """Bring the database's schema up to this version; a second run changes nothing.

    Connects as the database's owner. Projections whose tables are of an older shape are named:
    rebuild them with `tidebook project --rebuild`.

    Example: `tidebook migrate`
    """
    from projections import migrations

    with stores.database(stores.load_settings(home), create=True) as url:
        applied = migrate_all(url)
        outdated = migrations.outdated(url)
    if as_json:
        output.print_json({"applied": applied, "outdated": outdated})
        return 0
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")
    if outdated:
        print(f"to be rebuilt with `tidebook project --rebuild`: {', '.join(outdated)}")
    return 0


def migrate_all(url: str) -> list[str]:
    """Apply what is missing of every package's migrations; return the names."""
    from ledger import migrations as ledger
    from projections import migrations as projections

    return [
        *ledger.migrate(url),
        *projections.migrate(url),
        *ledger.migrate(url, "api"),
        *ledger.migrate(url, "api.wallets"),
    ]
