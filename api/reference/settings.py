"""The page of settings: every variable with its default and its meaning."""

from __future__ import annotations

from api.reference.markdown import code, document, table
from api.settings import reference

_INTRO = """\
Every setting is an environment variable. They are read once, when a process starts. A list is
separated by commas; yes and no are `1` and `0`."""


def page() -> str:
    """Return the page."""
    rows = ((code(each.variable), code(each.default) or "none", each.help) for each in reference())
    return document("Settings", _INTRO, table(("variable", "default", "meaning"), rows))
