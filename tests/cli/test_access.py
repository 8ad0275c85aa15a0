"""`tidebook token`, `tidebook suspend` and `tidebook settings`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from api.callers import Pseudonyms
from api.cli import main
from api.issuers import DEV_ISSUER, DevelopmentIssuer
from api.sessions import Revocations
from api.settings import Settings, reference
from api.tokens import TokenRules, Tokens
from ledger.datastore import Datastore
from tests.cli.conftest import Tidebook


@pytest.mark.parametrize("role", ["tourist", "merchant", "operator", "auditor"])
@pytest.mark.usefixtures("home")
def test_a_token_is_good_for_the_homes_own_service(
    role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output is the token alone, and the service knows its bearer."""
    named = ["--merchant", "tea-house"] if role == "merchant" else []
    assert main(["token", "--role", role, "--identity", "alice", *named]) == 0
    token = capsys.readouterr().out
    assert token == token.strip() + "\n"
    caller = asyncio.run(_tokens().caller(f"Bearer {token.strip()}".encode()))
    assert caller.role == role
    assert caller.merchant == ("tea-house" if role == "merchant" else None)
    assert caller.person == Pseudonyms(Settings().pseudonym_secret()).of("alice")


def _tokens() -> Tokens:
    settings = Settings()
    issuer = DevelopmentIssuer(settings.issuer_secret(), settings.oidc_audience, time.time)
    rules = TokenRules(DEV_ISSUER, settings.oidc_audience)
    return Tokens(rules, issuer, Pseudonyms(settings.pseudonym_secret()), time.time)


@pytest.mark.usefixtures("home")
def test_no_token_where_another_issuer_makes_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OIDC set up, a token of the home's key would only be refused."""
    monkeypatch.setenv("TIDEBOOK_OIDC_ISSUER", "https://sign-in.example")
    assert main(["token", "--role", "tourist", "--identity", "alice"]) == 2
    assert "TIDEBOOK_OIDC_ISSUER: " in capsys.readouterr().err


def test_settings_lists_every_setting(
    tidebook: Tidebook, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variable, value, default and help; secrets are only shown as set."""
    monkeypatch.setenv("TIDEBOOK_PORT", "9000")
    monkeypatch.setenv("TIDEBOOK_PSEUDONYM_KEY", "5e" * 32)
    said = tidebook("settings", "--json")
    rows = {row["variable"]: row for row in said.document}
    assert list(rows) == [setting.variable for setting in reference()]
    assert all(row["help"] for row in rows.values())
    assert (rows["TIDEBOOK_PORT"]["value"], rows["TIDEBOOK_PORT"]["default"]) == ("9000", "8080")
    assert rows["TIDEBOOK_HOME"]["value"] == str(home)
    assert rows["TIDEBOOK_DATABASE_URL"]["value"] == "(set)"
    assert rows["TIDEBOOK_REDIS_URL"]["value"] == ""
    assert "5e5e" not in said.out + tidebook("settings").out
    assert "Default: 8080." in " ".join(tidebook("settings").out.split())


def scopes(database_url: str) -> set[str]:
    """What is suspended."""
    store = Datastore(database_url)
    revocations = Revocations()
    try:
        with store.transaction() as cursor:
            revocations.read(cursor)
    finally:
        store.close()
    return set(revocations.scopes)


def test_a_suspension_is_made_and_lifted(tidebook: Tidebook, database_url: str) -> None:
    """A merchant or a person, twice without harm, and taken back once."""
    person = "6664a42048c6d6d7fe3657e39b14155c"
    for who in (("--merchant", "tea-house"), ("--person", person), ("--merchant", "tea-house")):
        assert tidebook("suspend", *who).status == 0
    assert scopes(database_url) == {"merchant:tea-house", f"tourist:{person}"}
    assert tidebook("suspend", "--merchant", "tea-house", "--lift").status == 0
    assert scopes(database_url) == {f"tourist:{person}"}
    again = tidebook("suspend", "--merchant", "tea-house", "--lift")
    assert again.status == 2
    assert "was not suspended" in again.err


@pytest.mark.parametrize(
    "who",
    [
        (),
        ("--merchant", "a", "--person", "6664a42048c6d6d7fe3657e39b14155c"),
        ("--merchant", "../shop"),
        ("--person", "alice"),
    ],
)
def test_a_suspension_names_somebody(tidebook: Tidebook, who: tuple[str, ...]) -> None:
    """One merchant or one pseudonym; anything else suspends nobody."""
    said = tidebook("suspend", *who)
    assert said.status == 2
    assert "--merchant" in said.err or "--person" in said.err
