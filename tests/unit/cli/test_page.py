"""The guide to the command line shows what the commands print."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.samples import batch_of, make_event
from typer.testing import CliRunner

from paygent import Paygent, PlanConfig
from paygent.cli.app import app
from paygent.cli.first_start import make_first_keys
from paygent.core.plan_json import plan_to_json
from paygent.store.factory import open_store

_PAGE = Path(__file__).parents[3] / "docs" / "guide" / "command-line.md"
_OF_APPLICATION, _, _OF_SERVER = _PAGE.read_text("utf-8").partition("## `paygent serve`")
_BLOCK = re.compile(r"^```sh\n((?:paygent [^\n]*\n)+)```\n\n```\n(.*?)^```$", re.M | re.S)
_SHOWN = [
    (commands.removeprefix("paygent ").rstrip(), shown)
    for commands, shown in _BLOCK.findall(_OF_APPLICATION)
]
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


@pytest.fixture
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's database of the page, and a file with its plans, of which one is changed."""
    (tmp_path / ".paygent").mkdir()
    store = open_store(f"sqlite:///{tmp_path}/.paygent/server.db")
    make_first_keys(store)
    pro = PlanConfig(price=49, max_spend_per_period=25, model_limits={"gpt-4o": 50_000})
    plans = {"default": PlanConfig(max_spend_per_period=1), "pro": pro}
    store.put_plans("default", {name: plan_to_json(plan) for name, plan in plans.items()})
    store.add_user("default", "ann", None)
    store.subscribe("default", "ann", "pro", None)
    use = {"input_tokens": 1_000, "output_tokens": 500, "cost_tokens_nano": 4_150_000_000}
    store.ingest("default", batch_of(make_event("a", at_us=time.time_ns() // 1_000, **use)))
    store.close()
    (tmp_path / "plans.toml").write_text(
        "[plans.default]\nmax_spend_per_period = 1\n[plans.pro]\nprice = 49\n"
        'max_spend_per_period = 30\n[plans.pro.model_limits]\n"gpt-4o" = 50_000\n'
    )
    (tmp_path / "bad.toml").write_text("[plans.pro]\nprise = 3\nsoft_gate_at = 2\n")
    monkeypatch.chdir(tmp_path)


def comparable(text: str, command: str) -> list[str]:
    """Return lines without what differs by machine, month or release."""
    text = re.sub(
        r"/\S*/(?=python|paygent|(?:local|server)\.db)", "/…/", _MOMENT.sub("(moment)", text)
    )
    text = re.sub(r"\d{4}-\d\d(-01)?\b", "(month)", text)
    text = re.sub(r"/python[\d.]+$", "/python", text, flags=re.M)
    text = re.sub(r"~[0-9a-f]{8}", "~(digest)", text)
    text = re.sub(
        r"\bkey_\w+", "key_(id)", re.sub(r"(pg_live_default_)\S{4}…", r"\1(start)…", text)
    )
    if command.startswith(("doctor", "prices")):  # versions and prices
        text = _FIGURE.sub("0", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_page__its_commands__are_found() -> None:
    """The test below has something to check."""
    assert [command.split()[0] for command, _ in _SHOWN] == [
        "doctor",
        "users",
        "users",
        "report",
        "report",
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


@pytest.mark.usefixtures("_server")
def test_page__commands_of_a_server__print_what_the_page_shows() -> None:
    """In the order of the page: what is applied first is shown later."""
    blocks = _BLOCK.findall(_OF_SERVER)
    assert [commands.split()[1] for commands, _ in blocks] == ["plans", "users", "keys", "audit"]
    for commands, shown in blocks:
        results = [
            CliRunner().invoke(app, command.split()[1:]) for command in commands.splitlines()
        ]
        assert [result.exit_code for result in results] == [0] * len(results)
        assert comparable(results[-1].output, "") == comparable(shown, "")


@pytest.mark.usefixtures("_server")
def test_page__a_file_with_mistakes__is_answered_as_the_page_shows() -> None:
    """The rules as a table, and their number."""
    result = CliRunner().invoke(app, ["plans", "validate", "bad.toml"])
    assert result.exit_code == 1
    (shown,) = re.findall(r"^```\n(field .*?)^```$", _OF_SERVER, re.M | re.S)
    assert comparable(result.output, "") == comparable(shown, "")
