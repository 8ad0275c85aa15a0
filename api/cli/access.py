"""`tidebook token`, `suspend` and `settings`: who may call, and what can be set."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble

HIDDEN: Final = "(set)"


def token(
    role: Annotated[
        str, typer.Option(metavar="ROLE", help="tourist, merchant, operator or auditor.")
    ],
    identity: Annotated[
        str, typer.Option(help="The verified identity; it only ever leaves as a pseudonym.")
    ],
    merchant: Annotated[
        str | None, typer.Option(help="The merchant that a merchant's token acts for.")
    ] = None,
    home: Home = None,
) -> int:
    """Print a token of the development issuer of this home, valid for twelve hours.

    It is good for services that share the home's keys and have `TIDEBOOK_DEV_ISSUER` on, as
    `tidebook run` has. Real tokens come from your sign-in service.

    Examples:
    * `TOKEN=$(tidebook token --role tourist --identity alice)`
    * `tidebook token --role merchant --identity till-1 --merchant tea-house`
    """
    from api.callers import MERCHANT, ROLES
    from api.issuers import DevelopmentIssuer
    from api.tokens import IDENTITY_CHARS_MAX

    if role not in ROLES:
        raise Trouble(f"--role: one of {', '.join(ROLES)} is wanted, not {role[:40]!r}")
    if role == "merchant" and not (merchant and MERCHANT.fullmatch(merchant)):
        raise Trouble(
            "--merchant: a merchant's token names the merchant, 1 to 64 letters, digits, '.', '_'"
            " or '-'"
        )
    if role != "merchant" and merchant is not None:
        raise Trouble(f"--merchant: a token for the role {role} names no merchant")
    if not (identity.isprintable() and identity.strip() == identity and identity):
        raise Trouble("--identity: printable text without spaces around it is wanted")
    if len(identity) > IDENTITY_CHARS_MAX:
        raise Trouble(f"--identity: at most {IDENTITY_CHARS_MAX} characters")
    settings = stores.load_settings(home)
    if settings.oidc_issuer is not None:
        raise Trouble("TIDEBOOK_OIDC_ISSUER: with an issuer of your own, it makes the tokens")
    issuer = DevelopmentIssuer(settings.issuer_secret(), settings.oidc_audience, time.time)
    print(issuer.token(role, identity, merchant))
    return 0


def suspend(
    merchant: Annotated[
        str | None, typer.Option(help="The merchant whose calls are not taken any more.")
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(metavar="PSEUDONYM", help="The tourist, by the pseudonym in the events."),
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Take the suspension back.")] = False,
    home: Home = None,
) -> int:
    """Refuse every call of a merchant or a tourist, whatever token it carries, or allow them again.

    Every server hears of it within a minute, mostly within five seconds. Coupons, balances and
    calls that were answered before stay as they are.

    Examples:
    * `tidebook suspend --merchant tea-house`
    * `tidebook suspend --merchant tea-house --lift`
    """
    from api import sessions

    scope = _scope(merchant, person)
    with (
        stores.store(stores.load_settings(home)) as datastore,
        datastore.transaction() as cursor,
    ):
        if not lift:
            sessions.suspend(cursor, scope)
            print(f"suspended {scope}")
        elif sessions.lift(cursor, scope):
            print(f"{scope} may call again")
        else:
            raise Trouble(f"{scope} was not suspended")
    return 0


def _scope(merchant: str | None, person: str | None) -> str:
    from api.callers import MERCHANT, PERSON

    if (merchant is None) == (person is None):
        raise Trouble("--merchant or --person: name one of them")
    if merchant is not None:
        if not MERCHANT.fullmatch(merchant):
            raise Trouble("--merchant: 1 to 64 letters, digits, '.', '_' or '-' are wanted")
        return f"merchant:{merchant}"
    if not PERSON.fullmatch(person or ""):
        raise Trouble("--person: 32 hex digits in lower case are wanted")
    return f"tourist:{person}"


def settings(home: Home = None, as_json: AsJson = False) -> int:
    """List every setting: its variable, its value, its default and what it does.

    Settings are environment variables. Secrets are only shown as set.

    Examples:
    * `tidebook settings`
    * `TIDEBOOK_PORT=9000 tidebook settings --json`
    """
    from api.settings import reference

    current = stores.load_settings(home).as_environment()
    rows = [
        {
            "variable": one.variable,
            "value": _shown(one.name, current.get(one.variable, "")),
            "default": one.default,
            "help": one.help,
        }
        for one in reference()
    ]
    if as_json:
        output.print_json(rows)
        return 0
    _print(rows)
    return 0


def _shown(name: str, value: str) -> str:
    secret = name in {"database_url", "redis_url"} or name.endswith("_key")
    return HIDDEN if secret and value else value


def _print(rows: list[dict[str, Any]]) -> None:
    listed = output.table(None, "variable", "value", "what it does")
    for row in rows:
        changed = row["value"] != row["default"]
        default = f" Default: {row['default']}." if changed and row["default"] else ""
        listed.add_row(row["variable"], row["value"], row["help"] + default)
    output.console().print(listed)
