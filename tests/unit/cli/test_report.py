"""`paygent report`: tables, CSV, JSON and FOCUS of the figures that the store reports."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.samples import MONTH as MONTH_US
from tests.contract.samples import NOON_US, PRODUCT, batch_of, make_event
from tests.contract.test_directory import make_gate_event
from typer.testing import CliRunner

from paygent.cli.app import app
from paygent.core.focus import COLUMNS
from paygent.core.messages import QUARTER_US, PlanRecord, UnmeteredCount
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.report_json import columns_of, margin_columns
from paygent.store.directory_port import RevenueEntry
from paygent.store.sqlite import SqliteStore

Run = Callable[..., tuple[int, str, str]]

MONTH = ("--from", "2024-10-01", "--to", "2024-11-01")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on a store with four events; return status, output and errors."""
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "local.db"
    store = SqliteStore(str(path))
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a", cost_tokens_nano=1_250_000_000, metadata={"team": "x"}),
            make_event("b", model_key="o3", quality="estimated", cached_input_tokens=5),
            make_event("c", user_id="bob", cost_tokens_nano=5_000_000_000, session_id=""),
            make_event("d", user_id="b\x1b\\ob", model_key="", provider=""),
        ),
    )
    store.close()

    def invoke(*arguments: str) -> tuple[int, str, str]:
        given = ["report", *arguments, "--db", str(path), "--product", PRODUCT]
        result = CliRunner().invoke(app, given)
        return result.exit_code, result.stdout, result.stderr

    return invoke


def test_report__without_keys__is_by_user_dearest_first_with_a_total(run: Run) -> None:
    """Figures are grouped by thousands; the last line says what it is about."""
    status, out, err = run(*MONTH)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[:5]] == [
        ["user", "calls", "input", "cached", "output", "cost", "not", "exact"],
        ["bob", "1", "20", "0", "10", "$5.0000", "0"],
        ["ann", "2", "40", "5", "20", "$1.2500", "1"],
        ["b\\x1b\\ob", "1", "20", "0", "10", "$0.0000", "0"],
        ["total", "4", "80", "5", "40", "$6.2500", "1"],
    ]
    assert out.endswith("\nfrom 2024-10-01 00:00 to 2024-11-01 00:00 UTC, days in UTC\n")


def test_report__fewer_rows_than_there_are__say_so_below_the_whole_total(run: Run) -> None:
    """The total is never that of a page."""
    _, out, _ = run(*MONTH, "--limit", "1", "--by", "model,period")
    lines = out.splitlines()
    assert lines[1].split()[:4] == ["gpt-4o", "2024-10-01", "00:00", "2"]
    assert lines[2].split()[:2] == ["total", "4"]
    assert lines[-1].endswith("; 1 rows shown, --limit shows more")


def test_report__usage_without_a_key__is_named_as_such(run: Run) -> None:
    """An event without a model, and usage without a tag."""
    _, out, _ = run(*MONTH, "--by", "model,tag:team", "--sort", "calls")
    rows = [line.split()[:2] for line in out.splitlines()[1:-3]]
    assert rows == [["(none)", "(none)"], ["gpt-4o", "(none)"], ["gpt-4o", "x"], ["o3", "(none)"]]


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (("--user", "ann"), 2),
        (("--model", "gpt-4o"), 2),
        (("--model", ""), 1),
        (("--provider", "openai"), 3),
        (("--plan", "default"), 4),
        (("--session", "s1"), 3),
        (("--tag", "team=x"), 1),
        (("--tag", "team=", "--tag", "other="), 3),
    ],
)
def test_report__filters__limit_rows_and_total(
    run: Run, options: tuple[str, ...], calls: int
) -> None:
    """Each option is one of REST."""
    status, out, _ = run(*MONTH, *options, "--format", "json")
    document = json.loads(out)
    assert (status, document["total"]["calls"]) == (0, calls)
    assert sum(row["calls"] for row in document["rows"]) == calls


def test_report__as_csv__has_the_columns_of_rest_and_all_rows(run: Run) -> None:
    """Control characters are escaped; a limit is one of rows."""
    _, out, _ = run(*MONTH, "--format", "csv", "--by", "user,model")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == list(columns_of(("user", "model")))
    assert [row["user"] for row in rows] == ["bob", "ann", "ann", "b\\x1b\\\\ob"]
    assert (rows[0]["cost"], rows[0]["cost_nano"], rows[3]["model"]) == ("5.0", "5000000000", "")
    _, out, _ = run(*MONTH, "--format", "csv", "--limit", "2")
    assert len(out.splitlines()) == 3


