"""The tables of docs/guide/configuration.md, made from the code: signatures for names, types and
defaults, docstrings for meanings. `python -m tests.docs.configuration` (`make docs`) writes them.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from tests.docs.pages import ROOT

from paygent import (
    BillingPeriod,
    Limit,
    ModelCostRate,
    ModelLimitConfig,
    Paygent,
    PlanConfig,
    ProviderConfig,
)

PAGE = ROOT / "docs/guide/configuration.md"

VARIABLES = {
    "PAYGENT_API_KEY": ("none", "`init(api_key=…)`: key of a backend's product."),
    "PAYGENT_BASE_URL": ("`http://127.0.0.1:8790`", "`init(base_url=…)`: address of the backend."),
    "PAYGENT_DATABASE_URL": (
        "`~/.paygent/server.db`",
        "`--database-url`: a server's database, `sqlite:///PATH` or `postgresql://…`, for `paygent"
        " serve` and the commands about it. Applications do not use it.",
    ),
    "PAYGENT_DB_PATH": (
        "`~/.paygent/local.db`",
        "`init(db_path=…)`: file of the local store, or `:memory:`. The commands read it too.",
    ),
    "PAYGENT_PRODUCT": (
        "`default`",
        "The product in local mode and of the commands: two applications with two names have"
        " separate plans, users and spend in one file. Letters, digits, `.`, `_` and `-`, at most"
        " 255.",
    ),
    "PAYGENT_DISABLED": (
        "off",
        "`1`, `true`, `yes` or `on` turns everything off: no patch, no file, no thread, no limit.",
    ),
    "PAYGENT_STREAM_USAGE_HOSTS": (
        "none",
        "Further hosts, separated by commas, that accept `stream_options.include_usage`, so that"
        " the usage of their streams is requested.",
    ),
}
"""Default and meaning of each environment variable; a test finds a missing one."""


def described(docstring: str, section: str) -> dict[str, str]:
    """Return the entries of a section of a docstring, "Args" or "Attributes": name -> meaning.

    Raises:
        ValueError: if the docstring has no such section.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    body = lines[lines.index(f"{section}:") + 1 :]
    end = next((at for at, line in enumerate(body) if line and not line.startswith(" ")), len(body))
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent("\n".join(body[:end])).splitlines():
        entry = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            entries |= dict.fromkeys(names, entry[2])
        elif line.strip():
            entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return entries


def shown_default(value: Any) -> str:
    """Return a default as a reader writes it; "" for a required argument."""
    if value is inspect.Parameter.empty:
        return "required"
    if repr(value) == "<factory>":
        return "`{}`"
    return f"`{value!r}`"


def shown_type(target: Any, parameter: inspect.Parameter) -> str:
    """Return the type of an argument as written, and a named set of strings by its strings."""
    written = str(parameter.annotation)
    named = getattr(sys.modules[target.__module__], written, None)
    return " | ".join(map(repr, get_args(named))) if get_origin(named) is Literal else written


def rows(target: Callable[..., Any], section: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and meaning of each argument of a function or value type."""
    meanings = described(inspect.getdoc(target) or "", section)
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            kind = f"`{shown_type(target, parameter)}`"
            yield f"`{name}`", kind, shown_default(parameter.default), meanings[name]


def table(header: tuple[str, ...], lines: Iterator[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    cells = [header, tuple("---" for _ in header), *lines]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def tables() -> dict[str, str]:
    """Return the tables of the page by the names of their places."""
    fields = ("field", "type", "default", "meaning")
    variables = ((f"`{name}`", *entry) for name, entry in VARIABLES.items())
    types = (PlanConfig, Limit, ModelLimitConfig, ModelCostRate, BillingPeriod, ProviderConfig)
    return {
        "Paygent.init": table(("argument", *fields[1:]), rows(Paygent.init, "Args")),
        "environment": table(("variable", "default", "meaning"), variables),
        **{kind.__name__: table(fields, rows(kind, "Attributes")) for kind in types},
    }


def with_tables(page: str) -> str:
    """Return the page with its tables as they should be.

    Raises:
        ValueError: if the page lacks the place of a table.
    """
    for name, content in tables().items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        if not begin or not end:
            raise ValueError(f"{PAGE.name} has no place for the table {name}")
        page = f"{before}{begin}{content}{end}{after}"
    return page


def variables_in(folder: Path) -> set[str]:
    """Return the names of Paygent's environment variables that a folder's code mentions."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"PAYGENT_[A-Z_]+", text))
    return found


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
