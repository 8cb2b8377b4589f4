"""Allotments, for any plan and calls: what they let in, the exact gate lets in, and as silently."""

from __future__ import annotations

import itertools
import random
from collections import deque
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.samples import HOUR_US, NOON_US, make_event
from tests.unit.client.accounts.calls import (
    RATES,
    all_held,
    end_with,
    finish,
    lane_of,
    make_accounts,
    new_hold,
    resolved,
    usd,
)

from paygent.client.accounts.allotments import enter
from paygent.client.accounts.forecasts import UsageForecast
from paygent.client.accounts.user_state import Hold, Lane, User
from paygent.core.gate import Reading
from paygent.core.limit import Limit
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Prices, Rates, Tier
from paygent.core.records import event_of_end
from paygent.core.usage_stats import Observation

_TIERED = Rates(
    RATES.prices, (Tier(500, Prices(input=3 * 10**12, output=9 * 10**12)),), source="plan"
)
MODELS = (
    resolved("m", RATES, context_tokens=8_000, max_output_tokens=1_000),
    resolved("tiered", _TIERED, context_tokens=2_000),
    resolved("free", Rates(Prices(), source="plan"), is_free=True),
)
SESSIONS = ("s1", "s2")


def any_plan(chance: random.Random) -> PlanConfig:
    """Return a plan with limits that some dozens of calls reach, or none of them."""

    def cap(few: int, many: int) -> int | None:
        return chance.choice((None, chance.randint(0, few), chance.randint(few, many)))

    spend, session = cap(60, 2_000), cap(60, 2_000)  # in calls of about 300,000 nano-dollars
    limits = (
        Limit("tokens", window="day", cap=cap(10_000, 10**6)),
        Limit("calls", cap=cap(40, 300)),
        Limit("tokens", model="m", cap=cap(10_000, 10**6)),
    )
    return PlanConfig(
        max_spend_per_period=None if spend is None else usd(spend * 300_000),
        max_spend_per_session=None if session is None else usd(session * 300_000),
        limits=tuple(limit for limit in limits if chance.random() < 0.4 and limit.cap is not None),
        soft_gate_at=chance.choice((0.3, 0.8, 1.0)),
        pre_call_estimate=chance.random() < 0.5,
        enforce=chance.random() < 0.7,
        pre_call_buffer_tokens=100,
    )


class Step(NamedTuple):
    """Something that happens to a user.

    Attributes:
        kind: "begin" a call, "end" or "void" an open one, "count", "book" an event, "wait".
        number: Which model and session, or which open call.
        weight, max_tokens: Of a call that begins.
        used: Input and output tokens of a call that ends.
    """

    kind: str
    number: int = 0
    weight: int = 0
    max_tokens: int = 0
    used: tuple[int, int] = (0, 0)


def any_steps(chance: random.Random, count: int) -> list[Step]:
    """Return steps of a user; how often each kind comes differs from run to run."""
    kinds = {
        "begin": 5 + 10 * chance.random(),
        "end": 3 + 6 * chance.random(),
        "void": chance.random(),
        "count": 0.5 * chance.random(),
        "book": 0.2 * chance.random(),
        "wait": 0.2 * chance.random(),
    }
    return [
        Step(
            kind,
            chance.choice((0, 0, 3, 1, 2, chance.randint(0, 99))),
            chance.choice((chance.randint(0, 400), chance.randint(0, 4_000))),
            chance.choice((0, 5, 50, 200)),
            (chance.randint(0, chance.choice((300, 1_500))), chance.randint(0, 150)),
        )
        for kind in chance.choices(list(kinds), list(kinds.values()), k=count)
    ]


