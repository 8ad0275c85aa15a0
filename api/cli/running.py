"""`tidebook run`, `serve` and `demo`: the whole system, its HTTP part alone, a year replayed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli import stores
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.settings import Settings
    from api.supervisor import Child

PROGRAM: Final = (sys.executable, "-P", "-m", "api.cli")

WITNESS_HOST: Final = "127.0.0.1"
HEALTH_TIMEOUT_S: Final = 1.0
SANDBOX_HOST: Final = "127.0.0.1"
SERVE_STOP_S: Final = 50.0
"""Longer than the server itself waits for its workers."""

Host = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Address to listen on.  [env: TIDEBOOK_HOST]"),
]
Port = Annotated[
    int | None,
    typer.Option(metavar="PORT", help="Port to listen on; 0 picks one.  [env: TIDEBOOK_PORT]"),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="HTTP server processes.  [env: TIDEBOOK_WORKERS]"),
]


def run(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    examples: Annotated[
        bool, typer.Option(help="Open example campaigns on the first start.")
    ] = True,
) -> int:
    """Bring the whole system up and keep it running until Ctrl-C, which leaves nothing behind.

    Starts PostgreSQL and Valkey under the home, unless `TIDEBOOK_DATABASE_URL` and
    `TIDEBOOK_REDIS_URL` name servers; migrates; then serves, projects, sweeps, signs the books'
    logs, with a witness of its own unless `TIDEBOOK_LOG_WITNESSES` names others, and dispatches to
    a sandbox operator of wallets unless `TIDEBOOK_WALLET_OPERATOR_URL` names one. Prints what to
    open. A second start on the same home goes on with what is there.

    Examples:
    * `tidebook run`
    * `tidebook run --port 9000 --home ./my-ledger`
    """
    given = stores.load_settings(home, host=host, port=port, workers=workers)
    with _servers(_with_issuer(given)) as settings:
        _prepare(settings)
        return _supervise(*_with_witness(settings), examples=examples)


def serve(home: Home = None, host: Host = None, port: Port = None, workers: Workers = None) -> int:
    """Serve HTTP only, on a database that `TIDEBOOK_DATABASE_URL` names.

    Examples:
    * `TIDEBOOK_DATABASE_URL=postgresql://… tidebook serve --workers 8`
    """
    from api.serve import serve as serve_http

    settings = stores.load_settings(home, host=host, port=port, workers=workers)
    if settings.database_url is None:
        raise Trouble("TIDEBOOK_DATABASE_URL: `serve` needs it; `tidebook run` brings its own")
    return serve_http(settings)


def reload(home: Home = None) -> int:
    """Replace the processes of a running HTTP server by new ones, without refusing a request.

    The new ones run what is installed now. Settings stay those that the server was started with.

    Examples:
    * `tidebook reload`
    """
    from api.rundir import servers

    settings = stores.load_settings(home)
    running = servers(settings.home)
    if not running:
        raise Trouble(f"--home: no server runs on {settings.home}")
    for pid in running:
        os.kill(pid, signal.SIGHUP)
        print(f"Told process {pid}, which logs `workers.replaced` when it is done")
    return 0


def demo(
    households: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Replay only so many households, not all 1,559."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few households only: some seconds.")
    ] = False,
    connections: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Most requests in flight.")
    ] = 64,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Replay a real year of a retailer's coupons through the HTTP API, reconcile and verify it.

    Runs a service of its own in a home below yours. A second run changes nothing: every request
    is a replay. Exit status: **0** everything matches, **1** something differs, **2** could not
    run.

    Examples:
    * `tidebook demo --quick`
    * `tidebook demo --json > demo.json`
    """
    from api.demo import QUICK_HOUSEHOLDS, DemoOptions, run_demo

    if quick and households is not None:
        raise Trouble("--quick: it chooses the households, so --households cannot be given")
    settings = stores.load_settings(home)
    return run_demo(
        DemoOptions(
            home=settings.home,
            households=QUICK_HOUSEHOLDS if quick else households,
            json=as_json,
            connections=connections,
        )
    )


@contextmanager
def _servers(settings: Settings) -> Iterator[Settings]:
    """Start what the settings do not name, and lend settings that name everything."""
    from pydantic import SecretStr

    from api.embedded import EmbeddedPostgres, EmbeddedValkey

    with ExitStack() as stack:
        found: dict[str, object] = {"port": _free_port(settings.host, settings.port)}
        if settings.database_url is None:
            found["database_url"] = SecretStr(
                stack.enter_context(EmbeddedPostgres(settings.home)).url
            )
        if settings.redis_url is None:
            found["redis_url"] = SecretStr(stack.enter_context(EmbeddedValkey(settings.home)).url)
        yield settings.model_copy(update=found)


