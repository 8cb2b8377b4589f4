"""Files of plans: both formats are read alike, and every mistake is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paygent import Limit, PlanConfig
from paygent.cli.options import CommandError, UsageError
from paygent.cli.plan_file import plans_of, read_plan_file
from paygent.core.plan_json import shown_fields
from paygent.core.validation import InvalidValue

TOML = """
soft_gate_at = 0.7

[plans.free]
max_spend_per_period = 1

[plans.pro]
max_spend_per_period = 49.10
soft_gate_at = 0.9
[plans.pro.model_limits]
"gpt-4o" = 50_000
[plans.pro.cost_rates."my-model"]
input = 0.0025
output = 0.01
"""
PLANS = {
    "free": PlanConfig(max_spend_per_period=1, soft_gate_at=0.7),
    "pro": PlanConfig(
        max_spend_per_period="49.10",
        soft_gate_at=0.9,
        model_limits={"gpt-4o": 50_000},
        cost_rates={"my-model": {"input": 0.0025, "output": 0.01}},
    ),
}


def written(folder: Path, name: str, text: str) -> str:
    """Write a file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistakes(document: object) -> list[tuple[str, str]]:
    """Return field and rule of each mistake of a document."""
    with pytest.raises(InvalidValue) as raised:
        plans_of(document)
    return [(each.field, each.rule) for each in raised.value.findings]


def test_read_plan_file__toml__is_read_with_gates_for_all_plans(tmp_path: Path) -> None:
    """A plan's own gate wins, and cents are exact."""
    plans = read_plan_file(written(tmp_path, "plans.toml", TOML))
    assert (list(plans), plans) == (["free", "pro"], PLANS)
    assert plans["pro"].max_spend_per_period_nano == 49_100_000_000


@pytest.mark.parametrize("as_list", [False, True])
def test_read_plan_file__json__is_read_by_name_and_as_the_server_takes_it(
    tmp_path: Path, as_list: bool
) -> None:
    """The body of `POST /config/plans` has a list."""
    pro = {
        "max_spend_per_period": 49.10,
        "soft_gate_at": 0.9,
        "model_limits": {"gpt-4o": 50_000},
        "cost_rates": {"my-model": {"input": 0.0025, "output": 0.01}},
    }
    by_name: dict[str, dict[str, object]] = {"free": {"max_spend_per_period": 1}, "pro": pro}
    listed = [{"name": name, **plan} for name, plan in by_name.items()]
    document = {"soft_gate_at": 0.7, "plans": listed if as_list else by_name}
    assert read_plan_file(written(tmp_path, "plans.json", json.dumps(document))) == PLANS


def test_plans_of__an_answer_of_the_server__is_read_without_loss() -> None:
    """What `GET /config/plans` shows can be kept as a file, with what a plan only shows."""
    plan = PlanConfig(
        max_spend_per_period="25.000000001",
        tool_costs={"search": "0.5"},
        cost_rates={"mine": {"input": "0.0025", "output": 1}},
        limits=[Limit("calls", window="day", cap=3)],
    )
    stored = {"id": "plan_1", "version": 3, "created_at": "2026-11-01T00:00:00Z"}
    document = {"plans": [{"name": "pro", **stored, **shown_fields(plan)}]}
    assert plans_of(document) == {"pro": plan}
    assert plans_of(document)["pro"].max_spend_per_period_nano == 25_000_000_001


def test_plans_of__an_exact_amount_that_is_none__is_named_with_its_rule() -> None:
    """It is a known field: there is no other one to be meant."""
    assert mistakes({"plans": {"a": {"price_nano": "much"}}}) == [
        ("plans.a.price_nano", "must be a whole number of nano-dollars")
    ]


def test_plans_of__mistakes_in_several_plans__are_all_named() -> None:
    """Somebody corrects a file once, not a mistake at a time."""
    document = {
        "soft_gate": 1,
        "plans": {
            "free": {"max_spend_per_period": -1, "max_spend_per_sesion": 2},
            "pro": {"model_limits": {"gpt-4o": "many"}, "hard_gate_at": 0},
            "odd": 5,
        },
    }
    found = dict(mistakes(document))
    assert found.keys() == {
        "soft_gate",
        "plans.free.max_spend_per_period",
        "plans.free.max_spend_per_sesion",
        "plans.pro.model_limits.gpt-4o",
        "plans.pro.hard_gate_at",
        "plans.odd",
    }
    assert found["plans.free.max_spend_per_sesion"] == (
        "is not a field of a plan; did you mean max_spend_per_session?"
    )
    assert found["soft_gate"].endswith("did you mean soft_gate_at?")


def test_plans_of__unknown_fields__are_named_in_the_order_of_the_file() -> None:
    """Two runs print the same, and somebody reads the list beside the file."""
    names = [f"{letter}{number}" for letter in "zqxw" for number in range(5)]
    plan = dict.fromkeys(names, 1)
    found = mistakes({**plan, "plans": {"a": plan}})
    assert [field for field, _ in found] == [*names, *(f"plans.a.{name}" for name in names)]


@pytest.mark.parametrize("name", ["updated_at", "title_at"])
def test_plans_of__a_field_that_resembles_none__has_no_hint(name: str) -> None:
    """Another word is no misspelling: a hint would mislead."""
    found = dict(mistakes({name: 1, "plans": {"a": {name: 1}}}))
    assert found[name] == "is not a field of a file of plans"
    assert found[f"plans.a.{name}"] == "is not a field of a plan"


def test_plans_of__a_wrong_gate_for_all__is_named_once() -> None:
    """It is one line of the file, whatever the number of plans."""
    document = {"hard_gate_at": 80, "plans": {"a": {}, "b": {}}}
    assert [field for field, _ in mistakes(document)] == ["hard_gate_at"]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "plans"),
        ({"plans": {}}, "plans"),
        ({"plans": 3}, "plans"),
        ([], "file"),
        ({"plans": [{"max_spend_per_period": 1}]}, "plans[0]"),
        ({"plans": [{"name": "a"}, {"name": "a"}]}, "plans.a"),
        ({"plans": {"x" * 256: {}}}, f"plans.{'x' * 256}"),
        ({"plans": {"": {}}}, "plans."),
        ({"plans": {"a\0": {}}}, "plans.a\0"),
    ],
)
def test_plans_of__another_shape__is_named(document: object, field: str) -> None:
    """What is no plan is never skipped."""
    assert [name for name, _ in mistakes(document)] == [field]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "[plans\n", "line 1"),
        ("a.toml", "[plans.a]\n[plans.a]", "plans"),
        ("a.json", "{", "line 1"),
        ("a.json", '{"plans": {"a": {}, "a": {}}}', "'a' is given twice"),
    ],
)
def test_read_plan_file__of_another_syntax__names_file_and_place(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    """The parser's message is passed on."""
    with pytest.raises(CommandError, match=name) as raised:
        read_plan_file(written(tmp_path, name, text))
    assert says in str(raised.value)


def test_read_plan_file__that_is_none__is_an_error(tmp_path: Path) -> None:
    """Missing, binary and huge files get an answer each."""
    with pytest.raises(UsageError, match="No such file"):
        read_plan_file(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="utf-8"):
        read_plan_file(str(tmp_path / "binary.toml"))
    (tmp_path / "huge.toml").write_bytes(b"#" * ((4 << 20) + 1))
    with pytest.raises(CommandError, match="larger than"):
        read_plan_file(str(tmp_path / "huge.toml"))
