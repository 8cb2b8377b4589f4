"""The configuration page is complete and describes the code as it is."""

from __future__ import annotations

import pytest
from tests.docs.configuration import (
    PAGE,
    VARIABLES,
    described,
    tables,
    variables_in,
    with_tables,
)
from tests.docs.pages import ROOT


def test_configuration__the_page__has_the_tables_of_the_code() -> None:
    """Names, defaults and meanings follow the code; `make docs` writes them."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run `make docs`"


def test_configuration__every_environment_variable__is_described() -> None:
    """A variable that the code reads is in the table, and no other is."""
    mentioned = variables_in(ROOT / "src" / "paygent")
    assert sorted(mentioned) == sorted({*VARIABLES, *(n for n in mentioned if n.endswith("_"))})


@pytest.mark.parametrize("name", [name for name in tables() if name != "environment"])
def test_configuration__every_argument__has_a_meaning(name: str) -> None:
    """No cell of a table is empty, and no meaning is a fragment."""
    lines = tables()[name].splitlines()[2:]
    assert lines
    meanings = [line.rsplit(" | ", 1)[1].removesuffix(" |") for line in lines]
    assert [meaning for meaning in meanings if not meaning.endswith(".")] == []


def test_described__a_section_with_shared_and_wrapped_entries__is_read() -> None:
    """Two names may share a line, and a meaning may take several."""
    docstring = """Do it.

    Args:
        a, b: Two of
            them.
        c: One.

    Returns:
        Nothing: at all.
    """
    assert described(docstring, "Args") == {"a": "Two of them.", "b": "Two of them.", "c": "One."}


def test_with_tables__a_page_without_a_place__is_rejected() -> None:
    """A table must not disappear from the page in silence."""
    with pytest.raises(ValueError, match=r"no place for the table Paygent\.init"):
        with_tables("# Configuration\n")
