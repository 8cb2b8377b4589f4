"""P1 at each seam: whatever of ours fails in a call, the application gets the provider's answer,
the failure is counted, no hold stays, and what was spent is booked. So for calls that go the whole
way and for those that take the shortcut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import openai
import pytest
from tests.accounts import nothing_left
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, drain

from paygent import Paygent, PlanConfig, paygent_context
from paygent.client.accounts import account_lookup, admission, user_state
from paygent.client.accounts import registry as accounts_module
from paygent.client.accounts.admission import Admission
from paygent.client.accounts.forecasts import UsageForecast
from paygent.client.accounts.registry import UserRegistry
from paygent.client.instrument.http_sdks import shortcut
from paygent.client.journal.journal import Journal
from paygent.client.metering import booking, meter, records
from paygent.client.metering.attribution import Attribution
from paygent.client.metering.meter import Meter
from paygent.client.runtime.callbacks import Callbacks
from paygent.core.records import BEGIN, END, MAGIC
from paygent.prices.catalogue import Catalogue
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]


def call(client: openai.OpenAI, **more: Any) -> Any:
    """Make one call."""
    with paygent_context(user_id="u1"):
        return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **more)


@pytest.fixture
def client(init: Init, fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A started Paygent and a client of the fake provider."""
    init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


class Broken(Exception):
    """What the seams raise here."""


def broken(*args: Any, **kwargs: Any) -> Any:
    """Fail like a bug of ours."""
    raise Broken("a bug of ours")


def broken_at(kind: int) -> Callable[..., Any]:
    """Return a `Journal.write` that fails for one kind of record."""
    written = Journal.write

    def write(self: Journal, lane: Any, record: bytes) -> None:
        if record[len(MAGIC)] == kind:
            raise Broken("a bug of ours")
        written(self, lane, record)

    return write


class Seam(NamedTuple):
    """A function that fails: where it is, and the step that then fails.

    Attributes:
        later: Other steps that may fail as well, at another call or on the delivery thread.
    """

    owner: Any
    name: str
    step: str
    replacement: Callable[..., Any] = broken
    plan: PlanConfig = PlanConfig()
    later: tuple[str, ...] = ()


NEAR = PlanConfig(max_spend_per_period=0.03)  # less than the first call of a model may cost
SEAMS = {
    "identify": Seam(Attribution, "resolve", "begin"),
    "user state": Seam(UserRegistry, "user", "begin"),
    "price lookup": Seam(Catalogue, "resolve", "begin"),
    "estimate": Seam(meter, "use_of", "begin"),
    "likes of the call": Seam(Admission, "forecast", "begin"),
    "bound": Seam(user_state, "expected_bound", "begin"),
    "hold": Seam(Admission, "hold", "begin"),
    "allotment": Seam(admission, "allot", "begin"),
    "gate": Seam(admission, "_obstacle", "begin", plan=NEAR),
    "size": Seam(meter, "measure", "begin"),
    "lock": Seam(accounts_module, "acquire_soon", "begin", later=("deliver",)),
    "journal begin": Seam(Journal, "write", "begin", broken_at(BEGIN)),
    "pricing the answer": Seam(booking, "price", "settle"),
    "counting": Seam(Admission, "count", "settle", later=("begin", "deliver")),
    "accounts": Seam(account_lookup, "count", "settle", later=("begin", "deliver")),
    "learning": Seam(UsageForecast, "learn", "settle", later=("deliver",)),
    "price list": Seam(records, "rates_to_json", "price_list"),
    "journal end": Seam(Journal, "write", "settle", broken_at(END)),
}


@pytest.mark.parametrize("seam", SEAMS.values(), ids=SEAMS)
def test_p1__a_seam_that_fails__leaves_the_answer_alone(
    seam: Seam,
    client: openai.OpenAI,
    db_path: str,
    monkeypatch: pytest.MonkeyPatch,
    swallowed: Swallowed,
) -> None:
    """The provider's answer arrives, and the failure is counted and not silent."""
    pg = instance()
    pg.configure_plan("default", seam.plan)
    with monkeypatch.context() as patch:
        patch.setattr(seam.owner, seam.name, seam.replacement)
        answer = call(client)
    expect(swallowed, seam)
    assert answer.choices[0].message.content == "Hello from the fake provider."
    assert pg.health()["counts"][seam.step] == 1
    # What was let through was said above; what was gated is booked, as estimated at least.
    check_calls(0 if seam.step == "begin" else 1, db_path, is_late=seam is SEAMS["journal end"])


def expect(swallowed: Swallowed, seam: Seam) -> None:
    """Allow the failures of a seam; the step of its own must have failed."""
    swallowed.expect(seam.step)
    allow_later(swallowed, seam)


def allow_later(swallowed: Swallowed, seam: Seam) -> None:
    """Allow what may also have failed at another call or on the delivery thread."""
    swallowed.allow(*seam.later)


def instance() -> Paygent:
    """Return the Paygent of the test."""
    pg = Paygent.get_instance()
    assert pg is not None
    return pg


