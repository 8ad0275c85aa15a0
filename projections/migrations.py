"""Makes what the read models need in the database: the leases, and a schema for each model.

A rebuild makes and renames schemas, so the application's role may create them.

A schema that is there is left alone, whatever its shape: bringing it up to date is a rebuild,
which keeps the old rows readable until the new ones are complete.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import sql

from ledger import migrations as numbered
from ledger.datastore import APP_ROLE, translated_errors
from projections.projection import live_shape, schema_exists
from projections.registry import PROJECTIONS


def migrate(url: str) -> list[str]:
    """Apply what is missing; return what was done. The ledger's migrations go first.

    `url` connects as the owner of the database; the schemas belong to the application's role.
    """
    with translated_errors():
        done = numbered.migrate(url, "projections")
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as curs:
            # Two processes that start together take turns.
            curs.execute("LOCK TABLE rm_lease.lease IN SHARE ROW EXCLUSIVE MODE")
            _let_role_create(curs, connection.info.dbname)
            curs.execute("SELECT set_config('role', %s, true)", (APP_ROLE,))
            for projection in PROJECTIONS:
                if not schema_exists(curs, projection.schema):
                    projection.create(curs, projection.schema)
                    done.append(projection.schema)
    return done


def _let_role_create(curs: Any, database: str) -> None:
    """A database's own grants are not copied with it, so this is looked at every time."""
    curs.execute("SELECT has_database_privilege(%s, %s, 'CREATE')", (APP_ROLE, database))
    if not curs.fetchone()[0]:
        curs.execute(
            sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                sql.Identifier(database), sql.Identifier(APP_ROLE)
            )
        )


def outdated(url: str) -> list[str]:
    """Return the names of the read models whose tables are of another shape: rebuild them."""
    with (
        translated_errors(),
        closing(psycopg2.connect(url)) as connection,
        connection.cursor() as curs,
    ):
        curs.execute("SELECT set_config('role', %s, false)", (APP_ROLE,))
        return [one.name for one in PROJECTIONS if live_shape(curs, one) != one.shape]
