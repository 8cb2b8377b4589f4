"""The command line: what it takes, and the status that it exits with."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from paygent.cli import demo
from paygent.cli.app import app


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note that the demo was run, in place of running it."""
    seen: list[str] = []
    monkeypatch.setattr(demo, "main", lambda: seen.append("demo"))
    return seen


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--local"]])
def test_demo__with_or_without_its_mode__runs(told: list[str], arguments: list[str]) -> None:
    """The demo runs by its name, and `--local` names the mode that it has anyway."""
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, told) == (0, ["demo"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "Usage"),
        (["dmeo"], "dmeo"),
        (["demo", "--remote"], "--remote"),
        (["demo", "please"], "please"),
    ],
)
def test_app__used_wrongly__exits_with_2_and_says_why(
    told: list[str], arguments: list[str], named: str
) -> None:
    """A usage error has status 2, names what is wrong, and runs nothing."""
    result = CliRunner().invoke(app, arguments, env={"NO_COLOR": "1", "TERM": "dumb"})
    assert (result.exit_code, told) == (2, [])
    assert named in result.output


def test_app__asked_for_help__lists_the_commands() -> None:
    """`--help` is no error and names the commands."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output


def test_demo__without_the_sdks__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the provider SDKs gets a sentence and status 2, no traceback."""
    monkeypatch.delattr("paygent.cli.demo")
    for name in ("paygent.cli.demo", "paygent.cli.demo_story.story", "openai"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("paygent.cli.demo_story.story", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 2
    assert 'openai is missing: pip install ".[demo]"' in result.output
