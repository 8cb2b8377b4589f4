"""The documentation is executed and checked: examples print what they claim, pass a strict type
check, and name commands and paths that exist.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tests.docs.pages import (
    PAGES,
    PATIENCE,
    ROOT,
    commands,
    files,
    in_order,
    name_of,
    normalised,
    output,
    program,
)
from tests.promises.scripts import run
from typer.testing import CliRunner

from paygent import GuardResult, PaygentLimitExceeded
from paygent.cli.app import app
from paygent.testing import FakeProvider

WITH_PROGRAM = [page for page in PAGES if program(page.read_text(encoding="utf-8"))]

BUILT_LATER: tuple[str, ...] = ()
"""Paths of the flow table that are not built yet."""


class Reader:
    """Somebody with a home and a provider's key, who runs the program of a page."""

    def __init__(self, home: Path, provider: FakeProvider) -> None:
        self._home, self._url = str(home), provider.openai_url

    def sees(self, page: Path) -> tuple[str, str]:
        """Return what a page's program prints and logs, in a process of its own."""
        code = PATIENCE + program(page.read_text(encoding="utf-8"))
        out, err = run(code, HOME=self._home, OPENAI_API_KEY="demo", OPENAI_BASE_URL=self._url)
        return normalised(out), err


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader with an empty home, and a fake of their provider."""
    with FakeProvider() as provider:
        yield Reader(tmp_path, provider)


def shown(page: Path) -> tuple[str, str]:
    """Return what a page says that its program prints; none of them logs a warning."""
    return normalised(output(page.read_text(encoding="utf-8"))), ""


@pytest.mark.parametrize("page", WITH_PROGRAM, ids=name_of)
def test_docs__the_examples_of_a_page__run_and_print_what_it_shows(
    page: Path, reader: Reader
) -> None:
    """Every Python block of a page runs, in order, in one process with an empty home."""
    assert reader.sees(page) == shown(page)


def test_row_6__all_examples_in_the_order_of_the_index__print_the_same_on_one_home_twice(
    reader: Reader,
) -> None:
    """A reader who tries one page after the other, and again the next day, sees what they show."""
    pages = [page for page in in_order() if page in WITH_PROGRAM]
    assert pages[0] == ROOT / "README.md"
    for day in ("first", "second"):
        for page in pages:
            assert (day, name_of(page), *reader.sees(page)) == (day, name_of(page), *shown(page))


def test_docs__a_page_with_examples__is_linked_from_the_index() -> None:
    """No page is missing from the sequence above."""
    assert [name_of(page) for page in WITH_PROGRAM if page not in in_order()] == []


def test_row_7__all_examples__pass_a_strict_type_check(tmp_path: Path) -> None:
    """A reader with `mypy --strict` can paste each of them; no comment switches the checker off."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = re.sub(r"\W", "_", name_of(page).removesuffix(".md"))
        programs = {f"{name}.py": program(text)}
        for file, content in files(text).items():
            if file.endswith(".py"):
                programs[f"{name}_{file}"] = content
        for file, code in programs.items():
            assert "type: ignore" not in code
            (tmp_path / file).write_text(code, encoding="utf-8")
    checker = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    # Errors of the package itself are those of `make type`.
    checker += ["--follow-imports=silent", f"--cache-dir={ROOT / '.mypy_cache/docs'}", "."]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(
        checker, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


NAMED_COMMANDS = sorted(
    {
        (name_of(page), *arguments)
        for page in PAGES
        for arguments in commands(page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("named", NAMED_COMMANDS, ids=" ".join)
def test_docs__a_command_in_a_shell_block__exists_with_its_options(named: tuple[str, ...]) -> None:
    """The command line knows it; with `--help` it runs nothing."""
    result = CliRunner().invoke(app, [*named[1:], "--help"])
    assert (result.exit_code, "Usage:" in result.output) == (0, True), result.output


def test_docs__a_command_or_target_in_a_sentence__exists() -> None:
    """`paygent x` and `make x` are things that a reader types."""
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    unknown = [
        (name_of(page), tool, word)
        for page in PAGES
        for tool, word in re.findall(
            r"(?:`|^)(paygent|make) ([a-z][\w-]*)", page.read_text(encoding="utf-8"), re.M
        )
        if word not in (known if tool == "paygent" else targets)
    ]
    assert unknown == []


def test_docs__the_readme__shows_an_example_by_line_25_and_never_points_to_the_index() -> None:
    """The first screen runs; the package of this name on the index is a different product."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text.splitlines().index("```python") + 1
    assert first <= 25
    assert "pip install paygent" not in text


def test_docs__the_flow_table__names_paths_that_exist() -> None:
    """Each of the eleven steps of the flow has one home."""
    lines = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("| call |"))
    words = [cell.strip() for cell in lines[header].strip("|").split("|")]
    homes = [re.findall(r"`([^`]+)`", cell) for cell in lines[header + 2].strip("|").split("|")]
    assert " ".join(words) == (
        "call identify estimate gate provider usage price settle sync store report"
    )
    assert all(homes)
    missing = [
        home
        for cell in homes
        for home in cell
        if home not in BUILT_LATER and not (ROOT / "src/paygent" / home).exists()
    ]
    assert missing == []


def test_docs__links_between_pages__resolve() -> None:
    """No page links to a missing file."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert links
    broken = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert broken == []


def test_docs__the_layers_of_the_architecture__match_the_contracts() -> None:
    """The page and the import contracts list the same layers in the same order."""
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r"^layers = \[(.*?)\]", contract, re.M | re.S)
    checked = [re.findall(r"\w+", re.sub(r"\(\w+\)|__main__", "", layers)) for layers in listed]
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    shown = re.search(r"^    paygent  .*?^$", text, re.M | re.S)
    assert shown is not None
    rows = re.split(r"\n(?=    \w)", shown.group(0))
    assert [re.findall(r"\w+", row.split("  ", 3)[-1]) for row in rows] == checked


def test_row_5__the_fallback_recipe__raises_the_refusal_once_no_model_is_left() -> None:
    """It raised `UnboundLocalError`: a name of an `except` clause ends with the clause."""
    code = program((ROOT / "docs/guide/callbacks.md").read_text(encoding="utf-8"))
    (recipe,) = re.findall(r"^def ask\(.*?(?=^\S)", code, re.M | re.S)
    names: dict[str, Any] = {"PaygentLimitExceeded": PaygentLimitExceeded}
    exec(compile("from __future__ import annotations\n" + recipe, "ask", "exec"), names)
    models: list[str] = []

    def create(model: str, **_: object) -> None:
        models.append(model)
        raise PaygentLimitExceeded(GuardResult("hard_gate", f"model_limit:{model}", message=model))

    completions = SimpleNamespace(completions=SimpleNamespace(create=create))
    with pytest.raises(PaygentLimitExceeded) as raised:
        names["ask"](SimpleNamespace(chat=completions), "Say hello.")
    assert len(models) == 2
    assert str(raised.value) == models[-1]


def test_row_10__the_readme__says_how_to_install_for_its_example() -> None:
    """From the clone, with the SDK that the example uses; guides say what needs `[cli]`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install . openai" in text
    assert '.[cli]"' in (ROOT / "docs/guide/quickstart.md").read_text(encoding="utf-8")
    assert '".[demo]"' not in text


def test_row_17__containers_and_several_hosts__are_answered() -> None:
    """The README says what holds, and a page tells what to do."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "**Several hosts**" in readme
    assert "docs/guide/deployment.md" in readme
    page = (ROOT / "docs/guide/deployment.md").read_text(encoding="utf-8").lower()
    assert all(word in page for word in ("container", "volume", "several hosts", "worker"))
