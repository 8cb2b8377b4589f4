"""`paygent users`: who costs how much, in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.samples import DAY_US, NOON_US, PRODUCT, batch_of, make_event
from typer.testing import CliRunner

from paygent import Paygent
from paygent.cli import users
from paygent.cli.app import app
from paygent.cli.options import CommandError, Format
from paygent.core.messages import AssignRecord, Batch, DefaultPlanRecord
from paygent.core.period import Subscription
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.store.sqlite import SqliteStore

Show = Callable[..., str]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store with five users: on plans, with a period of their own, and idle ones."""
    path = str(tmp_path / "local.db")
    store = SqliteStore(path)
    start_us, end_us = NOON_US - 5 * DAY_US, NOON_US + 2 * DAY_US
    week = Subscription(start_us, end_us)
    ended = Subscription(start_us - DAY_US, start_us, "none")
    own = plan_to_json(PlanConfig(max_spend_per_period=1))
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a", user_id="ann", cost_tokens_nano=5_000_000),
            make_event("b", user_id="bob\x1b[31m", cost_tokens_nano=1_250_450_000),
            make_event("c", user_id="cyd", period_start_us=start_us, at_us=NOON_US - 3 * DAY_US),
            make_event("d", user_id="old", at_us=NOON_US - 40 * DAY_US, period_start_us=0),
            records=(
                AssignRecord("ann", "pro", None, None, NOON_US),
                AssignRecord("cyd", "pro", own, week, NOON_US),
                AssignRecord("zoe", "gold", None, ended, NOON_US),
            ),
        ),
    )
    store.close()
    return path


@pytest.fixture
def show(path: str, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run the command at noon; return what it prints."""

    def run(
        output_format: Format = Format.TABLE, users_max: int = 20, product: str = PRODUCT
    ) -> str:
        status = users.run(path, product, {}, users_max, output_format, NOON_US)
        assert status == 0
        return capsys.readouterr().out

    return run


def test_users__in_a_pipe__are_aligned_dearest_first(show: Show) -> None:
    """Plan, calls and cost of the month, cost of the period, and the last activity."""
    assert show().splitlines() == [
        "user         plan       calls       cost  period cost  last active, UTC",
        "bob\\x1b[31m  default        1   $1.25045     $1.25045  2024-10-04 12:00",
        "ann          pro            1     $0.005       $0.005  2024-10-04 12:00",
        "cyd          pro (own)      1  $0.000001    $0.000001  2024-10-01 12:00",
        "old          default        0      $0.00        $0.00  2024-08-25 12:00",
        "zoe          gold           0      $0.00        $0.00                 -",
        "calls and cost: 2024-10 (UTC); period cost: in the user's current billing period",
    ]


def test_users__without_a_plan__are_on_the_default_plan(path: str, show: Show) -> None:
    """A reader need not know how the application was started."""
    store = SqliteStore(path)
    store.ingest(PRODUCT, Batch(records=(DefaultPlanRecord("free", NOON_US),), at_us=NOON_US))
    store.close()
    assert "free (default)" in show().splitlines()[1]
    document = json.loads(show(Format.JSON))
    assert (document["default_plan"], document["users"][0]["plan"]) == ("free", None)


def test_users__with_a_limit__says_that_there_are_more(show: Show) -> None:
    """The list is cut after the dearest users, which is not hidden."""
    lines = show(users_max=2).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["bob\\x1b[31m", "ann"]
    assert lines[-1].endswith("there are more users: --limit lists them")
    assert "--limit" not in show(users_max=5)


def test_users__as_csv__have_a_column_for_each_field(show: Show) -> None:
    """A spreadsheet gets dollars and exact nano-dollars."""
    rows = list(csv.DictReader(io.StringIO(show(Format.CSV))))
    assert [row["user_id"] for row in rows] == ["bob\\x1b[31m", "ann", "cyd", "old", "zoe"]
    assert rows[1] == {
        "user_id": "ann",
        "plan": "pro",
        "has_own_plan": "False",
        "calls": "1",
        "cost": "0.005",
        "cost_nano": "5000000",
        "period_start": "2024-10-01T00:00:00+00:00",
        "period_end": "2024-11-01T00:00:00+00:00",
        "period_cost": "0.005",
        "period_cost_nano": "5000000",
        "last_active": "2024-10-04T12:00:00+00:00",
    }


def test_users__as_json__keep_their_ids_and_periods(show: Show) -> None:
    """A program gets ids as they are, null where there is nothing, and the span of the figures."""
    document = json.loads(show(Format.JSON, users_max=4))
    rows = {row["user_id"]: row for row in document.pop("users")}
    assert document == {
        "product": PRODUCT,
        "from": "2024-10-01",
        "to": "2024-11-01",
        "default_plan": "default",
        "has_more": True,
    }
    assert list(rows) == ["bob\x1b[31m", "ann", "cyd", "old"]
    assert rows["bob\x1b[31m"]["plan"] is None
    cyd = rows["cyd"]
    assert (cyd["has_own_plan"], cyd["period_cost_nano"]) == (True, 1_000)
    assert cyd["period_start"] == "2024-09-29T12:00:00+00:00"
    document = json.loads(show(Format.JSON))
    zoe = document["users"][-1]
    assert (zoe["period_start"], zoe["period_cost"], zoe["last_active"]) == (None, 0.0, None)
    assert document["has_more"] is False


def test_users__of_a_product_without_any__is_a_finding(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt product is not an empty success; the machine formats stay valid."""
    with pytest.raises(CommandError, match=r"no user of product 'other'.*--product, --db"):
        users.run(path, "other", {}, 20, Format.TABLE, NOON_US)
    assert users.run(path, "other", {}, 20, Format.JSON, NOON_US) == 0
    assert json.loads(capsys.readouterr().out)["users"] == []
    assert users.run(path, "other", {}, 20, Format.CSV, NOON_US) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_users__more_than_one_portion__are_all_listed(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users are read in portions, without a gap between them."""
    whole = show()
    monkeypatch.setattr(users, "_QUESTIONS_MAX", 2)
    assert show() == whole


def test_users__beside_a_running_application__are_listed_by_the_command(
    init: Callable[..., Paygent], db_path: str
) -> None:
    """The command reads the application's store, and finds it by the application's settings."""
    pg = init()
    pg.record_event("ann", cost="0.5")
    pg.flush()
    result = CliRunner().invoke(app, ["users"], env={"PAYGENT_DB_PATH": db_path})
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:5] == ["ann", "default", "1", "$0.50", "$0.50"]
