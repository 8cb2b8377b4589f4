"""P10: bad input gets one error with every finding, naming field, value, rule; nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from paygent import BillingPeriod, InvalidValue, Paygent, PlanConfig, paygent_context

Init = Callable[..., Paygent]


def fields(error: InvalidValue) -> set[str]:
    """The fields that an error names."""
    return {finding.field for finding in error.findings}


def test_p10__init__names_every_bad_argument_at_once(db_path: str) -> None:
    """Nothing is started when an argument is wrong, and all of them are named."""
    with pytest.raises(InvalidValue) as caught:
        Paygent.init(
            base_url="ftp://x",
            db_path=db_path,
            flush_interval=-1,
            max_batch_size=0,
            max_queue_size="many",  # type: ignore[arg-type]
            raise_on_hard_gate="yes",  # type: ignore[arg-type]
            soft_gate="sometimes",  # type: ignore[arg-type]
            tag_keys=("a", "b", "c", "d", "e", "f"),
            default_plan="",
        )
    assert fields(caught.value) == {
        "base_url",
        "flush_interval",
        "max_batch_size",
        "max_queue_size",
        "raise_on_hard_gate",
        "soft_gate",
        "tag_keys",
        "default_plan",
    }
    assert "-1" in str(caught.value)
    assert Paygent.get_instance() is None


def test_p10__plans__name_every_broken_rule_at_once() -> None:
    """The unit slip, the wrong type and the impossible gate are found together."""
    with pytest.raises(InvalidValue) as caught:
        PlanConfig(
            max_spend_per_period=-1,
            soft_gate_at=1.5,
            model_limits={"gpt-4o": "lots"},  # type: ignore[dict-item]
            tool_costs={"search": float("nan")},
        )
    assert fields(caught.value) == {
        "max_spend_per_period",
        "soft_gate_at",
        "model_limits.gpt-4o",
        "tool_costs.search",
    }


@pytest.mark.parametrize(
    ("verb", "arguments", "field"),
    [
        ("configure_plan", ("", PlanConfig()), "name"),
        ("configure_plan", ("p", {"max_spend_per_period": 1}), "config"),
        ("assign_plan", (None, "p"), "user_id"),
        ("assign_plan", ("u1", ""), "plan"),
        ("assign_plan", ("u1", "p", "this month"), "billing_period"),
        ("start_session", ("u1", "p", {"x": 1}), "plan_config"),
        ("get_usage", (3.5,), "user_id"),
        ("check_guard", ("",), "user_id"),
        ("check_guard", ("u1", 7), "model"),
        ("is_within_limit", ("u1", {"gpt": 4}), "model"),
        ("report", ("colour",), "by"),
        ("on_usage", ("not callable",), "callback"),
    ],
)
def test_p10__a_verb__names_the_bad_argument(
    verb: str, arguments: tuple[Any, ...], field: str, init: Init
) -> None:
    """Each verb names field, value and rule."""
    pg = init()
    with pytest.raises(InvalidValue) as caught:
        getattr(pg, verb)(*arguments)
    assert field in fields(caught.value)


def test_p10__record_event__names_every_bad_argument_and_books_nothing(init: Init) -> None:
    """A bad event is refused as a whole."""
    pg = init()
    with pytest.raises(InvalidValue) as caught:
        pg.record_event(
            "u1",
            cost=-1,
            input_tokens=-5,
            output_tokens="x",  # type: ignore[arg-type]
            model="",
            description="x" * 1001,
            tool_calls="search",  # type: ignore[arg-type]
            metadata=[1],  # type: ignore[arg-type]
        )
    assert fields(caught.value) == {
        "cost",
        "input_tokens",
        "output_tokens",
        "model",
        "description",
        "tool_calls",
        "metadata",
    }
    assert pg.get_usage("u1").period_cost_nano == 0


def test_p10__a_billing_period__must_have_a_length() -> None:
    """An end before the start is refused."""
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(InvalidValue, match="must be after start"):
        BillingPeriod(start, start)


def test_p10__a_cap_out_of_range__is_no_limit_and_said(init: Init) -> None:
    """Above 9·10⁹ dollars a cap could not be told from none."""
    pg = init()
    with pytest.warns(UserWarning, match="counts as no limit"):
        pg.configure_plan("huge", PlanConfig(max_spend_per_period=10**10))


def test_p10__metadata_beyond_its_bounds__is_dropped_and_said(
    init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """At most 16 keys and 1 kB; the event itself is booked."""
    pg = init()
    event = pg.record_event("u1", cost=1, metadata={f"k{number}": number for number in range(20)})
    assert len(event.metadata) == 16
    assert "the rest is dropped" in caplog.text


BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))
"""Aware, and not to be told in UTC."""


@pytest.mark.parametrize(
    ("verb", "field"),
    [
        (lambda pg: pg.configure_plan("caf\udce9", PlanConfig()), "name"),
        (lambda pg: pg.assign_plan("u1", "a\0b"), "plan"),
        (lambda pg: BillingPeriod(BEFORE_TIME, datetime(2026, 1, 1)), "start"),
        (lambda pg: pg.report(start=BEFORE_TIME), "start"),
        (lambda pg: pg.record_event("u1", cost=1, model="\ud800"), "model"),
    ],
)
def test_p10__what_no_ledger_and_no_calendar_can_hold__is_refused_by_name(
    init: Init, verb: Callable[[Paygent], object], field: str
) -> None:
    """Found where it is given, and not later on a thread of ours."""
    with pytest.raises(InvalidValue) as caught:
        verb(init(auto_instrument=False))
    assert [each.field for each in caught.value.findings] == [field]


def test_p10__an_id_of_thousands_of_digits__is_missing_and_raises_nothing(init: Init) -> None:
    """Around a call nothing is raised, whatever the id is."""
    pg = init(auto_instrument=False)
    with paygent_context(10**5_000, session_id=10**5_000):
        assert pg.record_event(cost=1).user_id == "(none)"


class Hostile:
    """An object of which every question raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__
    __iter__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


