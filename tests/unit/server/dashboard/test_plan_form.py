"""The form of a plan: shows any plan without loss, and names every text that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from tests.property.test_plan_properties import plans

from paygent.core.limit import Limit
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.validation import InvalidValue
from paygent.server.dashboard.plan_form import (
    AMOUNTS,
    NUMBERS,
    OTHERS,
    PERCENTAGES,
    PlanForm,
    changed_fields,
    form_of_plan,
    form_of_sent,
    read_plan,
)
from paygent.server.dashboard.visit import Form

_EXACT_CAP_NANO = 9 * 10**15
"""Up to here a double has each nano-dollar; the JSON of general limits shows doubles."""


_WAIT_S_MIN = 1e-30


def sent_by(form: PlanForm) -> Form:
    """Return the fields that a browser sends of a form."""
    pairs = [("name", form.name), *form.values.items(), ("others", form.others)]
    for model, tokens in form.rows:
        pairs += [("model_name", model), ("model_tokens", tokens)]
    # A box that is not checked is not sent.
    return Form([pair for pair in pairs if pair != ("pre_call_estimate", "")])


def sent_again(plan: PlanConfig, name: str = "pro") -> PlanConfig:
    """Return the plan of a form that is sent as it was shown."""
    shown = form_of_plan(name, plan)
    sent = form_of_sent(sent_by(shown), is_new=False, enforce=shown.enforce)
    assert sent == shown
    return read_plan(sent)


def form(**texts: str) -> PlanForm:
    """Return the form of a new plan with other texts."""
    shown = form_of_plan("pro", PlanConfig(), is_new=True)
    return replace(shown, values={**shown.values, **texts})


def findings(wrong: PlanForm) -> dict[str, str]:
    """Return the fields of a form that are refused, each with the rule."""
    with pytest.raises(InvalidValue) as caught:
        read_plan(wrong)
    return {each.field: each.rule for each in caught.value.findings}


def is_sent(text: str) -> bool:
    """Return whether a form may have a text."""
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


def can_be_shown(plan: PlanConfig) -> bool:
    """Return whether a form's texts hold a plan exactly.

    Browsers and forms drop white space around a name, no form takes NUL, lone surrogates and
    numbers that are next to nothing, and the JSON of rates and general limits shows doubles.
    """
    if 0 < plan.contention_wait_s < _WAIT_S_MIN:
        return False
    names = [*plan.model_limits, *plan.cost_rates, *plan.tool_costs]
    names += [limit.model for limit in plan.limits if limit.model is not None]
    if any(name != name.strip() for name in plan.model_limits) or not all(map(is_sent, names)):
        return False
    caps = [limit.cap_exact for limit in plan.limits if limit.metric == "spend"]
    rates = [rate for rate in (*plan.cost_rates.values(), plan.default_cost_rate) if rate]
    return all((cap or 0) < _EXACT_CAP_NANO for cap in caps) and all(
        ModelCostRate(**{name: getattr(rate, name) for name in rate.pico}).pico == rate.pico
        for rate in rates
    )


def without_unlimited(plan: PlanConfig) -> PlanConfig:
    """Return a plan in which each limit without a cap is written as None, or is left out."""
    return plan.model_copy(
        update={
            **{f"{name}_nano": getattr(plan, f"{name}_nano") for name in AMOUNTS},
            "model_limits": {
                name: limit
                for name, limit in plan.model_limits.items()
                if limit.max_tokens_per_period is not None
            },
            "limits": [
                limit if limit.cap_exact is not None else limit.model_copy(update={"cap": None})
                for limit in plan.limits
            ],
        }
    )


# -- a plan and its form


@settings(max_examples=150, deadline=None)
@given(plans().filter(can_be_shown))
def test_read_plan__the_form_of_any_plan__is_the_plan(plan: PlanConfig) -> None:
    """Saving a form in which nothing was changed changes nothing, to the nano-dollar."""
    again = sent_again(plan)
    expected = without_unlimited(plan)
    assert again == expected
    assert plan_to_json(again) == plan_to_json(expected)


def test_read_plan__a_plan_of_every_kind__is_the_plan() -> None:
    """The same for a plan in which each field differs from its default."""
    plan = PlanConfig(
        max_spend_per_period="12.345678901",
        max_spend_per_session=3,
        soft_gate_at=0.755,
        hard_gate_at=1.2,
        model_limits={"gpt-4o": 50_000, "o3": 0},
        cost_rates={"gpt-4o": ModelCostRate("0.0025", "0.01", cached_input="0.00125")},
        default_cost_rate=ModelCostRate("0.1", "0.2"),
        tool_costs={"search": "0.000000001"},
        default_tool_cost=0,
        session_timeout_minutes=1_234_567.25,
        pre_call_estimate=True,
        pre_call_buffer_tokens=1,
        reservation_safety_factor=1.123456789,
        price="19.99",
        limits=[Limit("calls", window="day", cap=7), Limit("spend", model="o3", cap="1.5")],
        contention_wait_s=0.1234567,
        when_offline={"allow_up_to": "0.5"},
        unknown_model="dearest",
        enforce=False,
    )
    assert sent_again(plan) == plan
    assert plan_to_json(sent_again(plan)) == plan_to_json(plan)


def test_form_of_plan__the_defaults__are_plain_texts() -> None:
    """What people read has no needless digits, and JSON has what differs from the defaults."""
    shown = form_of_plan("pro", PlanConfig(price=10, max_spend_per_period="0.5"))
    assert shown.values == {
        "price": "10",
        "max_spend_per_period": "0.5",
        "max_spend_per_session": "",
        "session_timeout_minutes": "30",
        "contention_wait_s": "30",
        "soft_gate_at": "80",
        "hard_gate_at": "100",
        "pre_call_estimate": "",
        "unknown_model": "count",
        "when_offline": "allow",
        "offline_allowance": "",
    }
    assert (shown.name, shown.is_new, shown.others, shown.enforce) == ("pro", False, "", True)
    assert shown.rows == (("", ""), ("", ""))


def test_form_of_plan__other_fields__are_json_of_what_differs() -> None:
    """The JSON is that of REST, without what a plan computes."""
    shown = form_of_plan("pro", PlanConfig(tool_costs={"é": 1}, limits=[Limit("calls", cap=7)]))
    assert json.loads(shown.others) == {
        "tool_costs": {"é": 1.0},
        "limits": [
            {"metric": "calls", "scope": "user", "model": None, "window": "period", "cap": 7}
        ],
    }
    assert "é" in shown.others


def test_read_plan__empty_texts__are_the_defaults() -> None:
    """A field that was cleared, and a choice that was not sent, is the default."""
    names = (*AMOUNTS, *NUMBERS, *PERCENTAGES, "unknown_model", "when_offline")
    assert read_plan(form(**dict.fromkeys(names, ""))) == PlanConfig()
    assert read_plan(form_of_sent(Form([("name", "x")]), is_new=True, enforce=True)) == PlanConfig()


@pytest.mark.parametrize("text", ["", "1"])
def test_read_plan__an_allowance_that_is_not_chosen__does_not_count(text: str) -> None:
    """The field beside the choice belongs to one of the choices."""
    plan = read_plan(form(when_offline="block", offline_allowance=text))
    assert (plan.when_offline, plan.offline_allowance_nano) == ("block", None)


def test_form_of_sent__rows_of_models__are_those_with_a_text() -> None:
    """Empty rows are left out; half of one is shown again, with its error."""
    names, tokens = (["gpt-4o", "", "o3", ""], ["50,000", "", "", "7"])
    pairs = [("model_name", each) for each in names] + [("model_tokens", each) for each in tokens]
    sent = form_of_sent(Form([("name", " pro "), *pairs]), is_new=True, enforce=False)
    assert (sent.name, sent.is_new, sent.enforce) == ("pro", True, False)
    assert sent.models == (("gpt-4o", "50,000"), ("o3", ""), ("", "7"))
    assert list(findings(sent)) == ["model_limits.o3", "model_limits"]
    plan = read_plan(replace(sent, models=sent.models[:1]))
    assert plan.model_limits["gpt-4o"].max_tokens_per_period == 50_000
    assert plan.enforce is False


# -- errors


@pytest.mark.parametrize(
    ("texts", "field"),
    [
        *[({name: "x"}, name) for name in (*AMOUNTS, *NUMBERS, *PERCENTAGES)],
        *[({name: "nan"}, name) for name in (*AMOUNTS, *NUMBERS, *PERCENTAGES)],
        *[({name: "sNaN"}, name) for name in (*AMOUNTS, *NUMBERS, *PERCENTAGES)],
        *[({name: "-1"}, name) for name in (*AMOUNTS, *NUMBERS, *PERCENTAGES)],
        *[({name: "1e999999999999"}, name) for name in ("price", *NUMBERS, *PERCENTAGES)],
        *[({name: "inf"}, name) for name in ("price", *NUMBERS, *PERCENTAGES)],
        ({"soft_gate_at": "101"}, "soft_gate_at"),
        ({"hard_gate_at": "0"}, "hard_gate_at"),
        ({"session_timeout_minutes": "0"}, "session_timeout_minutes"),
        ({"unknown_model": "x"}, "unknown_model"),
        ({"unknown_model": "dearest"}, "unknown_model"),
        ({"when_offline": "x"}, "when_offline"),
        ({"when_offline": "allow_up_to", "offline_allowance": ""}, "when_offline.allow_up_to"),
        ({"when_offline": "allow_up_to", "offline_allowance": "x"}, "when_offline.allow_up_to"),
        ({"when_offline": "allow_up_to", "offline_allowance": "nan"}, "when_offline.allow_up_to"),
        ({"when_offline": "allow_up_to", "offline_allowance": "-1"}, "when_offline.allow_up_to"),
    ],
)
def test_read_plan__a_text_that_breaks_a_rule__is_named(texts: dict[str, str], field: str) -> None:
    """Each by the field that it was typed into, and nothing else is raised."""
    assert list(findings(form(**texts))) == [field]


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_read_plan__the_name__has_1_to_255_characters(name: str) -> None:
    """A plan is known by its name."""
    assert list(findings(replace(form(), name=name))) == ["name"]
    assert read_plan(replace(form(), name="x" * 255)) == PlanConfig()


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (("", "7"), "model_limits"),
        (("o3", ""), "model_limits.o3"),
        (("o3", "x"), "model_limits.o3"),
        (("o3", "-1"), "model_limits.o3.max_tokens_per_period"),
        (("o3", "1.5"), "model_limits.o3"),
        (("o3", "nan"), "model_limits.o3"),
        (("o3", "inf"), "model_limits.o3"),
        (("o3", "1e999999999999"), "model_limits.o3"),
        (("o3", "9" * 5_000), "model_limits.o3"),
        (("gpt-4o", "7"), "model_limits.gpt-4o"),  # the first row has it
    ],
)
def test_read_plan__a_row_of_a_model_that_breaks_a_rule__is_named(
    row: tuple[str, str], field: str
) -> None:
    """By the model of the row."""
    assert list(findings(replace(form(), models=(("gpt-4o", "1"), row)))) == [field]


@pytest.mark.parametrize(
    ("others", "field"),
    [
        ("{", "others"),
        ("[]", "others"),
        ("7", "others"),
        ("[" * 90_000, "others"),
        ('{"limits": 1e99999999999999999999}', "others"),
        ('{"limits": ' + "9" * 5_000 + "}", "others"),
        (" " * 100_001, "others"),
        ('{"price": 1}', "others.price"),
        ('{"x": 1}', "others.x"),
        ('{"tool_costs": {"search": -1}}', "tool_costs.search"),
        ('{"limits": 7}', "limits"),
        ('{"limits": [{"metric": "calls"}]}', "limits[0].cap"),
        ('{"cost_rates": {"o3": 7}}', "cost_rates.o3"),
        ('{"pre_call_buffer_tokens": 1.5}', "pre_call_buffer_tokens"),
        ('{"reservation_safety_factor": NaN}', "reservation_safety_factor"),
    ],
)
def test_read_plan__json_that_breaks_a_rule__is_named(others: str, field: str) -> None:
    """Other text than JSON as a whole, other fields by their name, and values by their path."""
    assert list(findings(replace(form(), others=others))) == [field]


def test_read_plan__json_with_a_mistake__names_the_line() -> None:
    """A long text is searched by it."""
    others = '{\n"limits": [],\n"x" 1}'
    assert findings(replace(form(), others=others)) == {"others": "must be JSON (line 3)"}


def test_read_plan__many_mistakes__are_all_named() -> None:
    """One answer names them all."""
    wrong = replace(
        form(price="x", soft_gate_at="-1", unknown_model="x"),
        name="",
        models=(("o3", "x"),),
        others='{"x": 1, "default_tool_cost": -1}',
    )
    assert list(findings(wrong)) == [
        *("name", "others.x", "price", "model_limits.o3"),
        *("soft_gate_at", "default_tool_cost", "unknown_model"),
    ]


# -- versions


def document(**fields: Any) -> dict[str, Any]:
    """Return the document of a plan."""
    return plan_to_json(PlanConfig(**fields))


def test_changed_fields__of_two_versions__are_those_that_differ() -> None:
    """By their path, in the order of the names; "" is a field that one of them does not have."""
    before = document(price=1, model_limits={"gpt-4o": 1, "o3": 2}, limits=[Limit(cap=1)])
    after = document(price=2, model_limits={"gpt-4o": 1, "o4": 3}, enforce=False)
    assert changed_fields(before, after) == [
        ("enforce", "True", "False"),
        ("limits.0.cap", "1.00", ""),
        ("limits.0.metric", "spend", ""),
        ("limits.0.model", "none", ""),
        ("limits.0.scope", "user", ""),
        ("limits.0.window", "period", ""),
        ("model_limits.o3", "2", ""),
        ("model_limits.o4", "", "3"),
        ("price", "1.00", "2.00"),
    ]
    assert changed_fields(before, before) == []


def test_changed_fields__of_the_first_version__are_those_that_are_not_defaults() -> None:
    """A version without one before is compared with a plan of defaults."""
    assert changed_fields(None, document()) == []
    assert changed_fields(None, document(max_spend_per_period=5)) == [
        ("max_spend_per_period", "none", "5.00")
    ]


def test_others__and_the_fields_of_the_form__are_all_fields_of_a_plan() -> None:
    """A field that is added to plans cannot be forgotten here: saving would reset it."""
    own = {*AMOUNTS, *NUMBERS, *PERCENTAGES, *OTHERS, "model_limits"}
    own |= {"pre_call_estimate", "unknown_model", "when_offline", "enforce"}
    assert own == document().keys()
