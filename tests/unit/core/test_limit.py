"""Limits: exact caps, identity and reason, and every broken rule named."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from tests.unit.core.broken_rules import errors_of

from paygent.core.limit import Limit, LimitKey, ModelLimitConfig

NO_CAP = "must be a number of dollars (Decimal, int, float or str), or None for no limit"
NO_COUNT = "must be a whole number, or None for no limit"
COUNT_RANGE = "must be from 0 to 9·10¹⁸"


@pytest.mark.parametrize("value", [None, 0, 1000, 1000.0, 9 * 10**18])
def test_model_limit_config__a_count_or_none__is_kept(value: Any) -> None:
    """None is no limit, 0 blocks, a whole float is a count."""
    assert ModelLimitConfig(value).max_tokens_per_period == value


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("many", "must be a whole number, or None for no limit"),
        ("1e3", "must be a whole number, or None for no limit"),
        ("²", "must be a whole number, or None for no limit"),
        ("", "must be a whole number, or None for no limit"),
        (True, "must be a whole number, or None for no limit"),
        (10.5, "must be a whole number, or None for no limit"),
        (math.nan, "must be a whole number, or None for no limit"),
        (math.inf, "must be a whole number, or None for no limit"),
        (-1, COUNT_RANGE),
        (9 * 10**18 + 1, COUNT_RANGE),
    ],
)
def test_model_limit_config__no_count__names_field_value_and_rule(value: Any, rule: str) -> None:
    """What is no whole number of tokens is refused with its rule."""
    found = errors_of(ModelLimitConfig, max_tokens_per_period=value)
    assert found == [("max_tokens_per_period", value, rule)]


@pytest.mark.parametrize(
    ("arguments", "cap_exact"),
    [
        ({"cap": "123456789.123456789"}, 123_456_789_123_456_789),
        ({"cap": 0}, 0),
        ({"cap": None}, None),
        ({"cap": 1e10}, None),
        ({"metric": "tokens", "cap": 5000}, 5000),
        ({"metric": "tokens", "cap": "5000"}, 5000),
        ({"metric": "tokens", "cap": 5e3}, 5000),
        ({"metric": "calls", "cap": 0}, 0),
        ({"metric": "calls", "cap": None}, None),
        ({"metric": "tokens", "cap": math.inf}, None),
    ],
)
def test_limit__a_cap__is_exact_in_its_unit(
    arguments: dict[str, Any], cap_exact: int | None
) -> None:
    """A cap is nano-dollars for spend and a count otherwise; an infinite one is no limit."""
    assert Limit(**arguments).cap_exact == cap_exact


@pytest.mark.parametrize("cap", ["Infinity", Decimal("Infinity"), math.inf])
@pytest.mark.parametrize("metric", ["spend", "tokens", "calls"])
def test_limit__an_infinite_cap__is_no_limit_in_every_metric(metric: Any, cap: Any) -> None:
    """Infinity is no limit however it is written, and is shown as a float."""
    limit = Limit(metric=metric, cap=cap)
    assert (limit.cap_exact, limit.cap) == (None, math.inf)


def test_limit__a_cap_in_dollars__is_shown_as_the_nearest_double() -> None:
    """The public cap is a float however it was written."""
    cap: Any = "0.15"
    limit = Limit(cap=cap)
    assert (limit.cap, type(limit.cap)) == (0.15, float)


@pytest.mark.parametrize(
    ("arguments", "field", "rule"),
    [
        ({"metric": "euros"}, "metric", 'must be "spend", "tokens" or "calls"'),
        ({"metric": []}, "metric", 'must be "spend", "tokens" or "calls"'),
        ({"scope": "team"}, "scope", 'must be "user" or "session"'),
        ({"model": ""}, "model", "must be a model name, or None for all models"),
        ({"model": 5}, "model", "must be a model name, or None for all models"),
        (
            {"window": "week"},
            "window",
            'must be "period", "session", "day" or a rolling window such as "rolling:24h"'
            " (m minutes, h hours, d days)",
        ),
        (
            {"window": "rolling:0h"},
            "window",
            'must be "period", "session", "day" or a rolling window such as "rolling:24h"'
            " (m minutes, h hours, d days)",
        ),
        (
            {"window": "rolling:24h\n"},
            "window",
            'must be "period", "session", "day" or a rolling window such as "rolling:24h"'
            " (m minutes, h hours, d days)",
        ),
        (
            {"window": 24},
            "window",
            'must be "period", "session", "day" or a rolling window such as "rolling:24h"'
            " (m minutes, h hours, d days)",
        ),
        (
            {"window": "session"},
            "window",
            'must be "session" exactly when scope is "session"',
        ),
        ({"cap": -1}, "cap", "must not be negative"),
        ({"cap": "x"}, "cap", NO_CAP),
        ({"metric": "tokens", "cap": 1.5}, "cap", NO_COUNT),
        ({"metric": "tokens", "cap": -1}, "cap", COUNT_RANGE),
        ({"metric": "tokens", "cap": -math.inf}, "cap", NO_COUNT),
        ({"metric": "calls", "cap": "many"}, "cap", NO_COUNT),
        ({"metric": "calls", "cap": 9 * 10**18 + 1}, "cap", COUNT_RANGE),
    ],
)
def test_limit__a_broken_rule__names_field_value_and_rule(
    arguments: dict[str, Any], field: str, rule: str
) -> None:
    """Every rule of a limit is told with the field and its value."""
    assert errors_of(Limit, **{"cap": 5, **arguments}) == [(field, arguments[field], rule)]


@pytest.mark.parametrize(
    ("metric", "rule"),
    [
        ("spend", "must be given: dollars, or None for no limit"),
        ("tokens", "must be given: a number of tokens, or None for no limit"),
        ("calls", "must be given: a number of calls, or None for no limit"),
    ],
)
def test_row_16__a_limit_without_a_cap__is_refused(metric: Any, rule: str) -> None:
    """A limit that limits nothing is a mistake, unless that is said."""
    for arguments in ({}, {"cap": math.nan}):
        (found,) = errors_of(Limit, metric=metric, **arguments)
        assert (found[0], found[2]) == ("cap", rule)


@pytest.mark.parametrize("window", ["period", "day", "rolling:1h"])
def test_limit__a_session_in_another_window__is_refused(window: str) -> None:
    """A session's limit counts over its session and nothing else."""
    rule = 'must be "session" exactly when scope is "session"'
    assert errors_of(Limit, scope="session", window=window, cap=5) == [("window", window, rule)]


