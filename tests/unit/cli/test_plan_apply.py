"""`paygent plans apply` and `validate`: mistakes, differences, and versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import invoke, on_terminal

from paygent import Limit, PlanConfig
from paygent.cli import plan_apply
from paygent.cli.plan_changes import FieldChange, changes
from paygent.cli.plan_fields import fields_of
from paygent.store.ledger import SqlStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with two plans."""
    path = tmp_path / "plans.toml"
    path.write_text("[plans.free]\nmax_spend_per_period = 1\n[plans.pro]\nprice = 49\n")
    return path


def names_and_versions(store: SqlStore) -> dict[str, int]:
    """Return the stored plans."""
    return {plan.name: plan.version for plan in store.plans("acme")}


def test_validate__a_good_file__lists_its_plans(file: Path) -> None:
    """No database is needed."""
    assert invoke("plans", "validate", str(file)) == (0, "valid: 2 plans (free, pro)\n", "")


def test_validate__a_bad_file__lists_every_rule_and_ends_with_1(file: Path) -> None:
    """Field, value and rule, a line each."""
    file.write_text("[plans.a]\nmax_spend_per_period = -1\nspeed = 3\n")
    status, out, err = invoke("plans", "validate", str(file))
    lines = [line.split() for line in out.splitlines()]
    assert status == 1
    assert [line[:2] for line in lines] == [
        ["field", "value"],
        ["plans.a.speed", "3"],
        ["plans.a.max_spend_per_period", "-1"],
    ]
    assert err.endswith("2 rules are broken\n")


def test_validate__a_missing_file__is_a_usage_error(tmp_path: Path) -> None:
    """The name of the file is an argument."""
    status, _, err = invoke("plans", "validate", str(tmp_path / "none.toml"))
    assert (status, "cannot be read" in err) == (2, True)


def test_validate__a_model_in_no_price_list__is_a_warning(file: Path) -> None:
    """It is valid, and probably not meant."""
    file.write_text('[plans.a.model_limits]\n"gpt4o" = 5\n')
    status, _, err = invoke("plans", "validate", str(file))
    assert (status, "warning: plan 'a'" in err, "gpt-4o" in err) == (0, True, True)


def test_apply__new_plans__are_shown_and_written(ledger: SqlStore, file: Path) -> None:
    """Without a terminal nothing is asked."""
    status, out, _ = invoke("plans", "apply", str(file))
    assert status == 0
    assert ["free", "new", "max_spend_per_period", "-", "$1.00"] in map(str.split, out.splitlines())
    assert out.splitlines()[-1].endswith("free (version 1), pro (version 1)")
    assert names_and_versions(ledger) == {"free": 1, "pro": 1}


def test_apply__the_same_file_again__writes_nothing(ledger: SqlStore, file: Path) -> None:
    """A deployment may apply its plans each time."""
    invoke("plans", "apply", str(file))
    status, out, _ = invoke("plans", "apply", str(file))
    assert (status, "nothing to write" in out) == (0, True)
    assert names_and_versions(ledger) == {"free": 1, "pro": 1}


def test_apply__a_change__shows_it_and_makes_a_version(ledger: SqlStore, file: Path) -> None:
    """Other plans keep their version, and one that is not in the file stays."""
    invoke("plans", "apply", str(file))
    file.write_text("[plans.pro]\nprice = 59\nmodel_limits = {'gpt-4o' = 7}\n")
    status, out, _ = invoke("plans", "apply", str(file))
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "pro changed, version 1 → 2 price $49.00 $59.00" in lines
    changed = "model_limits.gpt-4o.max_tokens_per_period - 7"
    assert f"pro changed, version 1 → 2 {changed}" in lines
    assert "not in the file, kept as they are: free" in lines
    assert names_and_versions(ledger) == {"free": 1, "pro": 2}


@pytest.mark.parametrize(("answer", "status", "written"), [("y\n", 0, 2), ("n\n", 1, 0)])
def test_apply__on_a_terminal__asks_first(
    ledger: SqlStore,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
    written: int,
) -> None:
    """After the differences were shown."""
    on_terminal(monkeypatch, plan_apply)
    found, out, _ = invoke("plans", "apply", str(file), answer=answer)
    assert (found, "Write to product 'acme'" in out) == (status, True)
    assert len(ledger.plans("acme")) == written


