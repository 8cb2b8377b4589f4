"""Drives one sequence of operations through three systems, and compares them after each.

- `far`: a Paygent as it is, whose calls take their shortcut, lane and allotment where they can.
- `near`: the same without them. Every call goes the whole way, gets a new lane, is decided by the
  exact gate and priced by the price list.
- `OldRules`: the rules written a second time.

The clock is set, no thread runs, and the ledger answers at once, so that all three do the same at
the same moment. Calls are coroutines of the real wrapper around an SDK's `request`, suspended in
the provider until their answer comes.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Coroutine, Generator
from concurrent.futures import Future
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import openai
from openai.types.chat import ChatCompletion
from tests.property.old_rules import OldRules, OpenCall

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.accounts.user_state import Hold, User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.instrument.http_sdks.wrapper import set_active, wrap_async
from paygent.client.instrument.openai import routes
from paygent.client.runtime.settings import Settings
from paygent.core.account import amount
from paygent.core.event import Event
from paygent.core.messages import Answer, Batch, Question
from paygent.core.period import rolling_length_us
from paygent.core.report import SpendPage
from paygent.core.report_request import SpendRequest
from paygent.core.usage import Usage
from paygent.ledger.local import LocalLedger
from paygent.store.sqlite import SqliteStore
from paygent.types import GuardResult

STEP_US = 1_000
HALF_YEAR_US = 183 * 86_400 * 10**6
"""What passes between two operations, so that no two calls begin at the same moment."""

CLIENT = SimpleNamespace(
    base_url=httpx.URL("https://api.openai.com/v1/"),
    _base_url=httpx.URL("https://api.openai.com/v1/"),
)
_REQUEST: Any = httpx.Request("POST", "https://api.openai.com/v1/chat/completions")
TIMED_OUT = openai.APITimeoutError(_REQUEST)
"""Raised by the provider for a call that may have been billed."""
_REFUSED: Any = httpx.Response(429, request=_REQUEST)
FAILED = openai.RateLimitError("slow down", response=_REFUSED, body=None)
"""The same for one that was not."""


class Begin(NamedTuple):
    """A call begins; `plan` is what its context names."""

    user_id: str
    model: str
    text: int
    max_tokens: int | None = None
    session_id: str | None = None
    plan: str | None = None
    has_metadata: bool = False


class End(NamedTuple):
    """The call in flight at a place, modulo their number, is answered."""

    place: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""  # another one than was asked for


class Fail(NamedTuple):
    """The same for one that fails; one that was sent may have been billed."""

    place: int
    was_sent: bool


class Configure(NamedTuple):
    """A plan is configured."""

    plan: str
    config: PlanConfig


class Assign(NamedTuple):
    """A user is assigned a plan."""

    user_id: str
    plan: str


class Record(NamedTuple):
    """A cost that is no call, in millionths of a dollar."""

    user_id: str
    micro_usd: int
    session_id: str | None = None


class Move(NamedTuple):
    """Time passes."""

    seconds: int


class Ask(NamedTuple):
    """Something is asked of a user, or done to one: the name of a verb."""

    verb: str
    user_id: str
    model: str | None = None


class Flush(NamedTuple):
    """All events are delivered."""


Operation = Begin | End | Fail | Configure | Assign | Record | Move | Ask | Flush


class Scene(NamedTuple):
    """What a story begins with.

    Attributes:
        settings: Of both Paygents.
        plans: By name.
        wants_usage: Whether a usage callback listens, for which each call is counted at once.
    """

    settings: Settings
    plans: dict[str, PlanConfig]
    wants_usage: bool


_products = itertools.count()  # each system has a product of its own in one store


class Ledger(LocalLedger):
    """A ledger in memory that keeps what it was told and asked.

    Attributes:
        events: All that were booked.
        read: User and session of each question since this was last emptied.
    """

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(f"product-{next(_products)}", store, store)
        self.events: list[Event] = []
        self.read: list[tuple[str, str]] = []

    def settle(self, batch: Batch) -> Answer:
        """Book a batch, and note it."""
        self.events += batch.events
        self._note(batch.questions)
        return super().settle(batch)

    def state(self, batch: Batch) -> Answer:
        """Answer questions, and note them."""
        self._note(batch.questions)
        return super().state(batch)

    def close(self) -> None:
        """Leave the store open for other products."""

    def _note(self, questions: tuple[Question, ...]) -> None:
        for question in questions:
            sessions = {key.session_id for key in question.accounts} - {""}
            self.read += [(question.user_id, each) for each in sessions or {""}]


class Running(NamedTuple):
    """A call that waits for its answer."""

    coroutine: Coroutine[Any, Any, Any]
    context: Any


@types.coroutine
def _until_answered() -> Generator[None, Any, Any]:
    return (yield)


def _provider() -> Any:
    async def request(
        client: Any, cast_to: Any, options: Any, *, stream: Any = False, stream_cls: Any = None
    ) -> Any:
        return await _until_answered()

    return request


class System:
    """One Paygent with a clock that is set.

    Attributes:
        fired: The callbacks of gates since this was last emptied.
    """

    def __init__(self, store: SqliteStore, now_us: int, scene: Scene, *, is_far: bool) -> None:
        self.now_us = now_us
        self.ledger = Ledger(store)
        self.fired: list[tuple[str, GuardResult]] = []
        self.names: dict[str, str] = {}
        self.calls: list[Running] = []
        self.pg = Paygent._make(scene.settings, now_us=lambda: self.now_us, ledger=self.ledger)
        self.parts = self.pg._parts
        self._is_far = is_far
        self._set_up_worker()
        self.parts.plans._warn_of_mistakes = lambda *_: None  # type: ignore[method-assign]
        callbacks: Any = self.parts.callbacks
        for kind in ("soft_gate", "hard_gate", *(["usage"] if scene.wants_usage else [])):
            callbacks.register(kind, print)
        callbacks.fire = self._note_fired  # on this thread
        send = _provider()
        if is_far:  # as the SDK's own `request`; around any other each call goes the whole way
            send.__module__ = routes.base_module
        else:
            self._take_gear_out()
        self._request = wrap_async(send, routes)

    def _set_up_worker(self) -> None:
        worker: Any = self.parts.worker
        worker._enabled = False  # no thread: deliveries are operations, and questions wait for none
        assert worker._make_ready()

        def ask(user: User, session_id: str | None, wait_s: float = 60.0) -> Future[bool]:
            answer: Future[bool] = worker._refresh.ask(user, session_id, wait_s)
            worker._refresh._answer_asks([worker._refresh._jobs.get()])
            return answer

        worker.ask = worker.refresh_soon = ask

    def _take_gear_out(self) -> None:
        """Leave the exact gate alone, and the price list."""
        admission: Any = self.parts.accounts.admission
        meter: Any = self.parts.meter

        def allot_none(hold: Hold, woken: list[Waiter]) -> bool:
            admission._count_ended(hold.lane.user, woken)
            return False

        admission._allot = allot_none
        meter._learn_answerer = lambda *_: None

    def _note_fired(self, kind: str, payload: Any) -> None:
        if isinstance(payload, GuardResult):
            self.fired.append((kind, payload))

    @property
    def users(self) -> dict[str, User]:
        """The users that it knows."""
        return self.parts.accounts.registry.users

    def close(self) -> None:
        """Forget what is in flight, and end."""
        for call in self.calls:
            call.coroutine.close()
        self.pg.shutdown(0.1)

    # -- operations

    def begin(self, op: Begin) -> GuardResult | None:
        """Begin a call; return its refusal, or None."""
        body: dict[str, Any] = {
            "model": op.model,
            "messages": [{"role": "user", "content": "x" * op.text}],
        }
        if op.max_tokens is not None:
            body["max_tokens"] = op.max_tokens
        options = SimpleNamespace(
            method="post", url="/chat/completions", json_data=body, headers=None
        )
        metadata = {"step": "one"} if op.has_metadata else None
        if not self._is_far:
            for user in self.users.values():
                user.drop_lanes()

        def begin() -> None:
            paygent_context(op.user_id, op.session_id, op.plan, metadata).__enter__()
            coroutine.send(None)

        coroutine = self._request(CLIENT, None, options)
        context = copy_context()
        set_active(self.parts.meter)
        try:
            context.run(begin)
        except PaygentLimitExceeded as error:
            return error.guard_result
        finally:
            set_active(None)
        self.calls.append(Running(coroutine, context))
        return None

    def end(self, place: int, answer: ChatCompletion | Exception) -> None:
        """End a call with an answer, or an error."""
        call = self.calls.pop(place)
        is_answer = isinstance(answer, ChatCompletion)
        step = call.coroutine.send if is_answer else call.coroutine.throw
        set_active(self.parts.meter)
        try:
            call.context.run(step, answer)
        except StopIteration as ended:
            assert ended.value is answer
        except openai.APIError as error:
            assert error is answer
        else:
            raise AssertionError("a call has not ended")
        finally:
            set_active(None)

    def flush(self) -> None:
        """Deliver all events, and read every user from the ledger again."""
        # Otherwise those alone that were active, and a call in flight that was let in by its
        # allotment becomes that with its end.
        for user in self.users.values():
            user.is_active = True
        self.parts.worker._deliver_round()

    def name_sessions(self) -> None:
        """Give sessions names by which those of two systems can be compared, in their order."""
        for user in self.users.values():
            opened = user.open_session
            if opened is not None:
                self.names.setdefault(opened.session_id, f"#{len(self.names) + 1}")

    def usage(self, user_id: str) -> Any:
        """Return `get_usage` with the name of the session in place of its id."""
        usage = self.pg.get_usage(user_id)
        self.name_sessions()
        session_id = usage.session_id
        return usage.model_copy(update={"session_id": self.names.get(session_id or "", session_id)})

    # -- what is compared at the end

    def events(self) -> list[Event]:
        """Return the ledger's events, without what two systems cannot share."""
        return [
            event._replace(
                event_id="",
                latency_ms=0,
                session_id=self.names.get(event.session_id, event.session_id),
            )
            for event in self.ledger.events
        ]

    def report(self) -> SpendPage:
        """Return the ledger's report of the year around now."""
        span = self.now_us - HALF_YEAR_US, self.now_us + HALF_YEAR_US
        return self.ledger.report(SpendRequest(("user", "model"), *span)).page

    def check_counters(self) -> None:
        """Assert that nothing is held, and that each account is the fold of its events."""
        for user in self.users.values():
            assert not (user.open or user.finished)
            own = [event for event in self.ledger.events if event.user_id == user.user_id]
            check_fold(user, own)


