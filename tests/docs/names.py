"""Finding what documents name: dotted names in the code and tests in their files."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from typing import Any

from tests.docs.pages import REPOSITORY

PACKAGES = ("ledger", "campaigns", "projections", "api", "loadtest")
DOTTED = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one, down to attributes and fields."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return _has(thing, parts[count:])
    return False


def _has(thing: Any, path: list[str]) -> bool:
    if not path:
        return True
    name, *rest = path
    if hasattr(thing, name):
        return _has(getattr(thing, name), rest)
    return not rest and isinstance(thing, type) and name in _declared(thing)


def _declared(cls: type) -> set[str]:
    """Fields that a class declares without having an attribute of that name."""
    return {name for one in cls.__mro__ for name in inspect.get_annotations(one)}


@cache
def named_tests(file: str) -> set[str]:
    """The names of the tests in a file, those in classes included; none when there is no file."""
    path = REPOSITORY / file
    if not path.is_file():
        return set()
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