def test_apply__with_yes__does_not_ask(
    ledger: SqlStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For scripts that run on a terminal."""
    on_terminal(monkeypatch, plan_apply)
    status, out, _ = invoke("plans", "apply", str(file), "--yes")
    assert (status, "Write to" in out, len(ledger.plans("acme"))) == (0, False, 2)


def test_apply__a_bad_file__writes_nothing(ledger: SqlStore, file: Path) -> None:
    """Not even the good plans of it."""
    file.write_text("[plans.a]\n[plans.b]\nprice = -1\n")
    status, out, _ = invoke("plans", "apply", str(file))
    assert (status, "plans.b.price" in out, ledger.plans("acme")) == (1, True, ())


def test_apply__on_several_products__needs_a_name(ledger: SqlStore, file: Path) -> None:
    """A guess could give one tenant's plans to another."""
    ledger.add_product("shop", product_id="shop")
    status, _, err = invoke("plans", "apply", str(file))
    assert (status, "acme, shop" in err) == (2, True)
    assert invoke("plans", "apply", str(file), "--product", "shop")[0] == 0
    assert (len(ledger.plans("acme")), len(ledger.plans("shop"))) == (0, 2)
    status, _, err = invoke("plans", "apply", str(file), "--product", "none")
    assert (status, "there is no product 'none'" in err) == (1, True)


def test_list__of_a_server__has_what_was_applied(ledger: SqlStore, file: Path) -> None:
    """The variable names the database; the application's file is not looked for."""
    invoke("plans", "apply", str(file))
    status, out, _ = invoke("plans", "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["plan", "free", "pro"]


def test_apply__over_a_plan_of_a_newer_paygent__replaces_it(ledger: SqlStore, file: Path) -> None:
    """What cannot be read cannot be compared: every field is shown."""
    ledger.put_plans("acme", {"pro": {"speed": 1}})
    status, out, _ = invoke("plans", "apply", str(file))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert (status, names_and_versions(ledger)) == (0, {"free": 1, "pro": 2})
    assert "pro changed, version 1 → 2 price - $49.00" in lines


def test_changes__a_limit_that_ends__has_no_new_value() -> None:
    """Absent values are shown as such."""
    (change,) = changes({"a": PlanConfig()}, {"a": (1, PlanConfig(max_spend_per_period=5))})
    assert change.fields == (FieldChange("max_spend_per_period", "$5.00", "-"),)


def test_changes__a_rate__is_shown_in_dollars_alone() -> None:
    """Its exact twins are the same in another unit."""
    rates = {"m": {"input": 1, "output": 2}}
    (change,) = changes({"a": PlanConfig(cost_rates=rates)}, {})
    assert [each.field for each in change.fields] == ["cost_rates.m.input", "cost_rates.m.output"]


def test_changes__amounts_and_counts__are_shown_as_plans_list_shows_them() -> None:
    """Exactly, each with its unit; other fields as they are written."""
    plan = PlanConfig(
        max_spend_per_session="0.000000001",
        price=1_234,
        default_tool_cost="0.05",
        tool_costs={"search": "0.5"},
        model_limits={"gpt-4o": 50_000},
        pre_call_buffer_tokens=8_192,
        cost_rates={"mine": {"input": "0.0025", "output": 10}},
        default_cost_rate={"input": "0.0000003", "output": 0},
        limits=[Limit(metric="calls", window="day", cap=1_500), Limit("tokens", cap=None)],
        when_offline={"allow_up_to": "0.1"},
        soft_gate_at=0.7,
        enforce=False,
    )
    (change,) = changes({"a": plan}, {})
    assert {each.field: each.new for each in change.fields} == {
        "max_spend_per_session": "$0.000000001",
        "price": "$1,234.00",
        "default_tool_cost": "$0.05",
        "tool_costs.search": "$0.50",
        "model_limits.gpt-4o.max_tokens_per_period": "50,000",
        "pre_call_buffer_tokens": "8,192",
        "cost_rates.mine.input": "$0.0025 per 1,000",
        "cost_rates.mine.output": "$10 per 1,000",
        "default_cost_rate.input": "$0.0000003 per 1,000",
        "default_cost_rate.output": "$0 per 1,000",
        "limits": "1,500 calls per UTC day; unlimited tokens per period",
        "when_offline.allow_up_to": "$0.10",
        "when_offline": "-",
        "soft_gate_at": "0.7",
        "enforce": "false",
    }


def test_changes__limits_that_end__have_no_new_value() -> None:
    """A plan without further limits has none to show."""
    limited = PlanConfig(limits=[Limit(window="day", cap=2)])
    (change,) = changes({"a": PlanConfig()}, {"a": (1, limited)})
    assert change.fields == (FieldChange("limits", "$2.00 per UTC day", "-"),)


def test_fields_of__every_field__makes_the_same_plan_again() -> None:
    """Also where a model has the name of a twin."""
    plan = PlanConfig(
        max_spend_per_period="0.1",
        cost_rates={"pico": {"input": 1, "output": 2}, "input": {"input": 1, "output": 2}},
        default_cost_rate={"input": "0.3", "output": 2, "cached_input": 0.1},
        limits=[Limit(metric="calls", window="day", cap=3), Limit(window="day", cap="0.7")],
        tool_costs={"pico": 1, "cap_exact": 2},
        model_limits={"pico": 3},
    )
    fields = fields_of(plan)
    assert PlanConfig(**fields) == plan
    assert "cap_exact" not in fields["limits"][0]
    assert "pico" not in fields["cost_rates"]["pico"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--api-key", "k"], "name it with --base-url"),
        (["--base-url", "http://127.0.0.1:1"], "--api-key or PAYGENT_API_KEY"),
        (["--base-url", "http://127.0.0.1:1", "--database-url", "x"], "excludes --database-url"),
        (["--base-url", "http://127.0.0.1:1", "--product", "x"], "the key names it"),
        (["--base-url", "http://127.0.0.1:1", "--api-key", "k\u00e9\n"], "characters"),
        (["--base-url", "http://[", "--api-key", "k"], "is no address"),
        (["--base-url", "127.0.0.1:8790", "--api-key", "k"], "is no address"),
        (["--base-url", "http://a:b", "--api-key", "k"], "is no address"),
    ],
)
def test_apply__options_that_do_not_fit__are_usage_errors(
    file: Path, options: list[str], says: str
) -> None:
    """Nothing is asked or written."""
    status, _, err = invoke("plans", "apply", str(file), *options)
    assert (status, says in err) == (2, True), err


def test_apply__a_server_that_is_away__is_an_error(file: Path) -> None:
    """Nothing listens on port 1; the key is not printed."""
    options = ["--base-url", "http://127.0.0.1:1", "--api-key", "pg_live_secret"]
    status, out, err = invoke("plans", "apply", str(file), *options)
    assert (status, "cannot be asked" in err) == (1, True)
    assert "pg_live_secret" not in out + err
