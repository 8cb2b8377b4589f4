"""Calls that no adapter can meter, on the real SDKs: logged, ignored, or refused before they are
sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anthropic
import openai
import pytest
import websockets.asyncio.client
import websockets.sync.client
from tests.conftest import Closing
from tests.instrument.openai.socket_server import hear, say, serving
from tests.instrument.shapes import MESSAGES, Metered
from websockets.sync.server import ServerConnection

from paygent import (
    GuardResult,
    ModelCostRate,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.client.instrument.realtime import hook
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

VIDEOS = "openai:POST /videos"


@pytest.fixture
def client(fake: FakeProvider, closing: Closing) -> openai.OpenAI:
    """A client of the fake."""
    return closing(openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0))


def make_video(client: openai.OpenAI) -> Any:
    """A call that costs something and has no adapter."""
    return client.post("/videos", body={"model": "sora-2", "prompt": "a cat"}, cast_to=object)


def reason_of(refusal: pytest.ExceptionInfo[PaygentLimitExceeded]) -> str | None:
    """Why a call was refused."""
    return refusal.value.guard_result.gate_reason


def test_openai__an_unmetered_operation__is_refused_before_it_is_sent(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Known to cost something, or in no table; the callbacks are told and nothing is counted."""
    refused: list[GuardResult] = []
    pg = init(on_unmetered="raise")
    pg.on_hard_gate(refused.append)
    with pytest.raises(PaygentLimitExceeded) as caught:
        make_video(client)
    assert reason_of(caught) == f"unmetered:{VIDEOS}"
    with pytest.raises(PaygentLimitExceeded) as caught:
        client.post("/brand/new", body={}, cast_to=object)
    assert reason_of(caught) == "unmetered:openai:POST /brand/new"
    with pytest.raises(PaygentLimitExceeded):
        client.patch("/models", body={}, cast_to=object)
    pg.flush()
    assert len(refused) == 3
    assert fake.requests == []
    assert not [name for name in pg.health()["counts"] if name.startswith("unmetered")]


async def test_openai__an_async_unmetered_operation__is_refused_before_it_is_sent(
    init: Init, fake: FakeProvider
) -> None:
    """The same for async clients; a user that the call names is the one who is refused."""
    init(on_unmetered="raise")
    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded) as caught:
            await client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file="file-1")
    assert reason_of(caught) == "unmetered:openai:POST /fine_tuning/jobs"
    assert caught.value.guard_result.user_id == "u1"
    assert fake.requests == []


def test_anthropic__an_unmetered_operation__is_refused_before_it_is_sent(
    init: Init, fake: FakeProvider, closing: Closing
) -> None:
    """The same for the other SDK."""
    init(on_unmetered="raise")
    client = closing(anthropic.Anthropic(api_key="k", base_url=fake.url))
    with pytest.raises(PaygentLimitExceeded) as caught:
        client.post("/v1/sessions?beta=true", body={}, cast_to=object)
    assert reason_of(caught) == "unmetered:anthropic:POST /sessions"
    assert fake.requests == []


def test_openai__metered_and_free_operations__are_not_refused(
    init: Init, client: openai.OpenAI
) -> None:
    """What can be metered is, and what costs nothing passes."""
    pg = init(on_unmetered="raise")
    metered = Metered(pg)
    client.models.list()
    client.moderations.create(input="x")
    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert metered.only.quality == "exact"


@pytest.mark.parametrize(
    ("path", "is_free"),
    [
        ("/files", True),
        ("/openai/v1/files", True),
        ("{base}/files", True),
        ("{host}/gateway/v1/files", True),
        ("{host}/gateway/files", False),
        ("{base}/videos", False),
    ],
)
def test_openai__an_operation_at_an_address_of_any_form__is_what_it_is(
    path: str, is_free: bool, init: Init, fake: FakeProvider, closing: Closing
) -> None:
    """Relative or absolute, below the client's base URL or a version's prefix."""
    pg = init()
    client = closing(openai.OpenAI(api_key="k", base_url=f"{fake.url}/llm", max_retries=0))
    url = path.format(base=f"{fake.url}/llm", host=fake.url)
    with suppress(openai.NotFoundError):  # the fake has none of these
        client.post(url, body={}, cast_to=object)
    unmetered = [name for name in pg.health()["counts"] if name.startswith("unmetered:")]
    assert (unmetered == []) is is_free
    assert not is_free or len(fake.requests) == 1


