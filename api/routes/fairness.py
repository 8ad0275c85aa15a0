"""Fairness: what became of the calls for a campaign's coupons, by when they came."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from api import examples
from api.errors import not_found
from api.fairness import FairnessReport, report_on
from api.routes.ordinary import CampaignId
from api.routes.reading import Staff, as_json, public_id_of, read_docs, shown
from campaigns.replies import CAMPAIGN_PREFIX
from projections.campaign_figures import CAMPAIGN_FIGURES

router: Final = APIRouter(tags=["campaigns"])


@router.get(
    "/v1/campaigns/{campaign}/fairness",
    summary="See who could have a coupon, by when they came",
    operation_id="get_campaign_fairness",
    **read_docs(FairnessReport, examples.FAIRNESS, "not_found"),
)
async def get_fairness(request: Request, campaign: CampaignId, _caller: Staff) -> Response:
    """Arrivals, chances, refusals and latency by the second of arrival. For staff.

    Counts are a second or two behind, and the last second of a server that ended badly is lost.
    """
    found = public_id_of(request, campaign, CAMPAIGN_PREFIX)
    service = await shown(request, CAMPAIGN_FIGURES)

    told = await service.read(lambda cursor: report_on(cursor, found))
    if told is None:
        raise not_found()
    return as_json(told)