def test_report__as_json__is_the_answer_of_rest(run: Run) -> None:
    """With every row, and without a cursor."""
    _, out, _ = run(*MONTH, "--format", "json", "--by", "day")
    document = json.loads(out)
    assert (document["report"], document["by"], document["next_cursor"]) == ("spend", ["day"], None)
    assert [row["day"] for row in document["rows"]] == ["2024-10-04"]


def test_report__as_focus__has_a_row_a_day_user_and_model(run: Run) -> None:
    """Costs add up exactly."""
    status, out, _ = run(*MONTH, "--format", "focus")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert tuple(rows[0]) == COLUMNS
    assert sum(round(float(row["BilledCost"]) * 1e9) for row in rows) == 6_250_002_000
    assert {row["SubAccountId"] for row in rows} == {"ann", "b\x1b\\ob", "bob"}
    users = {json.loads(row["Tags"])["paygent/user"] for row in rows}
    assert users == {row["SubAccountId"] for row in rows}  # what programs read is not escaped


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--by", "colour"), "--by = 'colour': must be one or two of user, model"),
        (("--limit", "0"), "--limit = 0: must be at least 1"),
        (("--from", "x"), "--from = 'x': must be a day"),
        (("--to", "x"), "--to = 'x': must be a day"),
        (("--from", "2024-10-02", "--to", "2024-10-01"), "--to = '2024-10-01': must"),
        (("--period", "next"), "--period = 'next': must be current or previous"),
        (("--sort", "day"), "--sort = 'day': must be one of cost, calls"),
        (("--tag", "team"), "--tag = 'team': must be KEY=VALUE"),
        (("--tag", "team=" + "x" * 1_001), "--tag = 'xxx"),
        (("--format", "focus", "--by", "day"), "--by = 'day': has no effect on --format focus"),
        (
            ("--format", "focus", "--from", "2024-10-04T12:00:00Z"),
            "must not be given here: these rows are of user",
        ),
        (
            ("margin", "--model", "o3"),
            "--model = 'o3': is no filter of margin; --user and --plan are",
        ),
        (("margin", "--tag", "a=b"), "--tag = ('a=b',): is no filter of margin"),
        (("margin", "--format", "focus"), "--format = 'focus': must be table, csv or json"),
        (("margin", "--by", "user,plan"), "--by = 'user,plan': must be one of user, plan, month"),
        (("margin", "--sort", "input_tokens"), "--sort = 'input_tokens': must be one of margin"),
        (("spending",), "there is no report 'spending'; there are spend, margin, gates, quality"),
        (("gates", "--model", "o3"), "--model = 'o3': is no filter of gates; --user and --reason"),
        (("gates", "--format", "focus"), "FOCUS has no gates"),
        (("quality", "--by", "user"), "--by = 'user': must be one or two of model, provider"),
        (("--reason", "x"), "--reason = 'x': is no filter of spend"),
        (("--tag", "a=b", "--tag", "a=c"), "--tag = 'a=c': must be given once for each key"),
    ],
)
def test_report__an_option_that_breaks_a_rule__is_named(
    run: Run, options: tuple[str, ...], shown: str
) -> None:
    """The status is 2."""
    status, out, err = run(*options)
    assert (status, out if "focus" not in options else "") == (2, "")
    assert shown in err


def test_report__without_usage__says_what_was_searched(run: Run) -> None:
    """A table without rows would not tell an idle month from a wrong product."""
    status, out, err = run(*MONTH, "--user", "zoe")
    assert (status, out) == (1, "")
    assert "no usage from 2024-10-01 00:00 to 2024-11-01 00:00 UTC" in err
    assert run(*MONTH, "--user", "zoe", "--format", "csv")[0] == 0


@pytest.fixture
def priced(run: Run, tmp_path: Path) -> Run:
    """The same store with a plan of $49 for everyone, and a payment of $10."""
    store = SqliteStore(str(tmp_path / "local.db"), now_us=lambda: NOON_US)
    document = plan_to_json(PlanConfig(price=49))
    plan = PlanRecord("default", document, NOON_US)
    store.ingest(PRODUCT, batch_of(records=(plan,)))
    paid = RevenueEntry("r", "bob", 10 * 10**9, "payment", *MONTH_US, None)
    store.add_revenue(PRODUCT, [paid])
    with store.engine.transaction(PRODUCT, writes=True) as sql:
        sql.connection.execute("UPDATE users SET created_us = 0")
    store.close()
    return run


