"""`paygent users show`, `add`, `assign`, `pause`, `resume` and `erase`."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from tests.contract.samples import NOON_US, PERIOD_SPEND, batch_of, make_event
from tests.unit.cli.conftest import invoke, on_terminal

from paygent import PlanConfig
from paygent.cli import user_admin
from paygent.cli.user_admin import UserPlace
from paygent.core.period import Subscription, to_us
from paygent.core.plan_json import plan_to_json
from paygent.store.directory_port import Override, UserChange
from paygent.store.ledger import SqlStore


@pytest.fixture
def acme(ledger: SqlStore) -> SqlStore:
    """A ledger with plan `pro` and user `ann`, who has spent $0.000001."""
    ledger.put_plans("acme", {"pro": plan_to_json(PlanConfig(max_spend_per_period=25))})
    ledger.ingest("acme", batch_of(make_event("a")))
    return ledger


def facts(store: SqlStore, capsys: pytest.CaptureFixture[str], url: str) -> dict[str, str]:
    """Return what `show` prints at noon, by label."""
    assert user_admin.show(UserPlace("ann", url, None, {}), NOON_US) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:14].strip(): line[14:] for line in lines}


def test_show__a_user__has_plan_period_and_spend(
    acme: SqlStore, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an assignment it is the default plan and the calendar month."""
    found = facts(acme, capsys, database_url)
    assert found.pop("created")
    assert found == {
        "user": "ann",
        "plan": "default (not assigned)",
        "period": "2024-10-01 00:00 to 2024-11-01 00:00, UTC",
        "spent": "$0.000001 in this period",
        "last call": "2024-10-04 12:00, UTC",
    }


