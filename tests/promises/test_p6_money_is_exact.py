"""P6: money is exact: integers inside, each public float the double nearest to the exact amount."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES

from paygent import InvalidValue, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.core.period import to_us
from paygent.core.pricing import cost_nano
from paygent.core.usage import Usage
from paygent.prices.catalogue import Catalogue
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]


def test_p6__100_000_events_of_a_millionth_and_a_half__make_exactly_15_cents(init: Init) -> None:
    """100,000 × $0.0000015 is $0.15, in memory and in the store."""
    pg = init()
    for _ in range(100_000):
        pg.record_event("u1", cost=0.0000015)
    assert pg.get_usage("u1").period_cost == 0.15
    pg.flush()
    assert pg.get_usage("u1").period_cost_nano == 150_000_000
    assert pg.report()[0].cost_nano == 150_000_000


def test_p6__ten_times_ten_cents_against_a_dollar__is_a_hard_gate_and_eight_a_soft_one(
    init: Init, fake: FakeProvider
) -> None:
    """80 % and 100 % are compared in integers, and the next LLM call raises before it is sent."""
    pg = init()
    pg.configure_plan("dollar", PlanConfig(max_spend_per_period=1.00))
    pg.assign_plan("u1", "dollar")
    statuses = [pg.check_guard("u1").status]
    for _ in range(10):
        pg.record_event("u1", cost=0.1)
        statuses.append(pg.check_guard("u1").status)
    assert statuses == ["ok"] * 8 + ["soft_gate"] * 2 + ["hard_gate"]
    assert pg.check_guard("u1").usage_pct == 1.0
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded) as caught:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert caught.value.guard_result.gate_reason == "total_spend"
    assert fake.requests == []


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), -0.01, "a lot", Decimal("-1"), 1e7, True]
)
def test_p6__a_cost_that_is_none__is_refused_by_name_and_nothing_is_booked(
    bad: Any, init: Init
) -> None:
    """NaN, infinite, negative and absurd costs name field, value and rule."""
    pg = init()
    with pytest.raises(InvalidValue, match="cost = ") as caught:
        pg.record_event("u1", cost=bad)
    assert caught.value.findings[0].field == "cost"
    assert pg.get_usage("u1").period_cost_nano == 0


# What the public price lists of OpenAI and Anthropic said in 2026-11, in dollars per million
# tokens; the amounts were worked out by hand from these, in nano-dollars.
PUBLIC = [
    # gpt-4o: 2.50 in, 1.25 cached, 10.00 out: 1,000 in (400 cached) and 500 out
    ("openai", "gpt-4o", Usage(1000, 500, 400), 1_500_000 + 500_000 + 5_000_000),
    # gpt-4o-mini: 0.15 in, 0.60 out: 1,001 in and 333 out, 150.15 + 199.8 µ$ = 349,950 nano
    ("openai", "gpt-4o-mini", Usage(1001, 333), 150_150 + 199_800),
    # a dated snapshot with prices of its own: gpt-4o-2024-05-13 5.00 in, 15.00 out
    ("openai", "gpt-4o-2024-05-13", Usage(1000, 500), 5_000_000 + 7_500_000),
    # a dated snapshot at its model's price
    ("openai", "gpt-4o-2024-08-06", Usage(1000, 500), 2_500_000 + 5_000_000),
    # a fine-tune at its own price: 0.30 in, 1.20 out
    ("openai", "ft:gpt-4o-mini-2024-07-18:acme::x", Usage(1000, 500), 300_000 + 600_000),
    # claude-opus-5: 5.00 in, 0.50 read, 6.25 5-minute write, 10.00 1-hour write, 25.00 out
    (
        "anthropic",
        "claude-opus-5",
        Usage(10_000, 1_000, 6_000, 2_000, 1_000),
        1_000 * 5_000 + 6_000 * 500 + 2_000 * 6_250 + 1_000 * 10_000 + 1_000 * 25_000,
    ),
]


@pytest.mark.parametrize(("provider", "model", "usage", "amount"), PUBLIC)
def test_p6__without_rates_of_its_own__a_model_costs_the_public_rate_to_the_nano_dollar(
    provider: str, model: str, usage: Usage, amount: int
) -> None:
    """Expected amounts are literals from public price lists."""
    from datetime import datetime, timezone

    at_us = to_us(datetime(2026, 11, 24, tzinfo=timezone.utc))
    resolved = Catalogue().resolve(provider, model, at_us, PlanConfig())
    assert cost_nano(usage, resolved.rates) == amount
    assert resolved.rates.price_id.startswith("genai-prices:")


def test_p6__a_dollar_cap_with_catalogue_prices__fires(init: Init, fake: FakeProvider) -> None:
    """$0.0009 is two calls of $0.00045: the third is refused."""
    pg = init()
    pg.configure_plan("tight", PlanConfig(max_spend_per_period="0.0009"))
    pg.assign_plan("u1", "tight")
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            with pytest.raises(PaygentLimitExceeded):
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert pg.get_usage("u1").period_cost == 0.0009
