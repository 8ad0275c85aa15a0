"""How the settings become a wallet operator, the names of wallets, and a dispatcher."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from api.settings import Settings
from api.wallets.adapter import HttpOperator
from api.wallets.desk import WriterDesk
from api.wallets.dispatcher import Backoff, Dispatcher
from campaigns.wallets.port import WalletNames
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from projections.lease import LEASE_TTL_S

CALLS_IN_A_ROW: Final = 4
"""Most waits for one instruction: connecting and asking, to open the wallet and to fill it."""


class NoOperator(Exception):
    """Neither the settings nor a sandbox operator of this home say whom to ask."""

    def __init__(self, home: Path) -> None:
        super().__init__(
            f"TIDEBOOK_WALLET_OPERATOR_URL: it is not set, and no sandbox operator runs on {home}"
        )


def sandbox_folder(home: Path) -> Path:
    """Return where the sandbox operator of a home keeps its store."""
    return home / "sandbox-operator"


def sandbox_address(home: Path) -> Path:
    """Return the file that says where the sandbox operator of a home listens, while it runs."""
    return sandbox_folder(home) / "address"


def operator_url(settings: Settings) -> str:
    """Return the operator's URL: as it is set, else the home's sandbox. Raises `NoOperator`."""
    if settings.wallet_operator_url is not None:
        return settings.wallet_operator_url
    try:
        return sandbox_address(settings.home).read_text()
    except OSError:
        raise NoOperator(settings.home) from None


def operator_of(settings: Settings) -> HttpOperator:
    """Return the operator that the settings name. Raises `NoOperator`."""
    return HttpOperator(
        settings.wallet_operator,
        operator_url(settings),
        settings.wallet_operator_secret(),
        timeout_s=settings.wallet_timeout_s,
        connections=settings.wallet_connections,
    )


def names_of(settings: Settings) -> WalletNames:
    """Return the names of wallets at that operator."""
    return WalletNames(settings.wallet_secret(), settings.wallet_operator)


def dispatcher_of(
    settings: Settings,
    datastore: Datastore,
    writer: GroupCommit,
    instant: Callable[[], datetime | None] = lambda: None,
) -> Dispatcher:
    """Return this process's dispatcher of a writer's book."""
    return Dispatcher(
        datastore,
        writer.book,
        operator_of(settings),
        names_of(settings),
        WriterDesk(writer, instant),
        f"{socket.gethostname()}-{os.getpid()}",
        backoff=Backoff(
            settings.wallet_retry_s,
            max(settings.wallet_retry_s, settings.wallet_retry_max_s),
            random.SystemRandom().random,
        ),
        lease_ttl_s=LEASE_TTL_S + CALLS_IN_A_ROW * settings.wallet_timeout_s,
    )
