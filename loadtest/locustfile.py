"""Locust's entry: the scenarios, a campaign before the run, and the check of every event after it.

    locust -f loadtest/locustfile.py --headless -u 100 -r 50 -t 30s -H http://127.0.0.1:8080

The exit status is 1 when a request was answered as it must not be or an invariant does not hold.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from locust import events

from loadtest.invariants import report
from loadtest.scenarios.merchant import Merchant
from loadtest.scenarios.tourist import Tourist
from loadtest.scenarios.world import begin, the_world

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment

__all__ = ["Merchant", "Tourist"]

logging.getLogger("httpx").setLevel(logging.WARNING)  # the check reads hundreds of pages


def add_options(parser: ArgumentParser) -> None:
    """The options of our own."""
    parser.add_argument(
        "--quota", type=int, default=1_000_000, help="coupons in the campaign (default a million)"
    )


def set_the_stage(environment: Environment, **_: Any) -> None:
    """Open the campaign that everybody runs for."""
    assert environment.host, "say which service with --host"
    assert environment.parsed_options is not None
    begin(environment.host.rstrip("/"), environment.parsed_options.quota)


def check_everything(environment: Environment, **_: Any) -> None:
    """Hold the whole book against the answers; red when anything is not as it must be."""
    assert environment.runner is not None
    environment.runner.stop()  # after Ctrl-C the users would go on during the check
    books = the_world().check()
    report(books)
    if books.findings or environment.stats.total.num_failures:
        environment.process_exit_code = 1


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]
events.test_start.add_listener(set_the_stage)  # type: ignore[no-untyped-call]
events.quitting.add_listener(check_everything)  # type: ignore[no-untyped-call]
