"""The two gears of the gate: what far from every line is decided by an allotment, and what near one
by exact figures, is the same as by the rules written a second time.

Decisions, warnings, figures and events are equal after each operation, with two exceptions:

- A call that has ended is counted later where it was let in by an allotment; until then it has not
  taught what calls like it use. So the far gear may let a call in that would have waited for others
  in flight (`contention`), if calls were uncounted when it began. It never lets one in where a cap
  is used up, never refuses what the exact gate lets in, and warns at the same call.
- What other users' calls teach about a model is known once they are counted. In these stories, each
  user has models of their own.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from itertools import chain
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.two_gears import (
    CLIENT,
    FAILED,
    TIMED_OUT,
    Ask,
    Assign,
    Begin,
    Configure,
    End,
    Fail,
    Flush,
    Ledger,
    Move,
    Operation,
    Record,
    Scene,
    Trio,
    answer_of,
    check_fold,
)

from paygent import Limit, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.instrument.http_sdks.wrapper import wrap_sync
from paygent.client.instrument.openai import routes
from paygent.client.runtime.settings import Settings
from paygent.core.period import to_us
from paygent.store.sqlite import SqliteStore
from paygent.types import ModelCostRate

START_US = to_us(datetime(2025, 6, 9, 23, 30, tzinfo=timezone.utc))
INPUT, OUTPUT = 110, 60
CALL_NANO = INPUT * 2_500 + OUTPUT * 10_000  # of such a call of gpt-4o
USERS = ("ann", "ben")
MODELS = {
    "ann": ("gpt-4o", "gpt-4o", "o3", "gpt-4o-mini"),
    "ben": ("gpt-4.1", "gpt-4.1-mini"),
    "cas": ("gpt-4.1-nano",),  # whose plan is named by the context of each call
}
RATES = {"gpt-4o-mini": ModelCostRate.per_million(2, 8)}
OTHER_RATES = {
    "gpt-4o-mini": ModelCostRate.per_million(0, 0),
    "gpt-4o": ModelCostRate.per_million(1, 3),
}


def plan(*limits: Limit, session_calls: int = 10_000, **fields: Any) -> PlanConfig:
    """Return a plan with a small buffer, on which no call waits.

    Each has a limit of calls per session: one that is added counts from then on in sessions that
    are known already.
    """
    return PlanConfig(
        **{
            "cost_rates": RATES,
            "pre_call_buffer_tokens": 200,
            "contention_wait_s": 0,
            "session_timeout_minutes": 10,
            "soft_gate_at": 0.4,
            "limits": (*limits, Limit("calls", "session", None, "session", session_calls)),
            **fields,
        }
    )


PLANS = (
    plan(max_spend_per_period=0.01),
    plan(max_spend_per_period=0.03),
    plan(max_spend_per_period=0.08),
    plan(max_spend_per_period=0.3),
    plan(max_spend_per_period=0.05, max_spend_per_session=0.01, hard_gate_at=1.2),
    plan(max_spend_per_period=0.05, cost_rates=OTHER_RATES),
    plan(model_limits={"gpt-4o": 4_000, "gpt-4.1": 2_500}),
    plan(Limit("calls", window="day", cap=9), Limit("spend", window="day", cap=0.03)),
    plan(Limit("tokens", window="rolling:60m", cap=6_000)),
    plan(session_calls=8),
    plan(max_spend_per_period=0.03, pre_call_estimate=True),
    plan(max_spend_per_period=0.1, pre_call_estimate=True, model_limits={"o3": 5_000}),
    plan(max_spend_per_period=0.02, enforce=False),
    plan(max_spend_per_period=0),
    plan(max_spend_per_period=1, max_spend_per_session=0.3),
    plan(Limit("calls", cap=15), max_spend_per_period=20),
    plan(),
)

users = st.sampled_from(USERS)
sessions = st.sampled_from((None, None, None, None, None, "s1", "s2"))
inputs = st.sampled_from((1, 20, 60, 60, 120, 120, 600, 3_000))
outputs = st.sampled_from((1, 20, 60, 60, 120, 120, 200, 1_500))
caps = st.sampled_from((None, None, 50, 400))
sizes = st.sampled_from((0, 40, 400, 2_000))


@st.composite
def begins(draw: st.DrawFn) -> Begin:
    """Draw the begin of a call."""
    user_id = draw(st.sampled_from(("ann", "ann", "ann", "ben", "ben", "cas")))
    return Begin(
        user_id,
        draw(st.sampled_from(MODELS[user_id])),
        draw(sizes),
        draw(caps),
        draw(sessions),
        "pro" if user_id == "cas" else None,
        draw(st.sampled_from((False,) * 9 + (True,))),
    )


@st.composite
def ends(draw: st.DrawFn) -> End:
    """Draw an answer."""
    input_tokens, output_tokens = draw(inputs), draw(outputs)
    cached, reasoning = draw(st.sampled_from(((0, 0),) * 3 + ((2, 0), (0, 2), (4, 3))))
    return End(
        draw(st.integers(0, 5)),
        input_tokens,
        output_tokens,
        input_tokens // cached if cached else 0,
        output_tokens // reasoning if reasoning else 0,
    )


@st.composite
def rows(draw: st.DrawFn) -> list[Operation]:
    """Draw calls like each other, one after the other or all at once."""
    begin, count = draw(begins()), draw(st.integers(1, 8))
    answers = [draw(ends()) for _ in range(draw(st.integers(1, 2)))] * count
    story: list[Operation] = []
    if draw(st.booleans()):
        for answer in answers[:count]:
            story += [begin, answer]
    else:
        story += [begin] * count
        story += answers[: draw(st.integers(0, count))]
    return story


@st.composite
def others(draw: st.DrawFn) -> list[Operation]:
    """Draw anything else."""
    user_id = draw(users)
    name = draw(st.sampled_from(("default", "pro")))
    choices: tuple[Operation, ...] = (
        Fail(0, was_sent=True),
        Fail(2, was_sent=True),
        Fail(1, was_sent=False),
        Configure(name, draw(st.sampled_from(PLANS))),
        Configure("default", draw(st.sampled_from(PLANS))),
        Assign(user_id, name),
        Record(user_id, draw(st.sampled_from((0, 100, 2_000, 9_000))), draw(sessions)),
        Move(draw(st.sampled_from((20, 200, 3_600, 86_400, 23 * 86_400)))),
        Ask("check_guard", user_id, draw(st.sampled_from((None, *MODELS[user_id])))),
        Ask("get_usage", user_id),
        Ask("get_remaining_budget", user_id),
        Ask("remove_session", user_id),
        Ask("reset_user", user_id),
        Flush(),
    )
    return [draw(st.sampled_from(choices))]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Draw what a story begins with."""
    chosen = Settings(
        soft_gate=draw(st.sampled_from(("once", "every_call"))),
        raise_on_hard_gate=draw(st.sampled_from((True, True, False))),
    )
    plans = {name: draw(st.sampled_from(PLANS)) for name in ("default", "pro")}
    return Scene(chosen, plans, wants_usage=draw(st.sampled_from((False, False, True))))


