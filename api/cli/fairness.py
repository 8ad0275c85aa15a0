"""`tidebook fairness`: who could have a coupon of a campaign, by when they came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.fairness import FairnessReport, Span

BAR: Final = 30
"""Columns of the bar of the busiest span."""


def fairness(
    campaign: Annotated[str, typer.Argument(help="The campaign's id, cmp_….", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="Spans of arrival to show.")] = 30,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Show who could have a coupon of a campaign, by when they came.

    Counts are kept by the second of arrival for the first ten minutes, by the minute afterwards.
    They name nobody.

    Examples:
    * `tidebook fairness cmp_main_0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50`
    * `tidebook fairness cmp_main_0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50 --json`
    """
    found = _report(campaign, home)
    if as_json:
        output.print_json(found)
    else:
        _show(found, rows)
    return 0


def _report(campaign: str, home: Home) -> FairnessReport:
    from api.fairness import report_on
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import MalformedId, PublicId

    try:
        found = PublicId.parse(campaign, CAMPAIGN_PREFIX)
    except MalformedId:
        raise Trouble(f"CAMPAIGN: {campaign!r} is not the id of a campaign, cmp_<book>_…") from None
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore, datastore.transaction() as cursor:
        report = report_on(cursor, found)
    if report is None:
        raise Trouble(f"CAMPAIGN: there is no {campaign} in the campaign figures")
    return report


def _show(report: FairnessReport, rows: int) -> None:
    screen = output.console()
    screen.print(f"{report.campaign}, claims from {report.opened_for_claims.isoformat()}")
    refused = ", ".join(f"{calls:,} {code}" for code, calls in report.refused.items()) or "none"
    screen.print(f"{report.calls:,} calls: {report.granted:,} granted; refused: {refused}")
    screen.print(
        f"first second: {report.first_second_calls:,} calls, {report.first_second_granted:,} "
        f"granted, {report.first_second_share:.1%} of all that was granted"
    )
    screen.print(f"overtaking while the stock ran out: at most {report.order.overtaking_ms:g} ms")
    if report.spans:
        screen.print(_table(report, rows))
    left_out = report.spans_left_out + max(0, len(report.spans) - rows)
    if left_out:
        screen.print(f"{left_out:,} more spans; --rows and --json show more")


def _table(report: FairnessReport, rows: int) -> Any:
    numbers = ("calls", "granted", "chance", "p50 ms", "p99 ms")
    table = output.table(None, "arrived", *numbers, "█ granted ░ refused", numbers=numbers)
    most = max(span.calls for span in report.spans[:rows])
    for span in report.spans[:rows]:
        table.add_row(
            span.at.strftime("%H:%M:%S") + ("" if span.span_s == 1 else f" +{span.span_s} s"),
            f"{span.calls:,}",
            f"{span.granted:,}",
            f"{span.chance:.1%}",
            _ms(span.latency.p50_ms),
            _ms(span.latency.p99_ms),
            _bar(span, most),
        )
    return table


def _ms(bound: int | None) -> str:
    return "more" if bound is None else f"≤ {bound:,}"


def _bar(span: Span, most: int) -> str:
    width = max(1, round(BAR * span.calls / most))
    granted = round(width * span.chance)
    return "█" * granted + "░" * (width - granted)