class Text(str):
    """A string that is not quite one."""


ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 10**30, 10**5_000, float("nan"), float("inf"), Decimal("NaN")),
    *("", Text("u1"), "x" * 256, "\ud800", "\0", b"u", "1e5", "\u0661"),
    *([], ["a"], {}, {"a": 1}, {1: object()}, (), set(), range(3), object(), Hostile(), int),
    *(datetime(2026, 1, 1), datetime.max.replace(tzinfo=timezone.utc), PlanConfig(), [{"role": 1}]),
)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "configure_plan": {"name": "p", "config": PlanConfig()},
    "assign_plan": {"user_id": "u1", "plan": "p", "billing_period": None},
    "start_session": {"user_id": "u1", "plan": "p", "plan_config": None},
    "get_usage": {"user_id": "u1"},
    "get_model_usage": {"user_id": "u1"},
    "get_remaining_budget": {"user_id": "u1"},
    "get_session": {"user_id": "u1"},
    "get_user_state": {"user_id": "u1"},
    "refresh_user": {"user_id": "u1"},
    "reset_user": {"user_id": "u1"},
    "remove_session": {"user_id": "u1"},
    "check_guard": {"user_id": "u1", "model": "gpt-4o"},
    "is_within_limit": {"user_id": "u1", "model": "gpt-4o"},
    "get_max_tokens": {
        "user_id": "u1",
        "model": "gpt-4o",
        "estimated_input_tokens": 0,
        "messages": [],
        "hard_cap": 9,
    },
    "record_event": {
        "user_id": "u1",
        "cost": 1,
        "input_tokens": 1,
        "output_tokens": 1,
        "model": "gpt-4o",
        "description": "d",
        "idempotency_key": None,
        "session_id": "s",
        "tool_calls": [],
        "metadata": None,
        "corrects": None,
    },
    "report": {"by": "user", "start": None, "end": None},
    "on_usage": {"callback": len},
    "wrap": {
        "fn": dict,
        "user_id": "u1",
        "model": "gpt-4o",
        "session_id": "s",
        "metadata": None,
        "provider": None,
        "estimated_input_tokens": 1,
        "estimated_max_tokens": 1,
    },
}


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_p10__any_odd_value_of_any_argument__is_taken_or_named(init: Init, verb: str) -> None:
    """No other exception than the one that names the field, and the next call works as ever."""
    pg = init(auto_instrument=False)
    pg._parts.callbacks.register = lambda kind, callback: None  # type: ignore[method-assign] # odd ones
    good, named = ARGUMENTS[verb], set[str]()

    def call(name: str, value: Any) -> None:
        try:
            getattr(pg, verb)(**{**good, name: value})
        except InvalidValue as error:
            found = {finding.field.partition(".")[0] for finding in error.findings}
            # What a correction may not be given beside it is named instead.
            assert name in found or name == "corrects"
            named.add(name)

    for name, value in product(good, ODD):
        call(name, value)
    assert named or verb == "wrap"
    getattr(pg, verb)(**good)
    pg.flush()
    assert pg.pending_events == 0
