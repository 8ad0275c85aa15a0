"""`tidebook migrate`, `project` and `sweep`: once, rebuilt, and as processes that keep going."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from campaigns.commands import DraftCampaign, campaign_id
from ledger.datastore import Datastore
from projections.registry import PROJECTIONS
from tests.cli.conftest import Tidebook
from tests.cli.test_help_and_errors import program
from tests.conftest import wait_until
from tests.support.desk import ALICE, DRAW_KEY, SPONSOR, Desk, person, terms_of
from tests.support.groups import NEXT_NOON, GroupDesk
from tests.support.story import AFTER_VALIDITY, Story


def shown(datastore: Datastore) -> list[str]:
    """The states of all coupons in the wallets."""
    with datastore.transaction() as cursor:
        cursor.execute("SELECT state FROM rm_wallets.coupon ORDER BY state")
        return [state for (state,) in cursor.fetchall()]


@contextmanager
def process(home: Path, url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as a process of its own; it must end politely when it is told to."""
    environment = {**os.environ, "TIDEBOOK_HOME": str(home), "TIDEBOOK_DATABASE_URL": url}
    running = subprocess.Popen([*program(), *arguments], env=environment, stdout=subprocess.PIPE)
    try:
        yield running
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    finally:
        running.kill()
        running.communicate()


def test_the_log_stands_back(home: Path, database_url: str) -> None:
    """Its process is nicer than those who start it: claims come first."""
    with process(home, database_url, "log") as running:
        wait_until(lambda: psutil.Process(running.pid).nice() >= min(os.nice(0) + 10, 19))