def _with_issuer(settings: Settings) -> Settings:
    """Turn the development issuer on where no other is set: somebody must make the tokens."""
    if settings.oidc_issuer is not None:
        return settings
    return settings.model_copy(update={"dev_issuer": True})


def _prepare(settings: Settings) -> None:
    """Bring the schema and the shape of every projection up to this version."""
    from api.cli.migrating import migrate_all
    from api.cli.projecting import rebuild_one
    from ledger.datastore import Datastore
    from projections import migrations
    from projections.registry import projection

    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    migrate_all(url)
    datastore = Datastore(url)
    try:
        for name in migrations.outdated(url):
            print(f"Rebuilding {name}, whose tables are of an older version")
            rebuild_one(datastore, projection(name))
    finally:
        datastore.close()


def _with_witness(settings: Settings) -> tuple[Settings, int | None]:
    """Begin the logs, and let a witness of our own know them where no other is set.

    Returns the port on which that one is to listen.
    """
    from api.cli.witnessing import begin_logs, own_witness

    begin_logs(settings)
    if settings.log_witnesses:
        return settings, None
    port = _free_port(WITNESS_HOST, 0)
    witness = own_witness(settings, port)
    return settings.model_copy(update={"log_witnesses": (witness,)}), port


def _supervise(settings: Settings, witness_port: int | None, *, examples: bool) -> int:
    from api.cli.welcome import welcome
    from api.supervisor import Supervisor

    children = _children(settings, witness_port)
    Supervisor(children, on_started=lambda: welcome(settings, examples=examples)).run()
    return 0


def _children(settings: Settings, witness_port: int | None) -> list[Child]:
    from api.supervisor import Child

    settings, sandbox_port = _with_sandbox(settings)
    environment = {**os.environ, **settings.as_environment()}
    # A person reads this terminal: without a word from them, only what is wrong is logged.
    if "TIDEBOOK_LOG_LEVEL" not in os.environ:
        environment["TIDEBOOK_LOG_LEVEL"] = "warning"
    witness = [] if witness_port is None else [_witness(witness_port, environment)]
    return [
        *witness,
        Child(
            "serve",
            [*PROGRAM, "serve"],
            environment,
            ready=lambda: _is_up(settings),
            stop_timeout_s=SERVE_STOP_S,
            reloads=True,
        ),
        Child("project", [*PROGRAM, "project"], environment),
        Child("sweep", [*PROGRAM, "sweep"], environment),
        Child("log", [*PROGRAM, "log"], environment),
        *([] if sandbox_port is None else [_sandbox(sandbox_port, environment)]),
        Child("dispatch", [*PROGRAM, "dispatch"], environment),
    ]


def _with_sandbox(settings: Settings) -> tuple[Settings, int | None]:
    """Name a sandbox operator of our own where no operator is set; return the port for it."""
    if settings.wallet_operator_url is not None:
        return settings, None
    port = _free_port(SANDBOX_HOST, 0)
    url = f"http://{SANDBOX_HOST}:{port}"
    return settings.model_copy(update={"wallet_operator_url": url}), port


def _sandbox(port: int, environment: dict[str, str]) -> Child:
    from api.supervisor import Child

    argv = [*PROGRAM, "sandbox", "--host", SANDBOX_HOST, "--port", str(port), "--quiet"]
    return Child("sandbox", argv, environment)


def _witness(port: int, environment: dict[str, str]) -> Child:
    from api.supervisor import Child

    return Child(
        "witness",
        [*PROGRAM, "witness", "--host", WITNESS_HOST, "--port", str(port)],
        environment,
        ready=lambda: _answers(WITNESS_HOST, port, "/"),
    )


def _is_up(settings: Settings) -> bool:
    import http.client

    return _status(reachable(settings.host), settings.port, "/healthz") == http.client.OK


def _answers(host: str, port: int, path: str) -> bool:
    """Whether somebody answers there, whatever it is."""
    return _status(host, port, path) is not None


def _status(host: str, port: int, path: str) -> int | None:
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def reachable(host: str) -> str:
    """Return an address under which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; raise `Trouble` when nobody can listen on it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except socket.gaierror:
        raise Trouble(f"--host: there is no address {host!r}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Trouble(f"--port: another program listens on {host}:{port}") from None
        raise Trouble(f"--host: nobody can listen on {host}:{port} ({error.strerror})") from None
