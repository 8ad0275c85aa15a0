"""Claims straight into the writer, without HTTP and without the gate: what the store level can do.

    python -m campaigns.stress --database-url URL --seconds 3 --in-flight 512

A whole claim is decided, written and committed as in service. Each run claims from a new campaign
in a book of its own, counts what is stored afterwards, and prints one line of JSON. It must never
write into a book that anybody uses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from secrets import token_bytes, token_hex
from time import perf_counter
from typing import Final
from uuid import UUID

from campaigns.accounting import check_postings
from campaigns.campaign import POOL, Terms
from campaigns.commands import (
    ApproveFunding,
    Call,
    ClaimCoupon,
    Command,
    DraftCampaign,
    OpenCampaign,
    ProposeFunding,
    campaign_id,
)
from campaigns.event_types import MAPPER
from campaigns.refusals import Refusal
from ledger.books import Book
from ledger.commit import GroupCommit, Limits, Request, Ticket
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.money import Money

BOOK: Final = Book("stress")
FACE_MINOR: Final = 5_000
QUOTA: Final = 10_000_000
CURRENCY: Final = "CNY"

_ISSUED: Final = "SELECT issued FROM capacity WHERE book = %s AND campaign = %s AND pool = %s"


class ClaimLost(Exception):
    """A claim was answered with something else than a coupon, or the store holds another number."""


@dataclass
class Tally:
    """What a run did: how long each claim took, and when the clock started and stopped."""

    started_s: float = 0.0
    ended_s: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))

    def summary(self, cpu_s: float) -> dict[str, float]:
        """One line for whoever started the run."""
        ordered = sorted(self.latencies_s)
        count = len(ordered)
        return {
            "claims": count,
            "per_s": count / (self.ended_s - self.started_s),
            "p50_ms": ordered[count // 2] * 1e3,
            "p99_ms": ordered[min(count - 1, int(count * 0.99))] * 1e3,
            "cpu_us": cpu_s / count * 1e6,
        }


def claim_request(campaign: UUID) -> Request:
    """A claim of somebody who never came before."""
    person = token_hex(16)
    call = _call(Actor("tourist", person), token_bytes(32))
    return ClaimCoupon(BOOK, campaign, person).request(call)


def _call(by: Actor, fingerprint: bytes = b"") -> Call:
    key = token_hex(16)
    return Call(by, f"req-{key}", _render, key, fingerprint)


def _render(refusal: Refusal) -> bytes:
    return refusal.code.encode()


def open_campaign(writer: GroupCommit) -> UUID:
    """A new campaign with a stock that no run uses up, open for claims."""
    operator, approver = Actor("operator", "0" * 32), Actor("operator", "1" * 32)
    campaign = campaign_id(BOOK, operator, token_hex(16))
    budget = Money(QUOTA * FACE_MINOR, CURRENCY)
    steps: tuple[tuple[Actor, Command], ...] = (
        (operator, DraftCampaign(BOOK, campaign, "Stress", "stress", _terms())),
        (operator, ProposeFunding(BOOK, campaign, QUOTA, budget, 0, 0)),
        (approver, ApproveFunding(BOOK, campaign, QUOTA, budget)),
        (operator, OpenCampaign(BOOK, campaign)),
    )
    codes = [writer.submit(each.request(_call(by))).result().code for by, each in steps]
    assert codes == ["drafted", "funding_proposed", "funded", "opened"], codes
    return campaign


def _terms() -> Terms:
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=1), now + timedelta(days=1)
    return Terms(
        kind="threshold",
        face_minor=FACE_MINOR,
        threshold_minor=4 * FACE_MINOR,
        currency=CURRENCY,
        per_person_limit=1,
        claim_from=begin,
        claim_until=end,
        valid_from=begin,
        valid_until=end,
        zone="Asia/Shanghai",
    )


def by_threads(writer: GroupCommit, campaign: UUID, threads: int, seconds: float) -> Tally:
    """So many threads, each of which claims again when it has its answer."""
    tally = Tally(started_s=perf_counter())
    deadline_s = tally.started_s + seconds
    lost: list[str] = []

    def claim() -> None:
        now_s = perf_counter()
        while now_s < deadline_s and not lost:
            code = writer.submit(claim_request(campaign)).result().code
            if code != "claimed":
                lost.append(code)
            began_s, now_s = now_s, perf_counter()
            tally.latencies_s.append(now_s - began_s)

    callers = [threading.Thread(target=claim) for _ in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    tally.ended_s = perf_counter()
    if lost:
        raise ClaimLost(lost[0])
    return tally


async def in_flight(writer: GroupCommit, campaign: UUID, claims: int, seconds: float) -> Tally:
    """So many claims out at once from one event loop, as a server process has them."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    tally = Tally(started_s=perf_counter())
    deadline_s = tally.started_s + seconds
    begun: dict[Ticket, float] = {}

    def claim() -> None:
        ticket = writer.queue(claim_request(campaign), loop, answered)
        begun[ticket] = perf_counter()

    def answered(ticket: Ticket) -> None:
        now_s = perf_counter()
        tally.latencies_s.append(now_s - begun.pop(ticket))
        if ticket.answer is None or ticket.answer.code != "claimed":
            if not over.done():
                over.set_exception(ClaimLost(str(ticket.error or ticket.answer)))
        elif now_s < deadline_s:
            claim()
        elif not begun and not over.done():
            over.set_result(None)

    for _ in range(claims):
        claim()
    await over
    tally.ended_s = perf_counter()
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Claim for so long and print what came of it."""
    options = _parser().parse_args(arguments)
    datastore = Datastore(options.database_url, pool_size=2)
    limits = Limits(batch_max=options.batch_max)
    writer = GroupCommit(datastore, BOOK, MAPPER, limits=limits, check=check_postings).start()
    campaign = open_campaign(writer)
    before_s = _cpu_s()
    if options.threads:
        tally = by_threads(writer, campaign, options.threads, options.seconds)
    else:
        tally = asyncio.run(in_flight(writer, campaign, options.in_flight, options.seconds))
    used_s = _cpu_s() - before_s
    writer.close()
    _check_issued(datastore, campaign, len(tally.latencies_s))
    datastore.close()
    sys.stdout.write(json.dumps(tally.summary(used_s)) + "\n")
    return 0


def _check_issued(datastore: Datastore, campaign: UUID, claimed: int) -> None:
    with datastore.transaction() as cursor:
        cursor.execute(_ISSUED, (BOOK, campaign, POOL))
        [(issued,)] = cursor.fetchall()
    if issued != claimed:
        raise ClaimLost(f"{claimed} were answered, {issued} are stored")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m campaigns.stress",
        description="Claim straight from the writer, in a book of its own, and print the rate.",
    )
    parser.add_argument("--database-url", required=True, help="a migrated database")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch-max", type=int, default=Limits().batch_max)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--threads", type=int, help="callers that wait for each answer")
    how.add_argument("--in-flight", type=int, help="claims out at once from one event loop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