one = st.one_of(begins(), ends(), ends()).map(lambda op: [op])
stories = st.lists(st.one_of(rows(), rows(), one, others()), min_size=6, max_size=20)


def play(store: SqliteStore, scene: Scene, story: Iterable[Operation]) -> None:
    """Do operations, one after the other, and compare after each."""
    trio = Trio(store, START_US, scene)
    try:
        for op in story:
            trio.apply(op)
        trio.finish()
    finally:
        trio.close()


@pytest.fixture(scope="module")
def store() -> Iterator[SqliteStore]:
    """A store in memory; each Paygent has a product of its own there."""
    made = SqliteStore(":memory:")
    yield made
    made.close()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(scenes(), stories)
def test_two_gears__any_operations__decide_and_book_the_same(
    store: SqliteStore, scene: Scene, story: list[list[Operation]]
) -> None:
    """The far gear lets in what the exact gate lets in, and books what it books."""
    play(store, scene, chain.from_iterable(story))


@st.composite
def approaches(draw: st.DrawFn) -> tuple[Scene, list[Operation]]:
    """Draw calls of all sizes on the way to the lines of one plan. (About one story in a hundred
    has open calls of two lanes of one forecast, hence the number of examples.)
    """
    cap_usd = draw(st.sampled_from((10, 30, 100, 300))) * CALL_NANO / 10**9
    fields: dict[str, Any] = {
        "max_spend_per_period": cap_usd,
        "soft_gate_at": draw(st.sampled_from((0.3, 0.7, 1))),
    }
    if draw(st.booleans()):
        fields["model_limits"] = {
            "gpt-4o": draw(st.sampled_from((10, 30, 100, 300))) * (INPUT + OUTPUT)
        }
    story: list[Operation] = []
    for _ in range(draw(st.integers(20, 70))):
        model = draw(st.sampled_from(("gpt-4o", "gpt-4o", "gpt-4o", "o3")))
        begin = Begin("ann", model, draw(sizes), draw(caps))
        story.append(draw(st.one_of(st.just(begin), ends())))
    return Scene(Settings(), {"default": plan(**fields)}, wants_usage=False), story


