"""One run of the replay, step by step, and what it found."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from api.luohu import LuohuOptions, Progress
from api.luohu.campaign import BOOK, LuohuCampaign, Unexpected
from api.luohu.figures import Figures, scaled
from api.luohu.report import Report, Sides, rows_of, usage_of
from api.luohu.servers import LuohuServers
from campaigns.draws.bundle import VERIFIER
from projections import campaign_figures, merchant_balances
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.merchant_balances import MERCHANT_BALANCES
from projections.packets import PACKETS
from projections.projection import Projection
from projections.tracking import wait_for

CAUGHT_UP_S: Final = 1_800.0
"""How long the read models may take to show what was written: two million registrations."""

_SHOWN: Final[tuple[Projection, ...]] = (CAMPAIGN_FIGURES, PACKETS, MERCHANT_BALANCES)


class _Clock:
    """How long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)


def replay(options: LuohuOptions, progress: Progress) -> Report:
    """Run the replay, or take it up where it was; return what it found."""
    figures, clock = scaled(options.scale), _Clock()
    with LuohuServers(options.own_home) as servers:
        campaign = LuohuCampaign(servers.datastore, options.own_home, figures, options.seed)
        try:
            announcement = _held(campaign, figures, progress, clock)
            _played(campaign, servers, figures, progress, clock)
        finally:
            campaign.close_writer()
        return _looked_at(options, campaign, servers, announcement, progress, clock)


def _held(campaign: LuohuCampaign, figures: Figures, progress: Progress, clock: _Clock) -> str:
    """Register everybody and draw; return the hash of what was announced."""
    everybody = figures.registered + figures.doubled
    with clock.step("register"), progress("register", everybody, "people") as advance:
        campaign.prepare()
        campaign.register(advance)
    with clock.step("freeze"), progress("freeze the list", None, "entries"):
        announcement = campaign.freeze()
    with clock.step("draw"), progress("draw", figures.winners, "seats") as advance:
        campaign.draw(advance)
    return announcement


def _played(
    campaign: LuohuCampaign,
    servers: LuohuServers,
    figures: Figures,
    progress: Progress,
    clock: _Clock,
) -> None:
    """Let people claim and pay, and everything else go back."""
    total = figures.claims + figures.payments
    with clock.step("claim and pay"), progress("claim and pay", total, "steps") as advance:
        campaign.play(advance)
    with clock.step("expire and close"), progress("expire", None, "packets") as advance:
        _catch_up(campaign, servers, PACKETS)
        campaign.expire(advance)
        campaign.finish()
        _catch_up(campaign, servers, *_SHOWN)
        servers.stop_projector()


def _catch_up(campaign: LuohuCampaign, servers: LuohuServers, *projections: Projection) -> None:
    """Wait until read models show the whole book."""
    head = campaign.head()
    for projection in projections:
        if not wait_for(servers.datastore, projection, BOOK, head, CAUGHT_UP_S):
            raise Unexpected(f"{projection.name} does not come up with the book: see project.log")


def _looked_at(
    options: LuohuOptions,
    campaign: LuohuCampaign,
    servers: LuohuServers,
    announcement: str,
    progress: Progress,
    clock: _Clock,
) -> Report:
    """Read the figures, and let the two verifiers look at what is published and at the book."""
    with servers.datastore.transaction() as cursor:
        row = campaign_figures.campaign(cursor, BOOK, campaign.id)
        totals = merchant_balances.totals(cursor, BOOK)
    known = campaign.holder.lists.known(campaign.id)
    if row is None or known is None or known.draw.frozen is None:
        raise Unexpected("the campaign is not in its read model")
    sides = Sides(row, totals, known.draw.frozen.entries, campaign.void)
    folder = options.own_home / "bundle"
    with clock.step("bundle"), progress("write and verify the bundle", None, "entries"):
        said = _bundled(servers, campaign.public_id, folder, announcement)
    with clock.step("verify"), progress("tidebook verify", None, "events"):
        verified = servers.tidebook("verify", "--json")
    return Report(
        scale=options.scale,
        seed=options.seed,
        campaign=campaign.public_id,
        position=campaign.head(),
        announcement=announcement,
        rows=rows_of(campaign.figures, sides),
        refunds=row.refunded,
        bundle=str(folder),
        bundle_verified=said[0] == 0,
        bundle_said=said[1],
        verified=verified.status == 0,
        verification=_parsed(verified.output),
        seconds=clock.seconds,
        usage=usage_of(servers.meter.usage()),
    )


def _bundled(
    servers: LuohuServers, campaign: str, folder: Any, announcement: str
) -> tuple[int, str]:
    """Write the bundle and run its verifier, alone, against the hash that was published before."""
    shutil.rmtree(folder, ignore_errors=True)
    written = servers.tidebook("bundle", campaign, str(folder))
    if written.status != 0:
        return written
    return servers.run(
        *(sys.executable, "-I", "-S", str(folder / VERIFIER)),
        *(str(folder), "--announced", announcement),
    )


def _parsed(output: str) -> Any:
    with suppress(ValueError):
        return json.loads(output)
    return output
