"""Writing rows set-wise: many new rows by one COPY, many changed rows by one statement.

Rows are msgspec structs whose fields are the columns. They become text in one call of C code;
no loop over values happens in Python.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import astuple
from psycopg2 import sql

from projections.projection import RowMissing

_ENCODER: Final = msgspec.json.Encoder()
_COPY: Final = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, NULL 'null')")
_COPY_CHUNK: Final = 1 << 20
_JSON_ESCAPE: Final = re.compile(rb'\\(?:u00([0-9a-f]{2})|(["\\/bfnrt]))')
_ESCAPED: Final = {
    b'"': b'""', b"\\": b"\\", b"/": b"/",
    b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
}  # fmt: skip


def copy_structs(curs: Any, table: str, rows: Sequence[msgspec.Struct]) -> None:
    """Insert rows of one struct class, whose fields are columns of `table`, by one COPY."""
    if rows:
        copy_rows(curs, table, rows[0].__struct_fields__, map(astuple, rows))


def copy_rows(
    curs: Any, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert rows by one COPY."""
    data = _csv(rows)
    if not data:
        return
    statement = _COPY.format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    curs.copy_expert(statement.as_string(curs), io.BytesIO(data), size=_COPY_CHUNK)


def change_rows(
    curs: Any, statement: str, book: str, rows: Sequence[msgspec.Struct], *, every: bool = True
) -> None:
    """Run a named statement that takes `book` and `rows` (a JSON array of objects).

    Raises `RowMissing` when it did not touch a row for each, unless not `every` one must.
    """
    if not rows:
        return
    curs.execute(statement, {"book": book, "rows": _ENCODER.encode(rows).decode()})
    if every and curs.rowcount != len(rows):
        raise RowMissing(
            f"{len(rows)} rows of book {book} were to change and {curs.rowcount} were there"
        )


def _csv(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """Return rows as CSV. A line of JSON arrays is CSV already, but for its escapes."""
    lines = _ENCODER.encode_lines(rows)[1:-2].replace(b"]\n[", b"\n")
    if b"\\" in lines:
        lines = _JSON_ESCAPE.sub(_unescape, lines)
    return lines


def _unescape(match: re.Match[bytes]) -> bytes:
    code, char = match.groups()
    return _ESCAPED[char] if code is None else bytes.fromhex(code.decode())