@settings(max_examples=180, deadline=None, derandomize=True)
@given(approaches())
def test_two_gears__calls_on_the_way_to_a_line__are_warned_and_refused_at_the_same_call(
    store: SqliteStore, approach: tuple[Scene, list[Operation]]
) -> None:
    """The room of an allotment shrinks with each call, by what it has really used."""
    play(store, *approach)


EACH = End(0, 110, 60)
FIRST = Begin("ann", "gpt-4o", 400)
BOUNDED = FIRST._replace(max_tokens=100)
FAR_AWAY = plan(max_spend_per_period=20)
SMALLER = End(1, 60, 20)
EQUAL: list[Operation] = [FIRST, EACH]
UNEQUAL: list[Operation] = [FIRST, SMALLER]
UNCOUNTED = [*EQUAL * 6, FIRST, *UNEQUAL * 6]


@pytest.mark.parametrize(
    ("default", "story"),
    [
        pytest.param(FAR_AWAY, [*UNCOUNTED, Fail(0, was_sent=True)], id="time-out"),
        pytest.param(
            plan(max_spend_per_period=0.1, pre_call_estimate=True),
            [BOUNDED, EACH, BOUNDED, BOUNDED, End(0, 3_000, 60), Ask("get_usage", "ann")],
            id="strict",
        ),
        pytest.param(
            plan(max_spend_per_period=0.01),
            [
                *EQUAL,
                Record("ann", 5_000),
                *EQUAL,
                Configure("default", plan(max_spend_per_period=0.009)),
                Ask("get_usage", "ann"),
                Configure("default", plan(max_spend_per_period=0.01)),
                FIRST,
            ],
            id="warned",
        ),
    ],
)
def test_two_gears__calls_that_are_not_counted_yet__change_no_figure(
    store: SqliteStore, default: PlanConfig, story: list[Operation]
) -> None:
    """What a call that has ended changes is seen by the next one, however late it is counted."""
    play(store, Scene(Settings(), {"default": default}, wants_usage=False), story)


# -- threads

THREADS, CALLS_EACH, ROUNDS = 6, 25, 25


