"""The source as people meet it: every part says what it is, and no file is too long to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "paygent"
MODULES = sorted(SOURCE.rglob("*.py"))
LINES_MAX = 720


def name_of(path: Path) -> str:
    """A module's place below the package."""
    return path.relative_to(SOURCE).as_posix()


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Public classes and functions without a docstring, by their place."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{prefix}{node.name}:{node.lineno}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.")


def test_layout__the_source__is_found() -> None:
    """The tests below look at something."""
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layout__a_module__says_what_it_is_and_so_do_its_parts(path: Path) -> None:
    """Module, public classes and public functions each have a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert list(undocumented(tree.body, "")) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layout__a_module__is_short_enough_to_read(path: Path) -> None:
    """No module exceeds 700 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX
