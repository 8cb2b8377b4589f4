"""The catalogue of log messages: complete, and written as sentences."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from paygent.core.notices import Notice, Step

SOURCE = Path(__file__).parents[3] / "src" / "paygent"
GUARDS = {"attempt", "guard", "isolate", "isolate_async", "record_error"}


def literal_kinds() -> Iterator[tuple[str, str]]:
    """The kinds that are written where a guard is used, with their place."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = node.func
            name = getattr(function, "attr", None) or getattr(function, "id", "")
            kind = node.args[0]
            if isinstance(kind, ast.JoinedStr):
                kind = kind.values[0]
            if name in GUARDS and isinstance(kind, ast.Constant):
                yield f"{path.name}:{node.lineno}", str(kind.value)


def test_step__every_kind_that_a_guard_is_given__is_in_the_catalogue() -> None:
    """The keys of `health()` are a closed set, but for their subjects."""
    kinds = list(literal_kinds())
    assert len(kinds) > 50
    steps = {step.value for step in Step}
    unknown = [(place, kind) for place, kind in kinds if kind.split(":")[0] not in steps]
    assert unknown == []


def test_step__a_kind_that_no_guard_uses__is_not_kept() -> None:
    """The catalogue does not outlive the code."""
    paths = [path for path in SOURCE.rglob("*.py") if path.name != "notices.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    unused = [
        step.value
        for step in Step
        if not any(f'"{step.value}{end}' in source for end in ('"', ":"))
    ]
    assert unused == []


def test_notice__a_message_that_nothing_logs__is_not_kept() -> None:
    """The same for messages."""
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    assert [notice.name for notice in Notice if f"Notice.{notice.name}" not in source] == []


@pytest.mark.parametrize("notice", Notice, ids=lambda notice: notice.name)
def test_notice__its_text__is_a_sentence(notice: Notice) -> None:
    """It starts with a capital, a name or a value, and ends with a full stop, or is a value."""
    if notice.text == "%s":
        return
    assert notice.text.endswith((".", ")."))
    assert notice.text[0].isupper() or notice.text.startswith(("%s", "litellm."))
    assert notice.kind == notice.kind.lower()
