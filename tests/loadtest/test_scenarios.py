"""Each scenario at a tiny size over a whole system: what happens, what is checked, what is written.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from loadtest.__main__ import main
from loadtest.pages import CALLS_FILE, JSON_FILE, PAGE_FILE
from loadtest.recording import Recording
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.bots import DEVICES, PRESSES
from loadtest.system import System

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

USERS = 40
SECONDS = "1.5"
VOID = {"meta", "link", "br", "path", "use", "rect", "line", "circle", "img"}


class Done(NamedTuple):
    """A run that has ended."""

    status: int
    directory: Path

    @property
    def report(self) -> Any:
        """What `report.json` says."""
        return json.loads((self.directory / JSON_FILE).read_text())

    @property
    def page(self) -> str:
        """What the browser gets."""
        return (self.directory / PAGE_FILE).read_text()

    def calls(self, name: str) -> dict[str, int]:
        """The outcomes of the calls of a name."""
        [one] = [one for one in self.report["calls"] if one["name"] == name]
        return {kind: one.get(kind, 0) for kind in ("success", "replay", "refused", "unknown")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Done]]:
    """Every scenario once, one after the other against the same system."""
    with System.started(1) as system:
        done = {}
        for name in SCENARIOS:
            out = tmp_path_factory.mktemp(name)
            size = ["--users", str(USERS), "--seconds", SECONDS, "--campaigns", "5"]
            status = main([name, *size, "--url", system.url, "--out", str(out), "--json"])
            done[name] = Done(status, out)
        yield done


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_invariant_holds(runs: dict[str, Done], name: str) -> None:
    """The exit status is 0, nothing was found, and it was looked for."""
    done = runs[name]
    assert done.report["findings"] == []
    assert done.status == 0
    checked = {one["rule"]: one["checked"] for one in done.report["verdicts"]}
    assert checked["what was answered is stored"] > 0
    assert checked["issued ≤ quota"] > 0
    assert checked["money is conserved"] > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_everybody_who_was_planned_came(runs: dict[str, Done], name: str) -> None:
    """No arrival is left out, and no call is without an outcome."""
    report = runs[name].report
    assert report["arrivals"] >= USERS
    assert report["totals"]["calls"] >= report["arrivals"]
    assert sum(one["meant"] for one in report["over_time"]) == report["totals"]["calls"]
    with Recording(runs[name].directory / CALLS_FILE) as recording:
        assert recording.number("SELECT count(*) FROM call WHERE end < begin OR begin < due") == 0


def test_the_rush_sells_out_and_says_so(runs: dict[str, Done]) -> None:
    """Three in five get a coupon, all others a refusal."""
    rush = runs["rush"]
    assert rush.calls("claim") == {"success": 24, "replay": 0, "refused": 16, "unknown": 0}
    assert set(rush.report["totals"]["by_code"]) <= {"sold_out", "already_claimed"}


def test_a_bot_gets_one_coupon_for_its_twenty_requests(runs: dict[str, Done]) -> None:
    """All devices of a bot press, and its identity is one person."""
    bots = runs["bots"]
    presses = bots.calls("claim by a bot")
    assert sum(presses.values()) == USERS // 5 * DEVICES * PRESSES
    assert presses["success"] <= USERS // 5
    [slot] = bots.report["slots"]
    assert slot["by_kind"].get("bot", 0) == presses["success"]


def test_skewed_campaigns_share_the_claims(runs: dict[str, Done]) -> None:
    """Several campaigns are claimed from, and the report ranks them."""
    slots = runs["skewed"].report["slots"]
    assert len(slots) > 1
    assert [s["claims"] for s in slots] == sorted((s["claims"] for s in slots), reverse=True)


def test_a_coupon_shown_at_two_tills_is_redeemed_once(runs: dict[str, Done]) -> None:
    """Everybody spends his coupon; a second till is refused."""
    redeemed = runs["redemptions"].calls("redeem")
    assert redeemed["success"] >= USERS
    assert redeemed["refused"] > 0
    assert set(runs["redemptions"].report["totals"]["by_code"]) == {"already_redeemed"}


def test_a_day_has_everything(runs: dict[str, Done]) -> None:
    """Claims, redemptions, wallets, auditors, all in one run."""
    names = {one["name"] for one in runs["day"].report["calls"]}
    assert {
        "sign in",
        "claim",
        "wallet",
        "redeem",
        "head",
        "events",
        "figures",
        "campaign",
    } <= names


def test_a_waiting_room_lets_people_in_by_their_place(runs: dict[str, Done]) -> None:
    """Everybody takes a place, some follow a stream, and stock goes to those with a pass."""
    waiting = runs["waiting"]
    assert waiting.calls("take a place")["success"] == USERS
    assert waiting.calls("watch it")["success"] > 0
    assert waiting.calls("claim at one's turn")["success"] == 24
    assert waiting.calls("claim too early")["success"] == 0
    [room] = waiting.report["rooms"]
    assert sorted(number for _, number in room["places"]) == [*range(1, USERS + 1)]
    checked = {one["rule"]: one["checked"] for one in waiting.report["verdicts"]}
    assert checked["nobody claims before the turn"] == 24


def test_everybody_who_entered_is_in_the_draw(runs: dict[str, Done]) -> None:
    """Entries and winners of the report are those of the book; who lost looks in vain."""
    lottery = runs["lottery"]
    entered = lottery.calls("enter")["success"]
    [draw] = lottery.report["draws"]
    assert sum(entries for _, entries, _ in draw["by_arrival"]) == entered > 0
    assert sum(won for _, _, won in draw["by_arrival"]) == min(12, entered)
    assert lottery.calls("wallet")["success"] == entered


class Outline(HTMLParser):
    """The parts of a page that a test looks at; complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a tag."""
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a tag that closes itself."""
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that is open."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def tags(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all tags of a name."""
        return [attributes for tag, attributes in self.seen if tag == name]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_page_is_whole_and_needs_nothing_else(runs: dict[str, Done], name: str) -> None:
    """Well-formed, every chart named, no id twice, nothing fetched from anywhere, no script."""
    outline = Outline()
    outline.feed(runs[name].page)
    assert outline.open == []
    charts = [svg["aria-label"] for svg in outline.tags("svg")]
    assert {"Throughput", "Latency over time", "Latency distribution", "Refusals"} <= set(charts)
    assert {"Projection lag", "Processors", "Memory"} <= set(charts)
    ids = [attributes["id"] for _, attributes in outline.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not outline.tags("script")
    links = [value for _, a in outline.seen for key, value in a.items() if key in {"src", "href"}]
    assert links == []
    assert "@import" not in runs[name].page
    assert not re.search(r"url\((?!#)", runs[name].page)


def test_the_page_says_what_was_checked(runs: dict[str, Done]) -> None:
    """Every rule is listed with its number of checks, and the verdict is the first thing."""
    page, report = runs["rush"].page, runs["rush"].report
    assert page.index("Every invariant holds") < page.index("Throughput")
    for one in report["verdicts"]:
        assert one["rule"].replace("'", "&#x27;") in page


def test_a_recording_gives_the_same_report_again(runs: dict[str, Done]) -> None:
    """The page can be written once more without the system."""
    from loadtest.pages import main as write_again

    before = runs["bots"].report
    assert write_again([str(runs["bots"].directory)]) == 0
    assert runs["bots"].report == before
