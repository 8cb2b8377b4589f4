"""How pages are read: what a mistake in here would hide from every test of the documentation."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import (
    blocks,
    commands,
    files,
    in_order,
    normalised,
    output,
    outputs,
    program,
)

PAGE = """# A page

```python
x = 1
```

```text
1
```

```sh
PAYGENT_DB_PATH=a.db paygent users --limit 5 | head   # the dearest
pip install . && paygent doctor
```

```python
raise ValueError(x)
```
"""


def test_program__the_blocks_of_a_page__keep_their_lines() -> None:
    """A traceback and a type checker name the line of the page."""
    lines = program(PAGE).splitlines()
    assert {number: line for number, line in enumerate(lines, 1) if line} == {
        4: "x = 1",
        17: "raise ValueError(x)",
    }


def test_program__a_page_without_python__is_empty() -> None:
    """Such a page is not run."""
    assert program("# A page\n\n```sh\nmake\n```\n") == ""


def test_files__blocks_with_a_name__are_no_part_of_the_program() -> None:
    """A file is run by the page's commands, and what it prints is not what the program prints."""
    page = PAGE + "\n```python x.py\ny = 2\n```\n\n```text x.py\n2\n```\n"
    assert (files(page), outputs(page)) == ({"x.py": "y = 2\n"}, {"x.py": "2\n"})
    assert program(page) == program(PAGE)
    assert (output(page), blocks(page, "sh")) == ("1\n", blocks(PAGE, "sh"))


def test_blocks__of_one_kind__are_found_alone() -> None:
    """Output is not taken for code, nor the other way round."""
    assert output(PAGE) == "1\n"
    assert len(blocks(PAGE, "python")) == 2
    assert blocks(PAGE, "toml") == []


def test_commands__in_a_line_with_variables_pipes_and_others__are_found() -> None:
    """Each `paygent` of a shell block is checked, without what is around it."""
    assert list(commands(PAGE)) == [["users", "--limit", "5"], ["doctor"]]


def test_commands__beside_quotes_that_span_lines__are_found() -> None:
    """Only the words of `paygent` are read; JSON in a `curl` may have lines of its own."""
    page = "```sh\ncurl --json '{\n  \"a\": 1\n}' | cat\npaygent\npaygent-other x\n```\n"
    assert list(commands(page)) == [[]]


def test_normalised__dates_times_and_ids__are_replaced_and_figures_stay() -> None:
    """Two runs of a program compare equal, and two amounts never do by accident."""
    shown = "2026-12-01 00:00 UTC 09:05:59.123 01a2116b-2126-7f5a-aaff-77a6a8b18f4d $0.000450 1:2"
    assert normalised(shown) == "<date> <time> UTC <time> <id> $0.000450 1:2"


def test_in_order__links_of_an_index__are_pages_once_and_in_order(tmp_path: Path) -> None:
    """Anchors belong to their page, and addresses are no pages."""
    index = tmp_path / "index.md"
    index.write_text("[b](b.md) [a](../a.md#x) [b](b.md#y) [w](https://x.y/z.md)", encoding="utf-8")
    assert in_order(index) == [(tmp_path / "b.md").resolve(), (tmp_path / "../a.md").resolve()]