def test_report__margin__has_the_smallest_first_with_total_and_shares(priced: Run) -> None:
    """Revenue that was recorded, and the price of the plan where none was."""
    status, out, err = priced("margin", *MONTH)
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:6] == ["bob", "1", "$5.00", "$10.00", "$5.00", "50%"]
    assert lines[1][-1] == "recorded"
    assert lines[2][:6] == ["ann", "2", "$1.25", "$49.00", "$47.75", "97%"]
    assert lines[2][-2:] == ["plan", "price"]
    assert lines[4][:5] == ["total", "4", "$6.25", "$108.00", "$101.75"]
    assert lines[4][-1] == "mixed"
    assert "the dearest 1 % (1 user) cost $5.00" in out


def test_report__margin_by_plan_and_month__has_the_same_total(priced: Run) -> None:
    """As CSV and as JSON; a limit is one of rows."""
    _, out, _ = priced("margin", *MONTH, "--by", "month", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert tuple(row) == margin_columns("month")
    assert (row["month"], row["margin"], row["margin_nano"]) == (
        "2024-10",
        "101.749998",
        "101749998000",
    )
    _, out, _ = priced("margin", *MONTH, "--by", "plan", "--format", "json")
    document = json.loads(out)
    assert document["total"]["margin_nano"] == 101_749_998_000
    assert [row["plan"] for row in document["rows"]] == ["default"]
    assert document["shares"] == []
    _, out, _ = priced("margin", *MONTH, "--limit", "1")
    assert out.endswith("; 1 rows shown, --limit shows more\n")
    _, out, _ = priced("margin", *MONTH, "--user", "ann", "--plan", "default", "--format", "json")
    assert json.loads(out)["total"]["revenue"] == 49.0


def test_report__margin_of_no_one__says_what_was_searched(run: Run) -> None:
    """As a report of usage does."""
    status, _, err = run("margin", *MONTH, "--user", "zoe")
    assert (status, "no user and no cost from 2024-10-01" in err) == (1, True)


@pytest.fixture
def gated(run: Run, tmp_path: Path) -> Run:
    """The same store with refusals, a shadow call and unmetered calls."""
    store = SqliteStore(str(tmp_path / "local.db"))
    shadow = make_event("s", user_id="bob", blocked=True, gate_reason="total_spend")
    refused = make_gate_event("g1", calls=3)
    warned = make_gate_event("g2", "b\x1b\\ob", status="soft_gate", blocked=False)
    since_us = NOON_US // QUARTER_US * QUARTER_US
    count = UnmeteredCount("p", since_us, "openai:POST /videos", "sora-2", 7)
    store.ingest(PRODUCT, batch_of(shadow, records=(refused, warned, count)))
    store.close()
    return run


def test_report__gates__has_most_refusals_first_and_a_total(gated: Run) -> None:
    """Control characters of ids are escaped."""
    status, out, err = gated("gates", *MONTH)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[:5]] == [
        ["user", "soft", "hard", "refused", "calls", "shadow", "calls", "shadow", "cost"],
        ["ann", "0", "3", "3", "0", "$0.0000"],
        ["b\\x1b\\ob", "1", "0", "0", "0", "$0.0000"],
        ["bob", "0", "0", "0", "1", "$0.0000"],
        ["total", "1", "3", "3", "1", "$0.0000"],
    ]
    assert "from 2024-10-01 00:00 to 2024-11-01 00:00 UTC" in out
    status, out, _ = gated("gates", *MONTH, "--limit", "1")
    assert "1 rows shown, --limit shows more" in out


def test_report__quality__is_by_model_with_unmetered_calls(gated: Run) -> None:
    """As a table, as CSV and as JSON."""
    status, out, _ = gated("quality", *MONTH)
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    assert lines[0] == ["model", "calls", "exact", "partial", "estimated", "unpriced", "unmetered"]
    assert lines[-3] == ["total", "5", "4", "0", "1", "0", "7"]
    assert ["sora-2", "0", "0", "0", "0", "0", "7"] in lines
    status, out, _ = gated("quality", *MONTH, "--by", "operation", "--format", "csv")
    assert list(csv.reader(io.StringIO(out)))[1:] == [
        ["", "5", "4", "0", "1", "0", "0"],
        ["openai:POST /videos", "0", "0", "0", "0", "0", "7"],
    ]
    status, out, _ = gated(
        "quality", *MONTH, "--operation", "openai:POST /videos", "--format", "json"
    )
    document = json.loads(out)
    assert (document["report"], document["total"]["unmetered"]) == ("quality", 7)
    assert document["total"]["calls"] == 0


def test_report__gates_without_any__says_what_was_searched(run: Run) -> None:
    """As for usage."""
    status, out, err = run("gates", *MONTH)
    assert (status, out) == (1, "")
    assert "no calls from 2024-10-01 00:00 to 2024-11-01 00:00 UTC" in err
