"""`tidebook token` and `tidebook settings`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from api.callers import Pseudonyms
from api.cli import main
from api.issuers import DEV_ISSUER, DevelopmentIssuer
from api.settings import Settings, reference
from api.tokens import TokenRules, Tokens
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
