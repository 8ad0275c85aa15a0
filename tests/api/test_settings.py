"""Settings: one table of what can be chosen, and secrets that are made once."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.settings import Settings, kept_secret, reference


def test_every_setting_has_a_help_text_and_a_variable() -> None:
    """The reference table is complete."""
    for setting in reference():
        assert setting.variable == f"TIDEBOOK_{setting.name.upper()}"
        assert setting.help.endswith("."), setting.name


def test_settings_survive_the_way_to_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that reads the variables of `as_environment` has the same settings."""
    given = Settings(
        home=Path("/srv/tidebook"),
        database_url="postgresql://localhost/tidebook",
        redis_url="redis://localhost/1",
        books=("main", "hainan"),
        dev_issuer=True,
        rate_tourist_per_s=2.5,
        pseudonym_key="ab" * 32,
        admin_networks="127.0.0.0/8,::1/128",
    )
    for variable, value in given.as_environment().items():
        monkeypatch.setenv(variable, value)
    assert Settings() == given


def test_the_home_is_a_path_of_this_user() -> None:
    """The default home is expanded."""
    assert "~" not in str(Settings().home)


@pytest.mark.parametrize(
    "wrong",
    [
        {"books": ""},
        {"books": "main,main"},
        {"books": "Main"},
        {"port": 70_000},
        {"pseudonym_key": "ab"},
        {"oidc_jwks_url": "file:///etc/passwd"},
        {"clock": "sundial"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """A wrong value is found out when the settings are read."""
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_a_secret_never_shows_in_an_error() -> None:
    """A key that is refused is not repeated in the message."""
    with pytest.raises(ValidationError) as caught:
        Settings(pseudonym_key="c0ffee")
    assert "c0ffee" not in str(caught.value)


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    """However many processes ask first at the same time, all get the same secret."""
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda _: kept_secret(tmp_path, "x.key"), range(32)))
    assert len(made) == 1
    file = tmp_path / "keys" / "x.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [found.name for found in file.parent.iterdir()] == ["x.key"]