def test_limit__several_wrong__come_at_once() -> None:
    """Every broken rule is in one error, in the order of the fields."""
    assert errors_of(Limit, metric="x", scope="y", model="", window="z", cap=-1) == [
        ("metric", "x", 'must be "spend", "tokens" or "calls"'),
        ("scope", "y", 'must be "user" or "session"'),
        ("model", "", "must be a model name, or None for all models"),
        (
            "window",
            "z",
            'must be "period", "session", "day" or a rolling window such as "rolling:24h"'
            " (m minutes, h hours, d days)",
        ),
        ("cap", -1, COUNT_RANGE),
    ]


def test_limit__key__is_metric_scope_model_and_window() -> None:
    """Two caps of one rule are one limit: the cap is no part of the identity."""
    limit = Limit("tokens", "user", "gpt-4o", "day", 5)
    assert limit.key == LimitKey("tokens", "user", "gpt-4o", "day")
    assert limit.key == Limit("tokens", "user", "gpt-4o", "day", 9).key
    assert Limit(cap=5).key == LimitKey("spend", "user", "", "period")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (LimitKey("spend", "user", "", "period"), "total_spend"),
        (LimitKey("spend", "session", "", "session"), "session_spend"),
        (LimitKey("tokens", "user", "gpt-4o", "period"), "model_limit:gpt-4o"),
        (LimitKey("tokens", "user", "", "day"), "tokens:day"),
        (LimitKey("calls", "user", "", "rolling:24h"), "calls:rolling:24h"),
        (LimitKey("calls", "user", "gpt-4o", "day"), "calls:day:gpt-4o"),
        (LimitKey("spend", "user", "gpt-4o", "period"), "spend:period:gpt-4o"),
    ],
)
def test_limit_key__reason__is_the_documented_name_where_there_is_one(
    key: LimitKey, reason: str
) -> None:
    """Documented limits have their documented reasons, others one that tells what they count."""
    assert key.reason == reason
