"""`paygent plans list`: every plan in use, whether it was configured or not."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import NOON_US, PRODUCT, batch_of, make_event

from paygent.cli import plans
from paygent.cli.options import CommandError, Format
from paygent.core.messages import (
    MISSING_USER_ID,
    AssignRecord,
    Batch,
    DefaultPlanRecord,
    PlanRecord,
)
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.store.sqlite import SqliteStore

Show = Callable[..., str]


def plan_record(name: str, **fields: Any) -> PlanRecord:
    """Return the record of a configured plan."""
    return PlanRecord(name, plan_to_json(PlanConfig(**fields)), NOON_US)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store with configured plans, one of a newer version, and users on others."""
    path = str(tmp_path / "local.db")
    store = SqliteStore(path)
    pro = {"max_spend_per_period": 25, "model_limits": {"gpt-4o": 50_000}}
    newer = PlanRecord("newer", {"max_spend_per_century": "1"}, NOON_US)
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a"),
            make_event("b", user_id="eve", plan="default"),
            make_event("c", user_id=MISSING_USER_ID, plan="default"),
            records=(
                plan_record("pro", max_spend_per_period=20),
                plan_record("free"),
                newer,
                AssignRecord("ann", "pro", None, None, NOON_US),
                AssignRecord("bob", "gold", None, None, NOON_US),
            ),
        ),
    )
    later = plan_record("pro", price="49.5", **pro)._replace(at_us=NOON_US + 1)
    store.ingest(PRODUCT, Batch(records=(later,), at_us=NOON_US))
    store.close()
    return path


@pytest.fixture
def show(path: str, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run the command at noon; return what it prints."""

    def run(output_format: Format = Format.TABLE, product: str = PRODUCT) -> str:
        assert plans.run(path, product, {}, output_format, NOON_US) == 0
        return capsys.readouterr().out

    return run


def test_plans_list__in_a_pipe__has_a_line_for_each_plan_in_use(show: Show) -> None:
    """The newest version, users and limits; plans without limits or configuration are visible."""
    unknown = "max_spend_per_century = '1': is not a field of a plan"
    assert show().splitlines() == [
        "plan     version  users  active 30 d   price  limits",
        "default        -      1            1       -  not configured: no limits",
        "free           1      0            0       -  no limits",
        "gold           -      1            0       -  not configured: no limits",
        f"newer          1      0            0       -  unreadable: {unknown}",
        "pro            2      1            1  $49.50  $25.00 per period; "
        "50,000 tokens of gpt-4o per period",
        "1 user has no assigned plan and the default plan, 'default'",
    ]


def test_plans_list__another_default_plan__has_the_users_without_one(path: str, show: Show) -> None:
    """They count to it, whether it is configured or not."""
    store = SqliteStore(path)
    for plan, line in (
        ("gold", "gold - 2 0 - not configured: no limits"),
        ("starter", "starter - 1 0 - not configured: no limits"),
    ):
        at_us = NOON_US + len(plan)
        store.ingest(PRODUCT, Batch(records=(DefaultPlanRecord(plan, at_us),), at_us=NOON_US))
        lines = [" ".join(each.split()) for each in show().splitlines()]
        assert line in lines
        assert lines[-1] == f"1 user has no assigned plan and the default plan, '{plan}'"
    assert json.loads(show(Format.JSON))["default_plan"] == "starter"
    store.close()


def test_plans_list__as_csv_and_json__have_the_same_figures(show: Show) -> None:
    """Both have a record for each plan; JSON also counts the users without one."""
    rows = list(csv.DictReader(io.StringIO(show(Format.CSV))))
    document = json.loads(show(Format.JSON))
    assert (document["product"], document["users_without_plan"]) == (PRODUCT, 1)
    assert [row["name"] for row in rows] == [plan["name"] for plan in document["plans"]]
    assert rows[-1]["price"] == "49.5"
    assert document["plans"][-1] == {
        "name": "pro",
        "version": 2,
        "is_configured": True,
        "users": 1,
        "active_users": 1,
        "price": 49.5,
        "limits": "$25.00 per period; 50,000 tokens of gpt-4o per period",
    }
    default = document["plans"][0]
    assert (default["version"], default["is_configured"], default["users"]) == (None, False, 1)


def test_plans_list__of_a_product_without_any__is_a_finding(path: str, show: Show) -> None:
    """A misspelt product is not an empty success; the machine formats stay valid."""
    with pytest.raises(CommandError, match=r"no plan of product 'other'.*configure_plan"):
        plans.run(path, "other", {}, Format.TABLE, NOON_US)
    assert json.loads(show(Format.JSON, "other"))["plans"] == []
    assert show(Format.CSV, "other").count("\n") == 1
