"""Calls that no adapter can meter, on the real SDKs: logged, ignored, or refused before they are
sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from paygent import GuardResult, Paygent, PaygentLimitExceeded, paygent_context
from paygent.client.instrument.realtime import hook
from paygent.testing import FakeProvider

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


def test_openai__an_unmetered_operation_that_is_ignored__is_only_counted(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """No line in the log."""
    pg = init(on_unmetered="ignore")
    make_video(client)
    assert pg.health()["counts"][f"unmetered:{VIDEOS}"] == 1
    assert "videos" not in caplog.text


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
    monkeypatch.setattr(hook, "_is_provider", lambda host: host == "127.0.0.1")
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
