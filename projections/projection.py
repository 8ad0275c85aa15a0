"""What a read model is made of: what it reads of the events, its tables, how a batch becomes rows.

A read model lives in a PostgreSQL schema of its own, `rm_<name>`, beside the position that its
rows stand for. All its SQL names tables without a schema: the schema is chosen per transaction,
so that a rebuild runs the same statements on fresh tables. Nothing here decides.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Protocol

import msgspec
from psycopg2 import sql

from ledger.datastore import APP_ROLE


class View(msgspec.Struct, gc=False, kw_only=True):
    """What a read model reads of one type of event, by the names of the event's own fields.

    Ids and instants stay text, as they are in the stored bytes, because they go on to the
    database as text. The reader fills in the place: position, stream and version.
    """

    position: int = 0
    stream: str = ""
    version: int = 0


Reads = Mapping[str, type[View] | None]
"""Topic → what is read of it, or None when the read model knows it and does not need it."""

Batch = Sequence[View]
"""Events of one book in order of position."""


class RowMissing(Exception):
    """An event changes a row that no earlier event made: the store and the fold disagree."""


NEXT: Final = "_next"
OLD: Final = "_old"
CHECK: Final = "_check"


class Loader(Protocol):
    """Fills fresh tables: batches are poured into staging first and then settled into rows."""

    def load(self, curs: Any, book: str, batch: Batch) -> None: ...

    def settle(self, curs: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Projection:
    """A read model: what it reads, its SQL, and how a batch becomes rows.

    `apply_rows` writes a batch to tables in use; a `loader` fills fresh ones for a rebuild.
    """

    name: str
    reads: Reads
    statements: Mapping[str, str]
    apply_rows: Callable[[Any, str, Batch], None]
    loader: Callable[[], Loader]

    @property
    def schema(self) -> str:
        """Where the live rows are."""
        return f"rm_{self.name}"

    @property
    def ddl(self) -> str:
        """The SQL that makes the tables and their indexes."""
        return "\n".join([_COMMON, self.statements["tables"], self.statements.get("indexes", "")])

    @property
    def shape(self) -> str:
        """A short hash of the tables' SQL; rows of another shape must be rebuilt."""
        return hashlib.sha256(self.ddl.encode()).hexdigest()[:16]

    def apply(self, curs: Any, schema: str, book: str, batch: Batch) -> None:
        """Write what a batch changes to the tables in `schema`; the caller moves the tracking."""
        use_schema(curs, schema)
        self.apply_rows(curs, book, batch)

    def create(self, curs: Any, schema: str) -> None:
        """Make the schema with empty tables, ready for use."""
        self._create_schema(curs, schema)
        curs.execute(self.ddl)
        self._stamp(curs)

    def create_for_load(self, curs: Any, schema: str) -> None:
        """Make the schema with empty tables that a rebuild can pour rows into."""
        self._create_schema(curs, schema)
        curs.execute(_COMMON)
        curs.execute(self.statements["tables"])
        if "staging" in self.statements:
            curs.execute(self.statements["staging"])

    def finish_load(self, curs: Any) -> None:
        """Make settled tables ready for use: indexes and statistics. The schema is in use."""
        for name in ("drop_staging", "indexes"):
            if name in self.statements:
                curs.execute(self.statements[name])
        self._stamp(curs)
        curs.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        for (table,) in curs.fetchall():
            curs.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))

    def _create_schema(self, curs: Any, schema: str) -> None:
        # Whoever rebuilds, runners must be able to write the rows afterwards.
        curs.execute(
            sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(
                sql.Identifier(schema), sql.Identifier(APP_ROLE)
            )
        )
        curs.execute("SELECT set_config('role', %s, true)", (APP_ROLE,))
        use_schema(curs, schema)

    def _stamp(self, curs: Any) -> None:
        curs.execute("INSERT INTO shape (checksum) VALUES (%s)", (self.shape,))


_COMMON: Final = """
CREATE TABLE tracking (book text NOT NULL PRIMARY KEY, position bigint NOT NULL)
    WITH (fillfactor = 10);
CREATE TABLE shape (checksum text NOT NULL);
"""


def use_schema(curs: Any, schema: str) -> None:
    """Let table names mean those of `schema` until the transaction ends."""
    curs.execute("SELECT set_config('search_path', %s, true)", (schema,))


def join_by_hash(curs: Any) -> None:
    """Join whole tables without statistics, until the transaction ends."""
    curs.execute("SET LOCAL enable_mergejoin = off; SET LOCAL enable_nestloop = off")


def tables_of(curs: Any, schema: str) -> list[str]:
    """Return the read model's own tables in `schema`, without its tracking and shape."""
    curs.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s"
        " AND tablename NOT IN ('tracking', 'shape') ORDER BY tablename",
        (schema,),
    )
    return [name for (name,) in curs.fetchall()]


def schema_exists(curs: Any, schema: str) -> bool:
    """Whether a schema is there."""
    curs.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,))
    return bool(curs.rowcount)


def live_shape(curs: Any, projection: Projection) -> str | None:
    """Return the shape of the live tables, None when there are none."""
    curs.execute("SELECT to_regclass(%s)", (f"{projection.schema}.shape",))
    if curs.fetchone()[0] is None:
        return None
    shape = sql.Identifier(projection.schema, "shape")
    curs.execute(sql.SQL("SELECT checksum FROM {}").format(shape))
    row = curs.fetchone()
    return row[0] if row else None


def drop_schema(curs: Any, schema: str) -> None:
    """Drop a schema and all in it, if it is there."""
    curs.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def read_statements(name: str) -> dict[str, str]:
    """Return the named SQL statements of `projections/sql/<name>.sql`."""
    text = (files("projections") / "sql" / f"{name}.sql").read_text()
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))
