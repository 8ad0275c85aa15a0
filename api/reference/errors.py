"""The page of errors: every code with its status and meaning, and which rule is named first."""

from __future__ import annotations

from api.errors import CONTENT_TYPE, TABLE, TYPE_BASE, Trouble
from api.reference.markdown import code, codes, document, table
from campaigns.refusals import PRECEDENCE

_INTRO = f"""\
Every error is `{CONTENT_TYPE}` (RFC 9457): `type` is
`{TYPE_BASE}<code>`, and `title`, `status`, `code` and `detail` are always there. Codes are stable;
programs should look at nothing else. The values that a rule looked at follow as further members,
and `errors` lists the fields of an invalid body or query as `field`, `rule` and `message`.

A 4xx surely had no effect. A 5xx, or no answer, leaves the outcome open: send the same call with
the same `Idempotency-Key` and it gives the answer."""

_FORM = """\
## Order of precedence

A call that breaks several rules is answered with the first one. The checks run in this order:
who calls, how often, the idempotency key, the role, the address, the body. What is left is decided
by the writer: first the key (a stored reply is given again), then the rules of the command, in the
order of its row here. A refusal writes no event."""


def page() -> str:
    """Return the page."""
    return document(
        "Errors",
        _INTRO,
        "## Codes",
        table(("code", "status", "title", "what it means", "rule of"), map(_row, TABLE)),
        _FORM,
        table(
            ("command", "refusals, the first that applies"),
            (
                (code(command), " → ".join(map(code, refusals)) or "none")
                for command, refusals in PRECEDENCE.items()
            ),
        ),
    )


def _row(row: Trouble) -> tuple[str, ...]:
    commands = [name for name, refusals in PRECEDENCE.items() if row.code in refusals]
    return (code(row.code), str(row.status), row.title, row.meaning, codes(commands))
