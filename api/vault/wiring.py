"""How the settings become a vault, and an identity a person outside a server."""

from __future__ import annotations

from typing import Any

from api.callers import Pseudonyms
from api.settings import Settings
from api.vault.keyring import Keyring
from api.vault.vault import Vault


def vault_of(settings: Settings) -> Vault:
    """Return the vault of a ledger; nothing is read or made yet."""
    return Vault(Keyring(settings.vault_folder), settings.pseudonym_secret(), settings.persons)


def person_of_identity(settings: Settings, cursor: Any, identity: str) -> str | None:
    """Return the person of an identity; None where nobody is known by it now."""
    keyed = Pseudonyms(settings.pseudonym_secret()).of(identity)
    return vault_of(settings).look_up(cursor, keyed)
