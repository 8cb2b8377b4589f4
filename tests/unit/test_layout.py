"""The source as its readers meet it: every part is documented, sizes stay readable, and the tree,
the import contracts and the comments stay within the limits that were chosen for them.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "paygent"
MODULES = sorted(SOURCE.rglob("*.py"))

LINES_P50_MAX, LINES_P90_MAX, LINES_MAX = 150, 350, 600
BROAD_HANDLERS_MAX = 10
"""Three are the guard itself. Two are in the loops of a stream and two in the shortcut of a call,
where it would cost as much as what it guards. One books the batches of a group one by one if the
group is rejected; two are the edges of the server: a request, and the writer's answer to it.
"""
COMMENTS_PER_100_LINES = (5.0, 9.0)
FOLDERS_MAX, ROOT_MODULES_MAX = 9, 6
LAYERS_MAX = [12, 7, 9, 10]
"""Rows of the contracts: of the package, of the client, of the instrumentation, of the server."""

_DIRECTIVE = re.compile(r"#\s*(noqa|type:|pragma)")


def name_of(path: Path) -> str:
    """Return a module's path below the package."""
    return path.relative_to(SOURCE).as_posix()


def lines_of(path: Path) -> int:
    """Return the number of lines of a module."""
    return len(path.read_text(encoding="utf-8").splitlines())


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Yield the public classes and functions without a docstring."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{prefix}{node.name}:{node.lineno}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.")


def docstring_lines(tree: ast.Module) -> set[int]:
    """Return the lines of all strings that are statements: docstrings, also of attributes."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def code_and_comments(path: Path) -> tuple[int, int]:
    """Return the number of lines with code outside of docstrings, and with a comment."""
    text = path.read_text(encoding="utf-8")
    code: set[int] = set()
    comments: set[int] = set()
    layout = (
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not _DIRECTIVE.match(token.string):
                comments.add(token.start[0])
        elif token.type not in layout:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstring_lines(ast.parse(text))), len(comments)


def broad_handlers(path: Path) -> list[str]:
    """Return the places of a module that catch `Exception`."""
    return [
        f"{name_of(path)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and any(
            isinstance(kind, ast.Name) and kind.id == "Exception" for kind in ast.walk(node.type)
        )
    ]


def in_circles(imports: dict[str, set[str]]) -> set[str]:
    """Return the modules that import each other, directly or not."""
    remaining = {module: set(imported) for module, imported in imports.items()}
    while True:
        imported_somewhere = set().union(*remaining.values())
        free = {
            module
            for module, imported in remaining.items()
            if not imported or module not in imported_somewhere
        }
        if not free:
            return set(remaining)
        remaining = {
            module: imported - free for module, imported in remaining.items() if module not in free
        }


def test_layout__the_source__is_found() -> None:
    """The tests below have something to check."""
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layout__a_module__is_documented_and_so_are_its_parts(path: Path) -> None:
    """Module, public classes and public functions each have a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert list(undocumented(tree.body, "")) == []


def test_layout__modules__are_short_enough_to_read() -> None:
    """Half of the modules fit on a few screens, and none is a book."""
    longest = sorted(((lines_of(path), name_of(path)) for path in MODULES), reverse=True)
    p50, p90 = longest[len(longest) // 2], longest[len(longest) // 10]
    assert [module for module in longest if module[0] > LINES_MAX] == []
    assert p90[0] <= LINES_P90_MAX, longest[: len(longest) // 10 + 1]
    assert p50[0] <= LINES_P50_MAX


def test_layout__the_first_level__stays_small() -> None:
    """The package has few folders and few modules at its root."""
    folders = [path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()]
    assert len(folders) <= FOLDERS_MAX, folders
    modules = [path.name for path in SOURCE.glob("*.py")]
    assert len(modules) <= ROOT_MODULES_MAX, modules


def test_layout__handlers_of_any_exception__are_counted() -> None:
    """Failures are swallowed by the one guard, not wherever it is convenient."""
    handlers = [place for path in MODULES for place in broad_handlers(path)]
    assert len(handlers) <= BROAD_HANDLERS_MAX, handlers


def test_layout__comments__are_neither_rare_nor_everywhere() -> None:
    """There is a reason beside what needs one, and no narration."""
    counts = [code_and_comments(path) for path in MODULES]
    code, comments = (sum(column) for column in zip(*counts, strict=True))
    least, most = COMMENTS_PER_100_LINES
    assert least <= 100 * comments / code <= most, f"{comments} comments in {code} lines"


def test_layout__the_import_contracts__are_short_and_strict() -> None:
    """Four lists of layers describe the package, and imports for type checking count too."""
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r"^layers = \[(.*?)\]", contracts, re.M | re.S)
    rows = [len(re.findall(r'"[^"]+"', layers)) for layers in listed]
    assert len(rows) == len(LAYERS_MAX)
    assert [row for row, limit in zip(rows, LAYERS_MAX, strict=True) if row > limit] == []
    assert "exclude_type_checking_imports" not in contracts
    assert "ignore_imports" not in contracts


def test_layout__imports__have_no_circle() -> None:
    """No module imports itself through others, not even for type checking."""
    graph = grimp.build_graph("paygent", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 40
    assert in_circles(imports) == set()


def test_in_circles__a_circle_with_neighbours__is_found_alone() -> None:
    """Modules before and behind a circle are no part of it."""
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str]()}
    assert in_circles(imports) == {"b", "c"}
    assert in_circles({"a": {"b"}, "b": set[str]()}) == set()
