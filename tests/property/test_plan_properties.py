"""Plans, for any that can be made: JSON carries them without loss, and nothing else is raised."""

from __future__ import annotations

import dataclasses
import json
import math
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.limit import Limit, ModelLimitConfig
from paygent.core.plan import ModelCostRate, PlanConfig, limits_of
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.core.validation import InvalidValue

NAMES = st.text(min_size=1, max_size=12)
COSTS = st.decimals(0, 10**6, places=9)
CAPS = st.one_of(
    st.none(),
    st.just(math.inf),
    st.decimals(0, 9 * 10**9, places=9),
    st.integers(0, 9 * 10**9),
    st.floats(0, 9e9),
)
COUNTS = st.integers(0, 9 * 10**18)
PRICES = st.decimals(0, 1000, places=12)
MAYBE_PRICES = st.one_of(st.none(), PRICES)
RATES = st.builds(
    ModelCostRate,
    input=PRICES,
    output=PRICES,
    cached_input=MAYBE_PRICES,
    cache_write=MAYBE_PRICES,
    cache_write_long=MAYBE_PRICES,
    reasoning=MAYBE_PRICES,
    audio_input=MAYBE_PRICES,
    audio_output=MAYBE_PRICES,
    image_input=MAYBE_PRICES,
    image_output=MAYBE_PRICES,
)
WINDOWS = st.sampled_from(["period", "day", "rolling:24h", "rolling:90m", "rolling:7d"])


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    """Draw a limit of any metric, scope and window, with a cap or without one."""
    metric: Any = draw(st.sampled_from(["spend", "tokens", "calls"]))
    scope: Any = draw(st.sampled_from(["user", "session"]))
    cap: Any = draw(CAPS if metric == "spend" else st.one_of(st.just(math.inf), COUNTS))
    model = draw(st.one_of(st.none(), NAMES))
    window = "session" if scope == "session" else draw(WINDOWS)
    return Limit(metric, scope, model, window, cap)


@st.composite
def plans(draw: st.DrawFn) -> PlanConfig:
    """Draw a plan of which every field may differ from its default."""
    hard = draw(st.integers(1, 10**7))
    soft = draw(st.integers(1, hard))
    arguments: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "max_spend_per_period": CAPS,
                "max_spend_per_session": CAPS,
                "model_limits": st.dictionaries(
                    NAMES, st.one_of(st.none(), COUNTS, COUNTS.map(ModelLimitConfig)), max_size=3
                ),
                "cost_rates": st.dictionaries(NAMES, RATES, max_size=2),
                "default_cost_rate": st.one_of(st.none(), RATES),
                "tool_costs": st.dictionaries(NAMES, COSTS, max_size=3),
                "default_tool_cost": COSTS,
                "session_timeout_minutes": st.floats(0.01, 10**6),
                "pre_call_estimate": st.booleans(),
                "pre_call_buffer_tokens": COUNTS,
                "reservation_safety_factor": st.floats(1, 100),
                "price": st.one_of(st.none(), COSTS),
                "limits": st.lists(limits(), max_size=4, unique_by=lambda limit: limit.key),
                "contention_wait_s": st.floats(0, 10**6),
                "when_offline": st.one_of(
                    st.sampled_from(["allow", "block"]),
                    st.fixed_dictionaries({"allow_up_to": COSTS}),
                ),
                "unknown_model": st.sampled_from(["count", "block"]),
            },
        )
    )
    return PlanConfig(soft_gate_at=soft / 10**6, hard_gate_at=hard / 10**6, **arguments)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_plan_from_json__any_plan__is_restored_without_loss(plan: PlanConfig) -> None:
    """A plan written as JSON and read back is the same plan, exact twins included."""
    text = json.dumps(plan_to_json(plan), allow_nan=False)
    restored = plan_from_json(json.loads(text))
    assert restored == plan
    assert restored.model_dump() == plan.model_dump()


@settings(max_examples=120, deadline=None)
@given(plans())
def test_model_copy__any_plan__is_the_same_plan(plan: PlanConfig) -> None:
    """A copy without changes is the same plan to the nano-dollar and the pico-dollar."""
    assert plan.model_copy().model_dump() == plan.model_dump()


@settings(max_examples=120, deadline=None)
@given(plans())
def test_limits_of__any_plan__has_each_limit_once_with_a_cap(plan: PlanConfig) -> None:
    """Each identity stands once and has the smallest cap that the plan gives it."""
    found = limits_of(plan)
    keys = [limit.key for limit in found]
    assert len(set(keys)) == len(keys)
    caps = {limit.key: limit.cap_exact for limit in found}
    assert all(cap is not None for cap in caps.values())
    for limit in plan.limits:
        if limit.cap_exact is not None:
            assert (caps[limit.key] or 0) <= limit.cap_exact


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["inf", "nan", "1e9999999", "-1", Decimal("1e9999999")]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [each.name for each in dataclasses.fields(PlanConfig) if each.init]


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_plan_config__anything__is_a_plan_or_an_invalid_value(arguments: dict[str, Any]) -> None:
    """Whatever an application writes is a plan or the one error that names its findings."""
    try:
        plan = PlanConfig(**arguments)
    except InvalidValue as error:
        assert error.findings
    else:
        limits_of(plan)


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "max_spend", "price_nano", "_dollars"]), JSON, max_size=3
    )
)
def test_plan_from_json__any_document__is_a_plan_or_an_invalid_value(
    document: dict[str, Any],
) -> None:
    """Whatever a document holds is a plan or the one error that names its findings."""
    try:
        plan_from_json(document)
    except InvalidValue as error:
        assert error.findings