class Trio:
    """The three systems. `apply` does one operation to each, and compares what became of it."""

    def __init__(self, store: SqliteStore, now_us: int, scene: Scene) -> None:
        self.now_us = now_us
        self.far = System(store, now_us, scene, is_far=True)
        self.near = System(store, now_us, scene, is_far=False)
        chosen = scene.settings
        self.rules = OldRules(
            warns_every_call=chosen.soft_gate == "every_call", raises=chosen.raise_on_hard_gate
        )
        self.calls: list[OpenCall] = []
        for name, config in scene.plans.items():
            self.apply(Configure(name, config))

    @property
    def both(self) -> tuple[System, System]:
        """The two Paygents."""
        return self.near, self.far

    def apply(self, op: Operation) -> None:
        """Do one operation, and compare."""
        self.now_us += STEP_US
        for system in self.both:
            system.now_us = self.now_us
            system.fired.clear()
            system.ledger.read.clear()
        self.rules.fired.clear()
        step: Any = getattr(self, "_" + type(op).__name__.lower())
        step(op)
        assert self.near.fired == self.far.fired, "callbacks of the two gears"
        assert self.rules.fired == self.near.fired, "callbacks of the rules"
        for system in self.both:
            system.name_sessions()

    # -- one method for each operation

    def _begin(self, op: Begin) -> None:
        before = self.far.users.get(op.user_id)
        is_uncounted = before is not None and bool(before.finished)
        near, far = self.near.begin(op), self.far.begin(op)
        user = self.rules.look_up(op.user_id, self.now_us, self.near.ledger.read)
        is_free_to_choose = op.user_id not in self.rules.assigned and user.plan_name != op.plan
        if op.plan is not None and is_free_to_choose:
            self.rules.assigned[op.user_id] = op.plan
            self.rules.look_up(op.user_id, self.now_us)
        weight = len("user") + op.text
        call = self.rules.begin(user, op.model, op.session_id, (weight, op.max_tokens), self.now_us)
        assert near == (call if isinstance(call, GuardResult) else None), "decision of the rules"
        if near is not None and near.retryable and far is None and is_uncounted:
            self._take_back()
            return
        assert near == far, "decisions of the two gears"
        if isinstance(call, OpenCall):
            self.calls.append(call)

    def _take_back(self) -> None:
        """End a call that the far gear has let in, knowing less of its likes than the exact gate:
        see the module of the tests.
        """
        self.far.end(-1, FAILED)
        assert self.near.fired.pop() == self.rules.fired.pop()

    def _end(self, op: End) -> None:
        if not self.calls:
            return
        place = op.place % len(self.calls)
        call = self.calls.pop(place)
        answer = answer_of(op, op.model or call.model)
        for system in self.both:
            system.end(place, answer)
        usage = Usage(
            op.input_tokens,
            op.output_tokens,
            cached_input_tokens=op.cached_tokens,
            reasoning_tokens=op.reasoning_tokens,
            model=op.model or call.model,
        )
        self.rules.settle(call, usage)

    def _fail(self, op: Fail) -> None:
        if not self.calls:
            return
        place = op.place % len(self.calls)
        call = self.calls.pop(place)
        for system in self.both:
            system.end(place, TIMED_OUT if op.was_sent else FAILED)
        if op.was_sent:
            self.rules.settle(call, None)
        else:
            call.user.calls.remove(call)

    def _configure(self, op: Configure) -> None:
        for system in self.both:
            system.pg.configure_plan(op.plan, op.config)
        self.rules.plans[op.plan] = op.config

    def _assign(self, op: Assign) -> None:
        for system in self.both:
            system.pg.assign_plan(op.user_id, op.plan)
        self.rules.look_up(op.user_id, self.now_us, self.near.ledger.read)
        self.rules.assigned[op.user_id] = op.plan
        self.rules.look_up(op.user_id, self.now_us)

    def _record(self, op: Record) -> None:
        for system in self.both:
            system.pg.record_event(op.user_id, cost=op.micro_usd / 10**6, session_id=op.session_id)
        user = self.rules.look_up(op.user_id, self.now_us, self.near.ledger.read)
        self.rules.record(user, op.micro_usd * 1_000, op.session_id, self.now_us)

    def _move(self, op: Move) -> None:
        self.now_us += op.seconds * 10**6

    def _ask(self, op: Ask) -> None:
        rules, now_us = self.rules, self.now_us
        if op.verb == "check_guard":
            near, far = (each.pg.check_guard(op.user_id, op.model) for each in self.both)
            user = rules.look_up(op.user_id, now_us, self.near.ledger.read)
            assert near == far
            assert near == rules.check(user, op.model, now_us)
        elif op.verb == "get_usage":
            near, far = (each.usage(op.user_id) for each in self.both)
            user = rules.look_up(op.user_id, now_us, self.near.ledger.read)
            assert near == far
            figures = (near.period_cost_nano, near.session_cost_nano, near.reserved_cost_nano)
            assert (*figures, dict(near.period_tokens_by_model)) == rules.figures(user)
        elif op.verb == "get_remaining_budget":
            left, left_far = (each.pg.get_remaining_budget(op.user_id) for each in self.both)
            user = rules.look_up(op.user_id, now_us, self.near.ledger.read)
            rules.touch_all(user, rules.advised_session(user, now_us), now_us)
            assert left == left_far
        elif op.verb == "remove_session":
            for each in self.both:
                each.pg.remove_session(op.user_id)
            user = rules.look_up(op.user_id, now_us, self.near.ledger.read)
            if user.last_session == user.open_session:
                user.last_session = ""
            user.open_session = ""
        else:
            for each in self.both:
                each.pg.reset_user(op.user_id)
            rules.forget(rules.look_up(op.user_id, now_us))

    def _flush(self, op: Flush) -> None:
        self.rules.deliver()
        for system in self.both:
            system.flush()
        for user_id in self.rules.users:
            self.rules.look_up(user_id, self.now_us, self.near.ledger.read)

    # -- the end

    def finish(self) -> None:
        """End what is in flight, deliver, and compare all that was booked."""
        while self.calls:
            self.apply(Fail(0, was_sent=False))
        for user_id in list(self.rules.users):
            self.apply(Ask("get_usage", user_id))
        self.apply(Flush())
        for user_id in list(self.rules.users):
            self.apply(Ask("get_usage", user_id))
        assert self.near.events() == self.far.events()
        assert self.near.report() == self.far.report()
        for system in self.both:
            system.check_counters()

    def close(self) -> None:
        """End both Paygents."""
        for system in self.both:
            system.close()


def check_fold(user: User, events: list[Event]) -> None:
    """Assert that each account of a user is the fold of the events that it counts."""
    for key, account in user.accounts.items():
        if rolling_length_us(key.limit.window) is None:
            assert account.spent == sum(
                amount(account.metric, cost_nano=event.cost_nano, tokens=event.total_tokens)
                for event in events
                if key.counts(event)
            )


def answer_of(op: End, model: str) -> ChatCompletion:
    """Return OpenAI's answer with these counts."""
    return ChatCompletion.model_validate(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [],
            "usage": {
                "prompt_tokens": op.input_tokens,
                "completion_tokens": op.output_tokens,
                "total_tokens": op.input_tokens + op.output_tokens,
                "prompt_tokens_details": {"cached_tokens": op.cached_tokens},
                "completion_tokens_details": {"reasoning_tokens": op.reasoning_tokens},
            },
        }
    )
