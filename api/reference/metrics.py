"""The page of metrics: every series with its labels and its meaning."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase

from api import metrics
from api.reference.markdown import code, codes, document, table

_INTRO = """\
`GET /metrics` answers in the text form of Prometheus, for all processes of a server together. The
labels are route templates, methods, statuses, codes and names of parts: no id, person or address
is ever a label. Of a histogram the series end in `_bucket`, `_sum` and `_count`."""


def page() -> str:
    """Return the page."""
    return document(
        "Metrics", _INTRO, table(("metric", "type", "labels", "meaning"), map(_row, _all()))
    )


def _all() -> Iterator[MetricWrapperBase]:
    for value in vars(metrics).values():
        if isinstance(value, MetricWrapperBase):
            yield value


def _row(metric: MetricWrapperBase) -> tuple[str, ...]:
    (family,) = metric.describe()
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = metric._labelnames  # noqa: SLF001 - the library has no other way to ask
    return code(name), family.type, codes(labels) or "none", family.documentation
