"""Makes what the read models need in the database: the leases, and a schema for each model.

A rebuild makes and renames schemas, so the application's role may create them.

A schema that is there is left alone, whatever its shape: bringing it up to date is a rebuild,
which keeps the old rows readable until the new ones are complete.
"""

from __future__ import annotations

from contextlib import closing

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
            # A database's own grants are not copied with it, so this is granted every time.
            database = sql.Identifier(connection.info.dbname)
            role = sql.Identifier(APP_ROLE)
            curs.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, role))
            curs.execute("SELECT set_config('role', %s, true)", (APP_ROLE,))
            curs.execute("LOCK TABLE rm_lease.lease IN SHARE ROW EXCLUSIVE MODE")
            for projection in PROJECTIONS:
                if not schema_exists(curs, projection.schema):
                    projection.create(curs, projection.schema)
                    done.append(projection.schema)
    return done


def outdated(url: str) -> list[str]:
    """Return the names of the read models whose tables are of another shape: rebuild them."""
    with (
        translated_errors(),
        closing(psycopg2.connect(url)) as connection,
        connection.cursor() as curs,
    ):
        curs.execute("SELECT set_config('role', %s, false)", (APP_ROLE,))
        return [one.name for one in PROJECTIONS if live_shape(curs, one) != one.shape]
