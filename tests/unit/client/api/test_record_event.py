"""Entries by hand: what they cost, on whose account, and what is said of what has no price."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from paygent import InvalidValue, ModelCostRate, Paygent, PlanConfig, paygent_context
from paygent.failopen import diagnostics

Init = Callable[..., Paygent]

PLAN = PlanConfig(
    tool_costs={"search": 0.01},
    cost_rates={"mine": ModelCostRate.per_million(input=1, output=2)},
)


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent whose user `u1` is on a plan with a tool and a model of its own."""
    made = init(auto_instrument=False)
    made.configure_plan("p", PLAN)
    made.assign_plan("u1", "p")
    return made


@pytest.mark.parametrize(
    ("given", "tokens_nano", "tools_nano", "quality"),
    [
        ({"cost": "0.25"}, 250_000_000, 0, "exact"),
        ({"cost": 0}, 0, 0, "exact"),
        # gpt-4o: 2.50 and 10.00 dollars per million
        ({"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100}, 3_500_000, 0, "exact"),
        ({"model": "mine", "input_tokens": 1000, "output_tokens": 100}, 1_200_000, 0, "exact"),
        ({"tool_calls": ["search", "search", "other"]}, 0, 40_000_000, "exact"),
        (
            {"model": "gpt-4o", "input_tokens": 1000, "tool_calls": ("search",)},
            2_500_000,
            10_000_000,
            "exact",
        ),
        # an explicit cost is the whole cost
        (
            {"cost": 1, "model": "gpt-4o", "input_tokens": 1000, "tool_calls": ["search"]},
            1_000_000_000,
            0,
            "exact",
        ),
        ({"model": "nobody-knows", "input_tokens": 10}, 0, 0, "unpriced"),
        ({"input_tokens": 10}, 0, 0, "unpriced"),
    ],
)
def test_record_event__of_each_kind__costs_what_it_says(
    pg: Paygent, given: dict[str, Any], tokens_nano: int, tools_nano: int, quality: str
) -> None:
    """Tokens by their model, tools by the plan or its default, and an explicit cost over both."""
    event = pg.record_event("u1", **given)
    assert (event.cost_tokens_nano, event.cost_tools_nano, event.quality) == (
        tokens_nano,
        tools_nano,
        quality,
    )
    assert event.cost_total_nano == tokens_nano + tools_nano
    assert pg.get_usage("u1").period_cost_nano == event.cost_total_nano
    assert (event.source, event.cost_explicit) == ("manual", "cost" in given)


def test_record_event__tokens_without_a_price__are_said_once(
    pg: Paygent, caplog: pytest.LogCaptureFixture
) -> None:
    """$0 is never silent."""
    for _ in range(2):
        pg.record_event("u1", model="nobody-knows", input_tokens=5)
    assert caplog.text.count("tokens of a model without a price") == 1
    assert diagnostics.counts["unpriced_event"] == 2


def test_record_event__under_a_plan_that_books_the_dearest_rate__is_marked_estimated(
    init: Init,
) -> None:
    """A rate that stands in for an unknown one is no exact price, by hand as in a call."""
    pg = init(auto_instrument=False)
    rates = {"a": ModelCostRate.per_million(input=10, output=30)}
    pg.configure_plan("p", PlanConfig(cost_rates=rates, unknown_model="dearest"))
    pg.assign_plan("u1", "p")
    event = pg.record_event("u1", model="nobody-knows", input_tokens=100)
    assert (event.cost_total_nano, event.quality) == (1_000_000, "estimated")


def test_record_event__by_model__shows_in_the_users_figures(pg: Paygent) -> None:
    """Tokens of an entry count toward its model under the canonical name."""
    pg.record_event("u1", model="gpt-4o-2024-08-06", input_tokens=1000)
    usage = pg.get_usage("u1")
    assert usage.period_tokens_by_model == {"gpt-4o": 1000}
    assert usage.period_cost_by_model_nano == {"gpt-4o": 2_500_000}


def test_record_event__in_a_context__takes_its_user_session_and_metadata(pg: Paygent) -> None:
    """An entry belongs where it is made; its own arguments win."""
    with paygent_context("u1", "s1", metadata={"a": 1}):
        event = pg.record_event(cost=1, description="crawl")
        other = pg.record_event(cost=1, session_id="s2", metadata={"b": 2})
    assert (event.user_id, event.session_id, event.metadata) == ("u1", "s1", {"a": 1})
    assert (other.session_id, other.metadata) == ("s2", {"a": 1, "b": 2})
    assert event.description == "crawl"


@pytest.mark.parametrize(
    ("policy", "user", "said"),
    [("warn", "(none)", 1), ("block", "(none)", 1), ("ignore", "(none)", 0), ("pool", "pool", 0)],
)
def test_record_event__without_a_user__is_never_refused(
    init: Init, policy: str, user: str, said: int
) -> None:
    """The money is spent, so even `on_missing_user="block"` books it, on a line of its own."""
    pg = init(on_missing_user=policy, auto_instrument=False)
    assert pg.record_event(cost=1).user_id == user
    assert diagnostics.counts.get("no_user", 0) == said


def test_record_event__an_idempotency_key_again__is_the_earlier_event(pg: Paygent) -> None:
    """The same key of the same user is one event, even with other figures; others are their own."""
    first = pg.record_event("u1", cost=1, idempotency_key="k")
    assert pg.record_event("u1", cost=2, idempotency_key="k") is first
    assert pg.record_event("u2", cost=2, idempotency_key="k").id != first.id
    assert pg.get_usage("u1").period_cost == 1.0


@pytest.mark.parametrize("part", ["write_sessions", "book", "append", "nudge"])
def test_record_event__interrupted__is_booked_once_by_its_retry(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A retry with the key never returns an event that was not booked, wherever Ctrl-C came."""
    pg.get_usage("u1")
    owner = {
        "book": pg._parts.accounts.admission,
        "append": pg._parts.journal,
        "nudge": pg._parts.worker,
    }.get(part, pg._parts.records)
    original, interruptions = getattr(owner, part), [KeyboardInterrupt()]

    def interrupted(*arguments: Any) -> Any:
        if interruptions:
            raise interruptions.pop()
        return original(*arguments)

    monkeypatch.setattr(owner, part, interrupted)
    with pytest.raises(KeyboardInterrupt):
        pg.record_event("u1", cost=1, session_id="s", idempotency_key="k")
    assert pg.record_event("u1", cost=1, session_id="s", idempotency_key="k").cost_total == 1.0
    assert pg.get_usage("u1").period_cost == 1.0
    pg.flush()
    assert pg.pending_events == 0
    assert (pg.get_usage("u1").period_cost, pg.report()[0].cost_nano) == (1.0, 10**9)


def test_record_event__one_key_on_two_threads_at_once__is_one_event(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both book before either is remembered; both are told of the same event."""
    both = threading.Barrier(2)
    booked = pg._parts.records.book

    def together(*arguments: Any) -> None:
        both.wait(5)
        booked(*arguments)

    monkeypatch.setattr(pg._parts.records, "book", together)
    told: list[Any] = []

    def book(cost: int) -> None:
        told.append(pg.record_event("u1", cost=cost, idempotency_key="k"))

    threads = [threading.Thread(target=book, args=(cost,)) for cost in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told[0] is told[1]
    pg.flush()
    assert pg.get_usage("u1").period_cost_nano == pg.report()[0].cost_nano
    assert pg.report()[0].cost_nano in (10**9, 2 * 10**9)


def test_record_event__keys_without_end__are_remembered_within_bounds(pg: Paygent) -> None:
    """This process forgets its oldest keys; the ledger still books each once."""
    pg._parts.recorder._booked.entries_max = 3
    for number in range(5):
        pg.record_event("u1", cost=1, idempotency_key=f"k{number}")
    assert len(pg._parts.recorder._booked) == 3
    pg.flush()
    pg.record_event("u1", cost=1, idempotency_key="k0")
    pg.flush()
    assert pg.get_usage("u1").period_cost == 5.0


def test_manual__after_a_fork__has_a_lock_of_its_own(pg: Paygent) -> None:
    """A lock that a thread of the parent held does not stop the child."""
    pg._parts.recorder._lock.acquire()
    pg._parts.recorder.renew_after_fork()
    assert pg.record_event("u1", cost=1, idempotency_key="k").cost_total == 1.0


def test_record_event__tells_who_listens(pg: Paygent) -> None:
    """`on_usage` hears of entries as of calls."""
    heard: list[Any] = []
    pg.on_usage(heard.append)
    event = pg.record_event("u1", cost=1)
    pg.flush()
    assert heard == [event]


def test_record_event__a_computed_cost_above_a_million__is_refused_by_name(pg: Paygent) -> None:
    """What no single event may cost given, it may not cost computed; nothing is booked."""
    pg.configure_plan("dear", PlanConfig(default_tool_cost=1_000_000))
    pg.assign_plan("u1", "dear")
    with pytest.raises(InvalidValue, match=r"tool_calls.*at most \$1,000,000"):
        pg.record_event("u1", tool_calls=["t"] * 2)
    assert pg.get_usage("u1").period_cost == 0.0


def test_record_event__the_longest_tool_names__reach_the_ledger(pg: Paygent) -> None:
    """All that is accepted fits into a record, however its characters are encoded."""
    pg.record_event("u1", cost=1, tool_calls=["\N{GRINNING FACE}" * 50] * 1_000)
    pg.flush()
    assert pg.pending_events == 0
    assert pg.report()[0].cost_nano == 10**9
    with pytest.raises(InvalidValue, match=r"tool_calls.*at most 50,000 characters"):
        pg.record_event("u1", cost=1, tool_calls=["x" * 51] * 1_000)
