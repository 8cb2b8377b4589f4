"""The command line: its arguments and exit statuses."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from paygent.cli import demo
from paygent.cli.app import app


@pytest.fixture
def demo_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record runs of the demo instead of running it."""
    runs: list[str] = []
    monkeypatch.setattr(demo, "main", lambda: runs.append("demo"))
    return runs


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--local"]])
def test_demo__with_or_without_its_mode__runs(demo_runs: list[str], arguments: list[str]) -> None:
    """The demo runs by name, and `--local` selects the only mode."""
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, demo_runs) == (0, ["demo"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "Usage"),
        (["dmeo"], "dmeo"),
        (["demo", "--remote"], "--remote"),
        (["demo", "please"], "please"),
    ],
)
def test_app__wrong_usage__exits_with_2_and_names_the_error(
    demo_runs: list[str], arguments: list[str], named: str
) -> None:
    """A usage error exits with 2, names the wrong argument, and runs nothing."""
    result = CliRunner().invoke(app, arguments, env={"NO_COLOR": "1", "TERM": "dumb"})
    assert (result.exit_code, demo_runs) == (2, [])
    assert named in result.output


def test_app__asked_for_help__lists_the_commands() -> None:
    """`--help` exits with 0 and lists the commands."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output


def test_demo__without_the_sdks__prints_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the provider SDKs the command prints a sentence and exits with 2, no traceback."""
    monkeypatch.delattr("paygent.cli.demo")
    for name in ("paygent.cli.demo", "paygent.cli.demo_story.story", "openai"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("paygent.cli.demo_story.story", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 2
    assert 'openai is missing: pip install ".[demo]"' in result.output
