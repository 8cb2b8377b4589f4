"""The documentation is executed and checked: examples print what they claim, paths exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.promises.scripts import run

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/guide").glob("*.md")),
]
_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.M | re.S)

BUILT_LATER: tuple[str, ...] = ()
"""Paths of the flow table that are not built yet."""


def blocks(page: str) -> tuple[str, str]:
    """Return a page's Python blocks as one program, and the output it shows."""
    fenced = _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    code = "\n".join(text for kind, text in fenced if kind == "python")
    return code, "".join(text for kind, text in fenced if kind == "text")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)[0]])
def test_docs__the_examples_of_a_page__run_and_print_what_it_shows(
    page: str, tmp_path: Path
) -> None:
    """Every Python block of a page runs, in order, in one process with an empty home."""
    code, expected = blocks(page)
    out, _ = run(code, HOME=str(tmp_path))
    assert out == expected


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
