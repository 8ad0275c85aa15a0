"""A whole Tidebook of the load test's own: PostgreSQL, Valkey, server, projections and sweeper.

Everything is started by its command line in a directory of its own and ends with the run. The rate
limits are those that everybody gets; each visitor calls from an address of his own, as behind a
proxy. It must never touch a system that it did not start.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtest.servers import Child, Postgres, Valkey, answers, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION_S: Final = 3600
"""Sessions of our own system last for the longest run; a shorter life only adds sign-ins."""


class CommandFailed(Exception):
    """A `tidebook` command ended with a status other than 0."""


@dataclass(frozen=True)
class System:
    """A running system: its address and the root of each tree of processes."""

    url: str
    roots: Mapping[str, int]

    @classmethod
    @contextlib.contextmanager
    def started(cls, workers: int) -> Iterator[System]:
        """Start everything, and end it again."""
        with contextlib.ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidebook-load-")))
            home.chmod(0o755)  # PostgreSQL may run as another account
            postgres = stack.enter_context(Postgres(home / "postgres"))
            valkey = stack.enter_context(Valkey(home))
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            env = {
                "TIDEBOOK_HOME": str(home / "home"),
                "TIDEBOOK_DATABASE_URL": postgres.url,
                "TIDEBOOK_REDIS_URL": valkey.url,
                "TIDEBOOK_HOST": "127.0.0.1",
                "TIDEBOOK_PORT": str(port),
                "TIDEBOOK_WORKERS": str(workers),
                "TIDEBOOK_DEV_ISSUER": "1",
                "TIDEBOOK_TRUSTED_PROXIES": "1",
                "TIDEBOOK_SESSION_S": str(SESSION_S),
            }
            _command(env, "migrate")
            children = {"postgres": postgres, "valkey": valkey}
            for name, word in (
                ("server", "serve"),
                ("projections", "project"),
                ("sweeper", "sweep"),
            ):
                child = Child(
                    name,
                    [_tidebook(), word],
                    log=home / f"{word}.log",
                    ready=(lambda: answers(f"{url}/healthz")) if word == "serve" else _at_once,
                    env=env,
                )
                children[name] = stack.enter_context(child)
            yield cls(url, {name: child.pid for name, child in children.items()})


def _command(env: Mapping[str, str], word: str) -> None:
    done = subprocess.run(  # noqa: S603 - a command line of our own
        [_tidebook(), word],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"tidebook {word}: {done.stderr[-2000:]}")


def _tidebook() -> str:
    """The `tidebook` command that is installed beside this Python."""
    return str(Path(sys.executable).with_name("tidebook"))


def _at_once() -> bool:
    return True
