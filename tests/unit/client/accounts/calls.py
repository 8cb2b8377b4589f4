"""Calls as the meter begins and ends them: accounts, lanes, holds, settlements."""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import Any

from tests.accounts import held as held_on
from tests.contract.samples import NOON_US, make_event

from paygent.client.accounts.forecasts import Use
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import Hold, Lane, LaneKey, User
from paygent.client.accounts.wait_queue import Waiter
from paygent.core.estimate import Estimate
from paygent.core.event import Event
from paygent.core.gate import Decision
from paygent.core.period import END_OF_TIME_US
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Prices, Rates
from paygent.core.usage_stats import Observation
from paygent.prices.catalogue import Resolved

COMMON = "7000-8000-"
"""The part that the ids of all events of these tests share."""

RATES = Rates(Prices(input=10**12, output=4 * 10**12), source="plan")
"""$1 per million tokens of input and $4 of output: 1,000 and 4,000 nano-dollars a token."""

_numbers = count(1)


def usd(amount_nano: int) -> float:
    """Return nano-dollars as the dollars that a plan is written in."""
    return amount_nano / 10**9


def make_accounts(plan: PlanConfig | None = None, **arguments: Any) -> Accounts:
    """Return accounts whose default plan is `pro`, with sessions named in order."""
    numbers = count(1)
    accounts = Accounts(
        default_plan="pro", new_id=lambda at_us: f"session-{next(numbers)}", **arguments
    )
    if plan is not None:
        accounts.registry.set_plan("pro", plan)
    return accounts


def capped(cap_nano: int = 1_000, **fields: Any) -> PlanConfig:
    """Return a plan with a cap per period in nano-dollars."""
    return PlanConfig(max_spend_per_period=usd(cap_nano), **fields)


@cache
def resolved(model_key: str, rates: Rates = Rates(Prices()), **fields: Any) -> Resolved:  # noqa: B008 - a tuple
    """Return a model as the catalogue resolves it; the same object for the same arguments."""
    known: dict[str, Any] = {"context_tokens": None, "is_free": False, **fields}
    return Resolved(rates, model_key, valid_from_us=0, valid_until_us=END_OF_TIME_US, **known)


def make_user(accounts: Accounts, *, is_known: bool = True, at_us: int = NOON_US) -> User:
    """Return `ann`; far from every line, calls of a known user are let in by an allotment."""
    user = accounts.registry.user("ann", at_us)
    user.known = is_known
    return user


def lane_of(
    accounts: Accounts,
    user: User,
    model: Resolved,
    *,
    session_id: str = "s1",
    route: str = "chat",
    provider: str = "openai",
) -> Lane:
    """Return the lane of a user's calls of a model, made where there is none, as the meter does."""
    key = LaneKey(session_id, provider, route, model.model_key, id(model))
    lane = user.lanes.get(key)
    if lane is None or not lane.is_current():
        forecast = accounts.admission.forecast(user, route, model)
        lane = user.lanes[key] = Lane(next(_numbers), user, key, model, forecast, COMMON)
    return lane


def new_hold(
    lane: Lane,
    use: Use | None = None,
    *,
    weight: int = 0,
    max_tokens: int = 0,
    at_us: int = NOON_US,
    owner: object = None,
) -> Hold:
    """Return a call that is not open yet, made by its own thread or task unless one is named."""
    hold = Hold()
    hold.lane = lane
    hold.seq = next(_numbers)
    hold.at_us = at_us
    hold.weight = weight
    hold.max_tokens = max_tokens
    hold.owner = object() if owner is None else owner
    hold.started_ns = 0
    hold.use = use
    hold.figures = hold.event = hold.observation = None
    hold.is_counted = False
    hold.warnings = ()
    return hold


def fixed_hold(
    accounts: Accounts,
    cost_nano: int,
    *,
    tokens: int = 0,
    session_id: str = "s1",
    model: str = "gpt-4o",
    at_us: int = NOON_US,
    user_id: str = "ann",
    owner: object = None,
) -> Hold:
    """Return a call that is not open yet and holds a fixed amount."""
    user = accounts.registry.user(user_id, at_us)
    lane = lane_of(accounts, user, resolved(model), session_id=session_id)
    return new_hold(lane, Use(Estimate(tokens, 0), cost_nano), at_us=at_us, owner=owner)


def try_hold(
    accounts: Accounts,
    cost_nano: int,
    *,
    strict: bool = False,
    enforce: bool = True,
    **arguments: Any,
) -> Hold | Decision:
    """Ask for a hold of a fixed amount as the meter does; see `fixed_hold` for the arguments."""
    hold = fixed_hold(accounts, cost_nano, **arguments)
    decision = accounts.admission.hold(hold, strict=strict, enforce=enforce)
    assert not isinstance(decision, Waiter)
    return hold if decision is None else decision


def held(accounts: Accounts, cost_nano: int, **arguments: Any) -> Hold:
    """Return a hold that must be granted."""
    answer = try_hold(accounts, cost_nano, **arguments)
    assert isinstance(answer, Hold), answer
    return answer


def refused(accounts: Accounts, cost_nano: int, **arguments: Any) -> Decision:
    """Return the decision of a hold that must be refused."""
    answer = try_hold(accounts, cost_nano, **arguments)
    assert isinstance(answer, Decision), answer
    return answer


def settle(accounts: Accounts, event_id: str, hold: Hold | None = None, **fields: Any) -> Event:
    """Settle a call of `ann` that cost 100 unless said otherwise; without one, book an event."""
    event = make_event(event_id, **{"cost_tokens_nano": 100, **fields})
    if hold is None:
        accounts.admission.book(accounts.registry.user(event.user_id, event.at_us), event)
    else:
        end_with(accounts, hold, event)
    return event


def end_with(
    accounts: Accounts, hold: Hold, event: Event, observation: Observation | None = None
) -> None:
    """End a call with an event, count it, and learn what was observed."""
    hold.event, hold.observation = event, observation
    accounts.admission.end(hold)
    accounts.admission.count(hold.lane.user)


def finish(accounts: Accounts, hold: Hold, input_tokens: int, output_tokens: int) -> None:
    """End a call with what the provider counted, and leave it to be counted later."""
    hold.figures = (1, input_tokens, output_tokens, 0, 0, 0, 0)
    accounts.admission.end(hold)


def all_held(user: User) -> list[int]:
    """Return what is held, open and waiting anywhere; zeros when nothing is in flight."""
    return [
        *(held_on(user, account) for account in user.accounts.values()),
        *(len(account.waiting) for account in user.accounts.values()),
        len(user.open),
        len(user.finished),
    ]