def test_openai__an_unmetered_operation_below_the_base_url__has_its_own_name(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Also where the application gives the whole address."""
    init(on_unmetered="raise")
    with pytest.raises(PaygentLimitExceeded) as caught:
        client.post(f"{fake.openai_url}/videos", body={}, cast_to=object)
    assert reason_of(caught) == f"unmetered:{VIDEOS}"


def test_openai__an_unmetered_operation_in_a_wrapped_call__is_metered_with_it(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The remedy that the message names; but not where the wrapped call gave way to another that
    is metered itself.
    """
    pg = init(on_unmetered="raise")
    metered = Metered(pg)
    pg.wrap(lambda: make_video(client), "u1", model="sora-2")
    assert (metered.only.user_id, metered.only.model) == ("u1", "sora-2")

    def both() -> None:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        make_video(client)

    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(both, "u1")
    assert [request.path for request in fake.requests] == ["/v1/videos", "/v1/chat/completions"]


@pytest.mark.parametrize(("has_rate", "quality"), [(False, "unpriced"), (True, "estimated")])
def test_openai__an_unmetered_operation_in_a_wrapped_call__costs_what_the_plan_says(
    has_rate: bool, quality: str, init: Init, client: openai.OpenAI
) -> None:
    """As the message of a refusal has it: $0 without a rate."""
    pg = init(on_unmetered="raise")
    rates = {"sora-2": ModelCostRate.per_million(1000, 1000)} if has_rate else {}
    pg.configure_plan("pro", PlanConfig(cost_rates=rates))
    pg.assign_plan("u1", "pro")
    metered = Metered(pg)
    pg.wrap(lambda: make_video(client), "u1", model="sora-2")
    assert (metered.only.cost_total > 0, metered.only.quality) == (has_rate, quality)


def test_openai__an_unmetered_operation_that_is_ignored__is_only_counted(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """No line in the log."""
    pg = init(on_unmetered="ignore")
    make_video(client)
    assert pg.health()["counts"][f"unmetered:{VIDEOS}"] == 1
    assert "videos" not in caplog.text


class OwnRequest(openai.OpenAI):
    """A client whose own `request` sends again after an error; it may ask for something first."""

    before: Callable[[openai.OpenAI], Any] | None = None

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request."""
        if self.before is not None:
            before, self.before = self.before, None
            before(self)
        try:
            return super().request(*args, **kwargs)
        except openai.InternalServerError:
            return super().request(*args, **kwargs)


class OwnAsyncRequest(openai.AsyncOpenAI):
    """The same, awaited."""

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request."""
        return await super().request(*args, **kwargs)


@pytest.fixture
def make_own(fake: FakeProvider, closing: Closing) -> Callable[[], OwnRequest]:
    """Makes a client of the fake; its own `request` is hooked if it is made after `init`."""
    return lambda: closing(OwnRequest(api_key="k", base_url=fake.openai_url, max_retries=0))


def count(pg: Paygent) -> Any:
    """How many calls for a video have passed."""
    return pg.health()["counts"].get(f"unmetered:{VIDEOS}", 0)


def test_openai__an_unmetered_operation_of_a_subclass__is_counted_once(
    init: Init, make_own: Callable[[], OwnRequest], fake: FakeProvider
) -> None:
    """Our wrapper is around its `request` and around the SDK's; also where it sends again."""
    pg = init()
    own = make_own()
    make_video(own)
    fake.script(Answer(status=500), Answer())
    make_video(own)
    assert (count(pg), len(fake.requests)) == (2, 3)


async def test_openai__an_unmetered_operation_of_an_async_subclass__is_counted_once(
    init: Init, fake: FakeProvider
) -> None:
    """The same, awaited."""
    pg = init()
    async with OwnAsyncRequest(api_key="k", base_url=fake.openai_url) as client:
        await client.post("/videos", body={"model": "sora-2"}, cast_to=object)
    assert (count(pg), len(fake.requests)) == (1, 1)


def test_openai__an_unmetered_operation_of_a_subclass__is_reported_once(
    init: Init, make_own: Callable[[], OwnRequest]
) -> None:
    """`raise_on_hard_gate=False`: one callback for one call."""
    refused: list[GuardResult] = []
    pg = init(on_unmetered="raise", raise_on_hard_gate=False)
    pg.on_hard_gate(refused.append)
    make_video(make_own())
    pg.flush()
    assert [result.gate_reason for result in refused] == [f"unmetered:{VIDEOS}"]
    assert count(pg) == 1


def test_openai__what_a_subclass_asks_in_an_unmetered_operation__counts_by_itself(
    init: Init, make_own: Callable[[], OwnRequest]
) -> None:
    """A chat is metered, and another video counts too."""
    pg = init()
    metered = Metered(pg)
    own = make_own()
    own.before = lambda client: client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    make_video(own)
    assert metered.only.quality == "exact"
    own.before = make_video
    make_video(own)
    assert count(pg) == 3


def test_openai__an_unmetered_operation_that_becomes_another__is_metered_where_that_can_be(
    init: Init, fake: FakeProvider, closing: Closing
) -> None:
    """A subclass sends a chat in its place."""

    class Chatting(openai.OpenAI):
        def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            body = {"model": "gpt-4o", "messages": MESSAGES}
            changed = {"url": "/chat/completions", "json_data": body}
            return super().request(cast_to, options.model_copy(update=changed), **kwargs)

    metered = Metered(init())
    make_video(closing(Chatting(api_key="k", base_url=fake.openai_url)))
    assert (metered.only.quality, fake.requests[0].path) == ("exact", "/v1/chat/completions")


@pytest.mark.parametrize("off", ["disabled", "shut down", "uninstrumented"])
def test_openai__where_paygent_is_off__nothing_is_refused(
    off: str, init: Init, client: openai.OpenAI, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch that turns everything off does."""
    if off == "disabled":
        monkeypatch.setenv("PAYGENT_DISABLED", "1")
    pg = init(on_unmetered="raise")
    if off == "shut down":
        pg.shutdown()
    elif off == "uninstrumented":
        pg.uninstrument()
    make_video(client)
    assert len(fake.requests) == 1


# -- sockets


def _greet(server: ServerConnection) -> None:
    say(server, "session.created")
    list(hear(server))  # until the other side is gone


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address of a known provider that is not metered."""
    monkeypatch.setattr(hook, "_is_provider", lambda address: address.host == "127.0.0.1")
    with serving(_greet) as port:
        yield f"ws://127.0.0.1:{port}/v1/brand/new"


async def test_socket__to_an_unmetered_address__is_refused_before_its_handshake(
    init: Init, address: str
) -> None:
    """Sync and async; without `raise` both connect, and are counted."""
    init(on_unmetered="raise")
    with pytest.raises(PaygentLimitExceeded) as caught:
        websockets.sync.client.connect(address)
    assert reason_of(caught) == "unmetered:openai:WS /v1/brand/new"
    with pytest.raises(PaygentLimitExceeded):
        await websockets.asyncio.client.connect(address)
    pg = init(on_unmetered="ignore")
    with websockets.sync.client.connect(address) as connection:
        assert "session.created" in str(connection.recv())
    async with websockets.asyncio.client.connect(address) as async_connection:
        assert "session.created" in str(await async_connection.recv())
    assert pg.health()["counts"]["unmetered:openai:WS /v1/brand/new"] == 2


def test_socket__with_our_hook_on_both_sides_of_anothers__is_counted_once(
    init: Init, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library has wrapped the handshake, and we wrap what it has made of it."""
    pg = init()
    kind = websockets.sync.client.ClientConnection
    ours = kind.handshake

    def theirs(connection: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(connection, *args, **kwargs)

    monkeypatch.setattr(kind, "handshake", theirs)
    pg.uninstrument()
    pg.instrument()
    assert kind.handshake is not theirs
    with websockets.sync.client.connect(address) as connection:
        connection.recv()
    assert pg.health()["counts"]["unmetered:openai:WS /v1/brand/new"] == 1


@pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:websockets")
async def test_socket__of_the_librarys_old_part__is_refused_before_its_handshake(
    init: Init, address: str
) -> None:
    """It has no taps, so it cannot be metered anywhere."""
    from websockets.legacy.client import connect

    init(on_unmetered="raise")
    with pytest.raises(PaygentLimitExceeded) as caught:
        await connect(address)
    assert reason_of(caught) == "unmetered:websockets.legacy.client"