class Crowd:
    """Threads of one user that call, fail, ask and change plans at random.

    Attributes:
        manual_nano: What was recorded besides calls.
        booked: How many events they have made.
    """

    def __init__(self, pg: Paygent, user_id: str, config: PlanConfig, seed: int) -> None:
        self.pg, self.user_id, self.config = pg, user_id, config
        self.seed = seed
        self.manual_nano: list[int] = []
        self.booked: list[None] = []
        self.failed: list[BaseException] = []

        def send(
            client: Any, cast_to: Any, options: Any, *, stream: Any = False, stream_cls: Any = None
        ) -> Any:
            time.sleep(options.pause_s)
            if options.error is not None:
                raise options.error
            return answer_of(End(0, INPUT, OUTPUT), "gpt-4o")

        send.__module__ = routes.base_module
        self.request = wrap_sync(send, routes)

    def call(self, chance: random.Random, error: Exception | None = None) -> bool:
        """Make one call; return whether it was let in."""
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 436}]}
        options = SimpleNamespace(
            method="post", url="/chat/completions", json_data=body, headers=None, error=error,
            pause_s=chance.choice((0, 0, 0, 1e-4, 1e-3)),
        )  # fmt: skip
        metadata = {"step": "one"} if chance.random() < 0.05 else None
        try:
            with paygent_context(self.user_id, metadata=metadata):
                self.request(CLIENT, None, options)
        except PaygentLimitExceeded:
            return False
        except openai.APIError as raised:
            if isinstance(raised, openai.RateLimitError):
                return True
        self.booked.append(None)
        return True

    def run(self, number: int) -> None:
        """Do one thread's part."""
        chance = random.Random(self.seed * THREADS + number)
        try:
            for _ in range(CALLS_EACH):
                self.step(chance)
        except BaseException as error:  # noqa: BLE001 - the test's thread reports it
            self.failed.append(error)

    def step(self, chance: random.Random) -> None:
        """Do one of the things that threads do."""
        kind = chance.random()
        if kind < 0.8:
            self.call(chance)
        elif kind < 0.86:
            self.call(chance, FAILED)
        elif kind < 0.9:
            self.call(chance, TIMED_OUT)
        elif kind < 0.94:
            self.pg.get_usage(self.user_id)
        elif kind < 0.97:
            self.pg.check_guard(self.user_id, "gpt-4o")
        elif kind < 0.985:
            self.pg.record_event(self.user_id, cost=1e-6)
            self.manual_nano.append(1_000)
            self.booked.append(None)
        else:  # the same limits in another object: every lane is made again
            self.pg.configure_plan("default", self.config.model_copy())

    def come(self) -> None:
        """Run all threads, then call until the limit refuses."""
        threads = [threading.Thread(target=self.run, args=(each,)) for each in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not self.failed
        chance = random.Random(self.seed)
        while self.call(chance):
            pass


@pytest.fixture
def often() -> Iterator[None]:
    """Switch threads every ten microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("metric", ["spend", "calls"])
def test_two_gears__threads_of_one_user_near_the_line__pass_it_by_the_straddler_at_most(
    store: SqliteStore, metric: str
) -> None:
    """The whole cap is used and no more; nothing stays held, and counters are the fold of events.

    All calls cost the same, so none costs more than it holds. A limit of calls is never passed.
    """
    ledger = Ledger(store)
    pg = Paygent.launch(Settings(auto_instrument=False, carry_user=False), ledger=ledger)
    warned: Counter[str | None] = Counter()
    pg.on_soft_gate(lambda result: warned.update([result.user_id]))
    for number in range(ROUNDS):
        user_id, cap = f"user-{number}", 10 + 7 * number % 60
        limits: dict[str, Any] = {"max_spend_per_period": cap * CALL_NANO / 10**9}
        if metric == "calls":
            limits = {"limits": (Limit("calls", cap=cap),)}
        config = PlanConfig(
            pre_call_buffer_tokens=OUTPUT, contention_wait_s=20, soft_gate_at=0.5, **limits
        )
        pg.configure_plan("default", config)
        crowd = Crowd(pg, user_id, config, number)
        crowd.come()
        pg.flush()
        own = [event for event in ledger.events if event.user_id == user_id]
        spent = sum(event.cost_nano for event in own)
        assert len(own) == len(crowd.booked)
        assert pg.get_usage(user_id).period_cost_nano == spent
        user = pg._parts.accounts.registry.users[user_id]
        assert not (user.open or user.finished)
        check_fold(user, own)
        assert warned[user_id] <= 1
        if metric == "calls":
            assert cap <= len(own) <= cap + len(crowd.manual_nano)
        else:
            above = sum(max(event.cost_nano - CALL_NANO, 0) for event in own)
            passed = spent - cap * CALL_NANO
            assert 0 <= passed < CALL_NANO + above + sum(crowd.manual_nano)