def test_migrate_twice(
    tidebook: Tidebook, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run says what it applied, the second that there was nothing."""
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", empty_database_url)
    first = tidebook("migrate", "--json").document
    assert "0001_event_store" in first["applied"]
    assert first["outdated"] == []
    assert tidebook("migrate").out == "nothing to apply\n"
    assert tidebook("verify").status == 0


def test_migrate_names_projections_to_rebuild(tidebook: Tidebook, datastore: Datastore) -> None:
    """Tables of an older shape are named; rebuilding brings them up to date."""
    with datastore.transaction() as cursor:
        cursor.execute("UPDATE rm_wallets.shape SET checksum = 'older'")
    assert "to be rebuilt with `tidebook project --rebuild`: wallets" in tidebook("migrate").out
    assert tidebook("project", "--rebuild", "wallets").status == 0
    assert tidebook("migrate", "--json").document == {"applied": [], "outdated": []}


@pytest.mark.usefixtures("story")
def test_project_once_catches_up_and_ends(tidebook: Tidebook, datastore: Datastore) -> None:
    """Each projection stands at the head; a second run has nothing to do."""
    first = tidebook("project", "--once", "--json").document
    assert [(row["position"], row["events"]) for row in first] == [(32, 32)] * len(PROJECTIONS)
    again = tidebook("project", "--once", "--json").document
    assert [(row["position"], row["events"]) for row in again] == [(32, 0)] * len(PROJECTIONS)
    assert len(shown(datastore)) == 8
    assert "main: wallets at position 32" in tidebook("project", "--once", "wallets").out


@pytest.mark.usefixtures("story")
def test_rebuild_reports_its_rate(tidebook: Tidebook) -> None:
    """The events read, the time and the rate, for each projection."""
    [report] = tidebook("project", "--rebuild", "campaign_figures", "--json").document
    assert (report["projection"], report["events"]) == ("campaign_figures", 32)
    assert report["events_per_s"] > 0
    assert "merchant_balances" in tidebook("project", "--rebuild").out


@pytest.mark.usefixtures("story")
def test_project_tells_how_far_it_is_behind(tidebook: Tidebook) -> None:
    """Events not shown yet and the age of the first of them; both end when it has caught up."""
    tidebook("project", "--once", "wallets")
    wallets, figures, *_ = tidebook("project", "--lag", "--json").document
    assert (wallets["projection"], wallets["events"], wallets["seconds"]) == ("wallets", 0, 0.0)
    assert (figures["position"], figures["events"]) == (0, 32)
    said = tidebook("project", "--lag", "wallets", "campaign_figures").out
    assert "main: wallets at position 32, shows all events" in said
    assert "main: campaign_figures at position 0, 32 events behind, the first" in said
    assert tidebook("project", "--lag", "--once").status == 2


def test_project_keeps_up_until_it_is_told_to_end(
    home: Path, database_url: str, desk: Desk, datastore: Datastore
) -> None:
    """A process that follows the book and ends in good order on SIGTERM."""
    with process(home, database_url, "project"):
        campaign = desk.opened()
        for n in range(3):
            desk.claimed(campaign, person(n))
        wait_until(lambda: shown(datastore) == ["held"] * 3)


def test_sweep_once_needs_nobody_else(tidebook: Tidebook, desk: Desk, datastore: Datastore) -> None:
    """With no other process around it keeps the wallets up itself, so that it sees what is due."""
    now = datetime.now(UTC)
    past, future = now - timedelta(days=9), now + timedelta(days=9)
    campaign = desk.opened(
        terms=terms_of(claim_from=past, valid_from=past, claim_until=future, valid_until=now)
    )
    for n in range(3):
        assert desk.claim(campaign, person(n), at=None).code == "claimed"
    [swept] = tidebook("sweep", "--once", "--json").document
    counts = {"expired": 3, "refused": 0, "groups": 0, "purses": 0}
    counts |= {"rolled_over": 0, "splits_shown": 0}
    assert swept == {"book": "main", **counts, "behind": False}
    assert shown(datastore) == ["expired"] * 3
    assert tidebook("sweep", "--once").out == "main: 0 expired, 0 judged otherwise\n"


def test_sweep_gives_back_what_nobody_took(
    tidebook: Tidebook, datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a day the group's money is in the purse, and after the claim window in the pot."""
    monkeypatch.setenv("TIDEBOOK_DRAW_KEY", DRAW_KEY.hex())
    desk = GroupDesk(datastore)
    purse = desk.purse(1_000)
    group = desk.sent(purse, 4, 400)
    desk.take(group, person(1))
    desk.close()
    simulate_time(datastore)
    [swept] = tidebook("sweep", "--at", NEXT_NOON.isoformat(), "--json").document
    assert (swept["groups"], swept["purses"], swept["behind"]) == (1, 0, False)
    later = (NEXT_NOON + timedelta(days=3)).isoformat()
    told = tidebook("sweep", "--at", later).out
    assert "main: 0 groups, 1 purses returned" in told
    life = tidebook("replay", "--group", f"grp_main_{group.hex}", "--json").document
    assert [step["state"] for step in life["life"]] == ["open", "open", "closed"]
    assert life["state"]["returned_minor"] + life["state"]["taken"][0]["amount_minor"] == 400
    assert "Group packets" in tidebook("replay").out
    assert tidebook("verify").status == 0


def simulate_time(datastore: Datastore) -> None:
    """Mark the ledger as one whose time comes with the requests, as its first server does."""
    with datastore.transaction() as cursor:
        cursor.execute("INSERT INTO installation VALUES ('clock', 'request')")


def test_sweep_at_a_simulated_instant(
    tidebook: Tidebook, story: Story, desk: Desk, datastore: Datastore
) -> None:
    """In a ledger of simulated time the instant is the caller's; elsewhere it is refused."""
    assert tidebook("sweep", "--at", AFTER_VALIDITY.isoformat()).status == 2
    simulate_time(datastore)
    [swept] = tidebook("sweep", "--at", AFTER_VALIDITY.isoformat(), "--json").document
    assert swept["expired"] == 2
    assert [e.at for e in desk.events() if e.TOPIC == "coupon.expired"] == [AFTER_VALIDITY] * 4
    assert tidebook("verify").status == 0


def test_sweep_follows_the_book_in_simulated_time(
    home: Path, database_url: str, desk: Desk, datastore: Datastore
) -> None:
    """Without an instant, a ledger of simulated time is swept at its last event's."""
    simulate_time(datastore)
    campaign = desk.opened()
    desk.claimed(campaign, person(1))
    with process(home, database_url, "project"), process(home, database_url, "sweep"):
        wait_until(lambda: shown(datastore) == ["held"])
        _move_the_clock(desk)
        wait_until(lambda: shown(datastore) == ["expired"])
    assert desk.events()[-1].at == AFTER_VALIDITY


def _move_the_clock(desk: Desk) -> None:
    """Let something happen three days later."""
    draft = DraftCampaign(
        desk.book, campaign_id(desk.book, ALICE, "later"), "Later", SPONSOR, terms_of()
    )
    assert desk.send(draft, ALICE, at=AFTER_VALIDITY).code == "drafted"