class Process:
    """The calls of one user in one process.

    Attributes:
        entered: How many calls were let in by an allotment.
    """

    def __init__(
        self,
        plan: PlanConfig,
        history: list[tuple[int, int]],
        *,
        is_known: bool,
        warn_every_call: bool,
    ) -> None:
        self.accounts = make_accounts(plan, warn_every_call=warn_every_call)
        self.is_known = is_known
        self.strict = plan.pre_call_estimate
        self.open: list[Hold] = []
        self.numbers = itertools.count(10**6)
        self.at_us = NOON_US
        self.entered = 0
        self.unlearned: deque[tuple[UsageForecast, Observation]] = deque()
        for number in range(len(MODELS)):
            for input_tokens, output_tokens in history:
                cost = input_tokens * 1_000 + output_tokens * 4_000
                self.lane(number).forecast.learn(
                    Observation(200, input_tokens, output_tokens, cost)
                )

    @property
    def user(self) -> User:
        """Return the user, of whom the ledger has answered if calls may be let in by allotments."""
        user = self.accounts.registry.user("ann", self.at_us)
        user.known = self.is_known
        return user

    def lane(self, number: int) -> Lane:
        """Return a lane of the user's, of which the model is known to answer."""
        model, session_id = MODELS[number % len(MODELS)], SESSIONS[number % len(SESSIONS)]
        lane = lane_of(self.accounts, self.user, model, session_id=session_id)
        if lane.answerers:
            return lane
        answerer = lane.facts.answerers[0]
        learned = lane.with_answerer(next(self.numbers), answerer, lane.valid_until_us)
        self.user.lanes[lane.key] = learned
        return learned

    def begin(self, step: Step) -> tuple[object, tuple[Reading, ...]]:
        """Ask for a call's hold; return the decision and the warnings."""
        hold = new_hold(
            self.lane(step.number),
            weight=step.weight,
            max_tokens=step.max_tokens,
            at_us=self.at_us,
        )
        outcome = None
        if enter(hold):
            self.entered += 1
        else:
            outcome = self.accounts.admission.hold(hold, strict=self.strict)
        if outcome is None:
            self.open.append(hold)
        return outcome, hold.warnings

    def end(self, step: Step) -> None:
        """End an open call as the meter does: at once where a line is near."""
        hold = self.open.pop(step.number % len(self.open))
        finish(self.accounts, hold, *step.used)
        if self.user.allotment is None or sum(step.used) > hold.lane.tokens_max:
            self.accounts.admission.count(self.user)

    def end_at_once(self, step: Step) -> None:
        """End an open call and count it, but leave what is learned from it for later."""
        hold = self.open.pop(step.number % len(self.open))
        figures = (1, *step.used, 0, 0, 0, 0)
        event = event_of_end(hold.lane.facts, hold.seq, hold.at_us, figures)
        end_with(self.accounts, hold, event)
        forecast = hold.lane.forecast
        max_tokens = forecast.capped(hold.max_tokens) or None
        observation = Observation(hold.weight, *step.used, event.cost_nano, max_tokens)
        self.unlearned.append((forecast, observation))

    def learn(self) -> None:
        """Learn from the calls that have ended."""
        while self.unlearned:
            forecast, observation = self.unlearned.popleft()
            forecast.learn(observation)
            _ = forecast.expectation  # as of each settlement, as where lanes follow it

    def spent(self) -> dict[Any, int]:
        """Return what every account says."""
        self.accounts.admission.count(self.user)
        return {key: each.spent for key, each in self.user.accounts.items() if each.spent}


def run_both(
    plan: PlanConfig,
    history: list[tuple[int, int]],
    steps: list[Step],
    *,
    warn_every_call: bool = False,
) -> tuple[Process, Process]:
    """Run calls in a process with allotments and in one without; compare each decision."""
    far = Process(plan, history, is_known=True, warn_every_call=warn_every_call)
    near = Process(plan, history, is_known=False, warn_every_call=warn_every_call)
    for number, step in enumerate(steps):
        if step.kind == "begin":
            decided = far.begin(step)
            if not far.user.finished:  # it looked at the accounts
                near.learn()
            assert decided == near.begin(step), (number, step)
        elif step.kind == "end" and far.open:
            far.end(step)
            near.end_at_once(step)
            if not far.user.finished:
                near.learn()
        elif step.kind == "void" and far.open:
            for process in (far, near):
                process.accounts.admission.release(
                    process.open.pop(step.number % len(process.open))
                )
        elif step.kind == "count":
            far.accounts.admission.count(far.user)
            near.learn()
        elif step.kind == "book":
            event = make_event(f"e{number}", at_us=far.at_us, cost_tokens_nano=step.weight * 1_000)
            for process in (far, near):
                process.accounts.admission.book(process.user, event)
        elif step.kind == "wait":
            for process in (far, near):
                process.at_us += 5 * HOUR_US
    return far, near


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_enter__any_plan_and_calls__decides_and_warns_as_the_exact_gate_would(seed: int) -> None:
    """An allotment lets no call in that the gate would refuse, and hides no warning."""
    chance = random.Random(seed)
    history = [
        (chance.randint(0, 600), chance.randint(0, 100)) for _ in range(chance.randint(0, 4))
    ]
    far, near = run_both(
        any_plan(chance),
        history,
        any_steps(chance, 100),
        warn_every_call=chance.random() < 0.2,
    )
    while far.open:
        last = Step("end", 0, used=(3, 4))
        far.end(last)
        near.end_at_once(last)
    assert far.spent() == near.spent()
    assert set(all_held(far.user)) <= {0}


def test_run_both__calls_far_from_every_line__are_let_in_by_allotments() -> None:
    """The comparison compares something: the one process looks at its accounts now and then, the
    other at every call.
    """
    steps = [Step("begin", 0, 100, 50), Step("end", 0, used=(30, 20))] * 100
    far, near = run_both(PlanConfig(max_spend_per_period=10.0), [(30, 20)] * 3, steps)
    assert (far.entered, near.entered) == (99, 0)