def test_show__what_an_operator_set__is_shown(
    acme: SqlStore, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plan, period, pause and overrides."""
    acme.subscribe("acme", "ann", "pro", None)
    values = {"paused": True, "paused_reason": "chargeback", "sdk_enabled": False, "name": "Ann"}
    acme.change_user("acme", "ann", UserChange(values))
    until_us = to_us(datetime(2099, 1, 1, tzinfo=timezone.utc))
    for cap, added, reason in ((30 * 10**9, None, "goodwill"), (None, 10**9, None)):
        override = Override("", "ann", PERIOD_SPEND, cap, added, until_us, reason, 0)
        acme.add_override("acme", override)
    assert user_admin.show(UserPlace("ann", database_url, None, {}), NOON_US) == 0
    out = capsys.readouterr().out
    for line in (
        "name          Ann",
        "plan          pro",
        "limit         $30.00 per period, used $0.000001",
        "override      spend per period is $30.00 until 2099-01-01 00:00, UTC (goodwill)",
        "override      spend per period plus $1.00 until 2099-01-01 00:00, UTC",
        "paused        chargeback",
        "metering      off: calls are neither metered nor limited",
    ):
        assert line in out.splitlines()


def test_show__a_limit_at_its_pace__has_the_time_when_it_is_reached(
    acme: SqlStore, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """$20 in three and a half days: $25 in four and three eighths."""
    acme.subscribe("acme", "ann", "pro", None)
    with acme.engine.transaction("acme", writes=True) as sql:
        sql.connection.execute("UPDATE users SET created_us = 0")
    cost_nano = 20 * 10**9 - 1_000  # the rest is there
    acme.ingest("acme", batch_of(make_event("dear", cost_tokens_nano=cost_nano)))
    found = facts(acme, capsys, database_url)
    assert found["limit"] == (
        "$25.00 per period, used $20.00, reached 2024-10-05 09:00 at this pace"
    )
    acme.ingest("acme", batch_of(make_event("last", cost_tokens_nano=5 * 10**9)))
    assert facts(acme, capsys, database_url)["limit"] == "$25.00 per period, used $25.00, reached"


def test_show__after_the_subscription__has_the_default_plan(
    acme: SqlStore, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the gate sees it; the plan that ended is named."""
    acme.subscribe("acme", "ann", "pro", Subscription(NOON_US - 10, NOON_US, "none"))
    plan = facts(acme, capsys, database_url)["plan"]
    assert plan == "default (default, since the subscription of 'pro' has ended)"


@pytest.mark.parametrize(
    "command",
    [["show"], ["assign", "pro"], ["pause"], ["resume"], ["erase", "--yes"]],
    ids=lambda command: command[0],
)
def test_users__an_unknown_user__is_a_finding_and_not_created(
    acme: SqlStore, command: list[str]
) -> None:
    """A misspelt id does not become a user."""
    verb, *rest = command
    status, _, err = invoke("users", verb, "eve", *rest)
    assert (status, "has no user 'eve'" in err) == (1, True)
    assert acme.user("acme", "eve") is None


def test_users__an_id_that_is_none__is_a_usage_error(acme: SqlStore) -> None:
    """The rule of ids is that of the SDK."""
    status, _, err = invoke("users", "show", "x" * 256)
    assert (status, "user_id" in err) == (2, True)


def test_add__a_user__is_created_once(acme: SqlStore) -> None:
    """Before the first call, for an assignment in advance."""
    assert invoke("users", "add", "bob", "--name", "Bob")[:2] == (0, "added user 'bob'\n")
    user = acme.user("acme", "bob")
    assert user is not None
    assert user.name == "Bob"
    status, _, err = invoke("users", "add", "bob")
    assert (status, "a user 'bob' already" in err) == (1, True)


def test_add__with_an_empty_name__is_a_usage_error(acme: SqlStore) -> None:
    """The option is named."""
    status, _, err = invoke("users", "add", "bob", "--name", "")
    assert (status, "--name" in err, acme.user("acme", "bob")) == (2, True, None)


def test_assign__a_plan__without_a_period_has_the_calendar_month(acme: SqlStore) -> None:
    """The usual case needs no dates."""
    status, out, _ = invoke("users", "assign", "ann", "pro")
    user = acme.user("acme", "ann")
    assert user is not None
    assert (status, user.plan, user.subscription) == (0, "pro", None)
    assert out == "user 'ann' has plan 'pro'; billing period: the UTC calendar month\n"


def test_assign__with_a_period__is_in_utc(acme: SqlStore) -> None:
    """Half-open, renewed as given."""
    dates = ["--period-start", "2026-11-05", "--period-end", "2026-12-05T12:00:00"]
    status, out, _ = invoke("users", "assign", "ann", "pro", *dates, "--renews", "none")
    user = acme.user("acme", "ann")
    assert user is not None
    start_us, end_us = 1_793_836_800_000_000, 1_796_472_000_000_000
    assert (status, user.subscription) == (0, Subscription(start_us, end_us, "none"))
    assert "2026-11-05 00:00 to 2026-12-05 12:00, UTC" in out


@pytest.mark.parametrize(
    "options",
    [
        ["--period-start", "2026-11-05"],
        ["--renews", "week"],
        ["--period-start", "2026-11-05", "--period-end", "2026-11-05"],
    ],
)
def test_assign__half_a_period__is_a_usage_error(acme: SqlStore, options: list[str]) -> None:
    """Nothing is assigned."""
    assert invoke("users", "assign", "ann", "pro", *options)[0] == 2
    user = acme.user("acme", "ann")
    assert user is not None
    assert user.plan is None


def test_assign__a_plan_that_is_not_configured__is_refused(acme: SqlStore) -> None:
    """It would have no limits."""
    status, _, err = invoke("users", "assign", "ann", "gold")
    assert (status, "no plan 'gold'; configured: pro" in err) == (1, True)


def test_pause__and_resume__change_the_user(acme: SqlStore) -> None:
    """The reason goes with the pause."""
    assert invoke("users", "pause", "ann", "--reason", "fraud")[0] == 0
    user = acme.user("acme", "ann")
    assert user is not None
    assert (user.paused, user.paused_reason) == (True, "fraud")
    assert invoke("users", "resume", "ann")[:2] == (0, "user 'ann' is not paused any more\n")
    user = acme.user("acme", "ann")
    assert user is not None
    assert (user.paused, user.paused_reason) == (False, None)


def test_resume__a_user_who_is_not_paused__says_that_nothing_changed(acme: SqlStore) -> None:
    """It succeeds, since the user is as wanted; a misspelt id is noticed."""
    before = acme.user("acme", "ann")
    status, out, _ = invoke("users", "resume", "ann")
    assert (status, out) == (0, "user 'ann' was not paused; nothing changed\n")
    assert acme.user("acme", "ann") == before


def test_erase__without_a_terminal__needs_yes(acme: SqlStore) -> None:
    """A script must say that it means it."""
    status, _, err = invoke("users", "erase", "ann")
    assert (status, "--yes" in err) == (2, True)
    assert acme.user("acme", "ann") is not None


def test_erase__confirmed__leaves_the_sums_under_a_pseudonym(acme: SqlStore) -> None:
    """The id is gone."""
    status, out, _ = invoke("users", "erase", "ann", "--yes")
    assert status == 0
    pseudonym = out.split()[-1]
    assert acme.user("acme", "ann") is None
    assert [event.cost_tokens_nano for event in acme.events("acme", pseudonym)] == [1_000]


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1)])
def test_erase__on_a_terminal__asks(
    acme: SqlStore, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    """It cannot be undone."""
    on_terminal(monkeypatch, user_admin)
    assert invoke("users", "erase", "ann", answer=answer)[0] == status
    assert (acme.user("acme", "ann") is None) == (status == 0)


def test_users__options_before_a_command__are_refused() -> None:
    """They would have no effect."""
    status, _, err = invoke("users", "--limit", "3", "list")
    assert (status, "after the command" in err) == (2, True)


def test_list__of_a_server__has_its_users(acme: SqlStore) -> None:
    """`users` and `users list` are the same; `--db` still names an application's file."""
    _, out, _ = invoke("users", "list")
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["user", "ann"]
    assert invoke("users")[1] == out
    status, _, err = invoke("users", "--db", "/none/local.db")
    assert (status, "no store at /none/local.db" in err) == (1, True)
