"""Daily proofs over HTTP: anybody reads them, any cache keeps them, and their key is published."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.daily.making import Maker
from api.transparency import begin_log
from ledger.transparency import check_receipt as alone
from ledger.transparency.statements import statement_signer
from tests.api.conftest import MakeApp
from tests.api.harness import App, draft_body
from tests.api.test_transparency import follow

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_anybody_reads_what_was_issued_on_a_day(make_app: MakeApp) -> None:
    """The list, and each proof as the stand-alone checker believes it; nothing else is there."""
    app: App = make_app(clock="request", redis_url=None)
    signer = begin_log(app.settings.home, "main", "ledger.example", bytes(range(64)))
    app.time = NOON.isoformat()
    month = {"from": NOON.isoformat(), "until": (NOON + timedelta(days=30)).isoformat()}
    windows = draft_body(claim_window=month, validity_window=month)
    campaign = app.open_campaign(claim_window=windows["claim_window"], validity_window=month)
    app.claimed(campaign)
    app.time = (NOON + timedelta(days=1)).isoformat()
    app.claimed(campaign, "another")
    path = f"/log/main/daily-proofs/{campaign}"
    assert app.get(path).status_code == 404
    follow(app, signer)
    seed = app.settings.refusal_secret()
    maker = Maker(app.datastore, "main", "a", lambda o: statement_signer(o, seed), simulated=True)
    assert len(list(maker.make())) == 1
    listed = app.get(path)
    assert listed.headers["cache-control"] == "public, max-age=60"
    (told,) = listed.json()["proofs"]
    assert (told["day"], told["figures"]["issued"], told["over_issued"]) == ("2026-05-01", 1, False)
    proof = app.get(f"{path}/2026-05-01")
    assert proof.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert proof.headers["content-type"] == "text/plain; charset=utf-8"
    key = alone.parse_key(app.get("/log/main").json()["statements"])
    found = alone.check(proof.content, alone.Trust(statements=(key,)))
    assert (found.kind, found.told["issued"]) == ("daily proof", "1")
    assert "issued 1" in "\n".join(alone.words(found, True))
    for wrong in ("2026-05-02", "2026-5-1", "20260501", "x"):
        assert app.get(f"{path}/{wrong}").status_code == 404
    assert app.get(f"/log/other/daily-proofs/{campaign}").status_code == 404
    assert app.get(f"/log/main/daily-proofs/cmp_main_{'0' * 32}").status_code == 404
    assert app.get("/log/main/daily-proofs/x/2026-05-01").status_code == 404
