"""How every baseline is served: uvicorn at its fastest, the same for all of them.

uvloop, httptools, no access log, as many processes as asked for. It must never give one baseline
something that another one does not get.
"""

from __future__ import annotations

import argparse

import uvicorn

BACKLOG = 4096
"""Connections of a whole run may come at once."""


def parser(prog: str, description: str, *, workers: int = 2) -> argparse.ArgumentParser:
    """The options that every baseline has."""
    options = argparse.ArgumentParser(prog=prog, description=description)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--workers", type=int, default=workers)
    return options


def serve(application: str, options: argparse.Namespace, *, factory: bool = False) -> None:
    """Serve `module:name` until terminated."""
    uvicorn.run(
        application,
        host=options.host,
        port=options.port,
        workers=options.workers,
        factory=factory,
        loop="uvloop",
        http="httptools",
        lifespan="on" if factory else "off",
        backlog=BACKLOG,
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
    )