def check_calls(count: int, db_path: str, *, is_late: bool = False) -> None:
    """Check that nothing is held, and that so many calls count: in memory and in the ledger. Where
    the end of one could not be recorded (`is_late`), the ledger has it once the process has ended.
    """
    pg = instance()
    users = pg._parts.accounts.registry.users
    assert sum(pg.get_usage(user_id).period_tokens_total for user_id in users) >= 120 * count
    assert all(nothing_left(pg, user_id) for user_id in users)
    assert pg.health()["calls_in_flight"] == 0
    spent_nano = sum(pg.get_usage(user_id).period_cost_nano for user_id in users)
    assert sum(row.calls for row in pg.report()) == count - is_late
    if is_late:
        pg.shutdown()
        pg = Paygent.init(db_path=db_path)
        assert sum(row.calls for row in pg.report()) == count
    else:
        assert sum(row.cost_nano for row in pg.report()) == spent_nano


@pytest.mark.parametrize("seam", SEAMS.values(), ids=SEAMS)
def test_p1__a_seam_that_fails__leaves_async_calls_alone(
    seam: Seam,
    init: Init,
    fake: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    swallowed: Swallowed,
) -> None:
    """The same on an event loop."""
    init().configure_plan("default", seam.plan)

    async def main() -> Any:
        async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as made:
            with paygent_context(user_id="u1"):
                return await made.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    with monkeypatch.context() as patch:
        patch.setattr(seam.owner, seam.name, seam.replacement)
        answer = asyncio.run(main())
    expect(swallowed, seam)
    assert answer.choices[0].message.content == "Hello from the fake provider."


@pytest.mark.parametrize("seam", SEAMS.values(), ids=SEAMS)
def test_p1__a_seam_that_fails__leaves_streams_and_errors_alone(
    seam: Seam,
    client: openai.OpenAI,
    fake: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    swallowed: Swallowed,
) -> None:
    """Every chunk of a stream arrives, and so does the provider's own exception."""
    instance().configure_plan("default", seam.plan)
    with monkeypatch.context() as patch:
        patch.setattr(seam.owner, seam.name, seam.replacement)
        text = "".join(
            chunk.choices[0].delta.content or "" for chunk in drain(call(client, stream=True))
        )
        fake.script(Answer(status=429))
        with pytest.raises(openai.RateLimitError):
            call(client)
    expect(swallowed, seam)
    assert text == "Hello from the fake provider. "


# -- calls that take the shortcut

SHORTCUT_SEAMS = {
    "size": Seam(shortcut, "sizes_of", "begin"),
    "thread": Seam(shortcut, "get_ident", "begin"),
    "entry": Seam(meter, "enter", "begin"),
    "journal begin": Seam(Journal, "write", "begin", broken_at(BEGIN)),
    "reader": Seam(shortcut.Shortcut, "read", "settle"),
    "finish": Seam(Meter, "finish", "settle"),
    "packing": Seam(meter, "PACK_END", "settle"),
    "journal end": Seam(Journal, "write", "settle", broken_at(END)),
    "counting": Seam(Admission, "count", "settle", later=("begin", "deliver")),
    "pricing": Seam(admission, "event_of_end", "settle", later=("deliver",)),
    "accounts": Seam(account_lookup, "count", "settle", later=("deliver",)),
    "learning": Seam(UsageForecast, "learn", "settle", later=("deliver",)),
    "callback": Seam(Callbacks, "fire", "settle"),
}


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("name", SHORTCUT_SEAMS)
def test_p1__a_seam_of_the_shortcut_that_fails__leaves_the_answer_alone(
    name: str,
    listens: bool,
    client: openai.OpenAI,
    db_path: str,
    monkeypatch: pytest.MonkeyPatch,
    swallowed: Swallowed,
) -> None:
    """The answer arrives, and the call is metered: one that could not begin by the shortcut goes
    the whole way, and one that could not end by it is ended all the same.
    """
    pg, seam = instance(), SHORTCUT_SEAMS[name]
    if listens:
        pg.on_usage(lambda event: None)
    for _ in range(3):
        call(client)
    with monkeypatch.context() as patch:
        whole_way = patch_for(seam, pg, patch)
        answer = call(client)
    assert answer.choices[0].message.content == "Hello from the fake provider."
    if not listens and name in AT_ONCE_ONLY:
        assert seam.step not in pg.health()["counts"]
        allow_later(swallowed, seam)
    else:
        expect(swallowed, seam)
        assert pg.health()["counts"][seam.step] >= 1
    assert len(whole_way) == (seam.step == "begin")
    is_unmetered = name == "journal begin"  # the whole way could not write it either
    check_calls(3 if is_unmetered else 4, db_path, is_late=name in ("packing", "journal end"))


AT_ONCE_ONLY = {"counting", "pricing", "accounts", "learning", "callback"}
"""Without an `on_usage` callback these run later."""


def patch_for(seam: Seam, pg: Paygent, patch: pytest.MonkeyPatch) -> list[object]:
    """Let a seam fail; return a list of the calls that go the whole way."""
    began: list[object] = []
    begin = Meter.begin

    def noted(self: Meter, request: Any) -> Any:
        began.append(request)
        return begin(self, request)

    patch.setattr(Meter, "begin", noted)
    if seam.owner is shortcut.Shortcut:
        for each in pg._parts.meter.shortcuts.values():
            patch.setattr(each, seam.name, seam.replacement)
    else:
        patch.setattr(seam.owner, seam.name, seam.replacement)
    return began
