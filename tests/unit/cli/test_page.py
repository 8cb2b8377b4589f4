"""The guide to the command line shows what the commands print."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paygent import Paygent, PlanConfig
from paygent.cli.app import app

_PAGE = Path(__file__).parents[3] / "docs" / "guide" / "command-line.md"
_SHOWN = re.findall(
    r"^```sh\npaygent ([^\n]*)\n```\n\n```\n(.*?)^```$", _PAGE.read_text("utf-8"), re.M | re.S
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d\.\d+\+00:00)?")
_FIGURE = re.compile(r"\d[\d.,/-]*")


@pytest.fixture
def _store(init: Callable[..., Paygent], db_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of the page: four users, of whom one is on a plan that was never configured."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1))
    limits = PlanConfig(price=49, max_spend_per_period=25, model_limits={"gpt-4o": 50_000})
    pg.configure_plan("pro", limits)
    with pytest.warns(UserWarning):
        pg.configure_plan("team", PlanConfig(model_limits={"gpt4o": 50_000}))
    for user_id, plan in (("ann", "pro"), ("bob", "pro")):
        pg.assign_plan(user_id, plan)
    with pytest.warns(UserWarning):
        pg.assign_plan("eve", "gold")
    pg.record_event("ann", model="gpt-4o", input_tokens=1_200_000, output_tokens=90_000)
    pg.record_event("ann", cost="0.25")
    pg.record_event("bob", cost="1.5")
    pg.record_event("dan", model="gpt-4o-mini", input_tokens=20_000, output_tokens=3_000)
    pg.shutdown()
    monkeypatch.setenv("PAYGENT_DB_PATH", db_path)


def comparable(text: str, command: str) -> list[str]:
    """Return lines without what differs by machine, month or release."""
    text = re.sub(r"/\S*/(?=python|paygent|local\.db)", "/…/", _MOMENT.sub("(moment)", text))
    text = re.sub(r"\d{4}-\d\d(-01)?\b", "(month)", text)
    text = re.sub(r"/python[\d.]+$", "/python", text, flags=re.M)
    text = re.sub(r"~[0-9a-f]{8}", "~(digest)", text)
    if command.startswith(("doctor", "prices")):  # versions and prices
        text = _FIGURE.sub("0", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_page__its_commands__are_found() -> None:
    """The test below has something to check."""
    assert [command.split()[0] for command, _ in _SHOWN] == [
        "doctor",
        "users",
        "users",
        "plans",
        "prices",
        "prices",
    ]


@pytest.mark.usefixtures("_store", "steady_machine")
@pytest.mark.parametrize(("command", "shown"), _SHOWN, ids=[command for command, _ in _SHOWN])
def test_page__a_command__prints_what_the_page_shows(command: str, shown: str) -> None:
    """Somebody who follows the guide sees the same lines."""
    result = CliRunner().invoke(app, command.split())
    assert comparable(result.output, command) == comparable(shown, command)
