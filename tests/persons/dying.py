"""An eraser in a process of its own that kills itself: `python -m tests.persons.dying …`.

It dies by SIGKILL right after its n-th step, with whatever it had on disk by then. It has a writer
for each of the books that are named.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from api.vault.eraser import Eraser
from api.vault.keyring import Keyring
from api.vault.vault import Vault
from campaigns.accounting import check_postings
from campaigns.event_types import MAPPER
from ledger.commit import GroupCommit
from ledger.datastore import Datastore


def main(url: str, folder: str, key: str, fatal: str, *books: str) -> None:
    """Erase who is due, as long as it lives."""
    taken = 0

    def die(_step: str) -> None:
        nonlocal taken
        taken += 1
        if taken == int(fatal):
            os.kill(os.getpid(), signal.SIGKILL)

    datastore = Datastore(url)
    writers = [GroupCommit(datastore, one, MAPPER, check=check_postings).start() for one in books]
    vault = Vault(Keyring(Path(folder)), bytes.fromhex(key), "vault")
    Eraser(datastore, writers, vault, after_s=0, on_step=die).sweep()
    for writer in writers:
        writer.close()
    datastore.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
