"""The page of commands: what `tidebook` offers, out of its own help."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer.main

from api.cli import app
from api.reference.markdown import code, document, table

_INTRO = """\
`tidebook COMMAND --help` says the same. Exit status: 0 when all is well, 1 when the command found
something, 2 when it could not do its work, with one line that names what to change. Of a command's
options, those on its line win over the environment ([settings](settings.md))."""


def page() -> str:
    """Return the page."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    assert commands, "the command line has commands"
    overview = table(
        ("command", "what it does"),
        (
            (f"[`tidebook {name}`](#tidebook-{name})", _summary(command))
            for name, command in commands.items()
        ),
    )
    sections = (part for each in commands.items() for part in _section(*each))
    return document("Commands", _INTRO, overview, *sections)


def _summary(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help).partition("\n\n")[0].split())


def _section(name: str, command: Any) -> Iterator[str]:
    yield f"## tidebook {name}"
    yield inspect.cleandoc(command.help).replace(":\n*", ":\n\n*")
    rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
    if rows:
        yield table(("option", "meaning"), rows)


def _row(parameter: Any) -> tuple[str, str]:
    value = f" {parameter.metavar}" if parameter.metavar else ""
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        return code(parameter.metavar or parameter.name), _meaning(parameter)
    return ", ".join(code(name + value) for name in names), _meaning(parameter)


def _meaning(parameter: Any) -> str:
    help_text = " ".join((parameter.help or "").replace("  [", " [").split())
    return help_text + (" Required." if parameter.required else "")
