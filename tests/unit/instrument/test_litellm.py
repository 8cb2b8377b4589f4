"""LiteLLM's hook, on a stand-in of its shape: functions, streams, caches, errors. The real one is
run beside Paygent by `make test-peers`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.failopen import failures
from paygent.instrument.litellm import read_completion
from paygent.instrument.registry import instrumentation
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

TOLD = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "cost": 5,  # what LiteLLM makes of it, which is no bill
    "prompt_tokens_details": {"cached_tokens": 30},
}
ANSWER_NANO = 412_500
"""70 and 30 cached in, 20 out, by gpt-4o at 2.50, 1.25 and 10.00 per million."""


def answer(**fields: Any) -> Any:
    """An answer of the chat shape."""
    return SimpleNamespace(model="gpt-4o", usage=dict(TOLD), _hidden_params={}, **fields)


class CustomStreamWrapper:
    """A stream of LiteLLM's, sync and async."""

    def __init__(self, usage: Any = None, error: BaseException | None = None) -> None:
        self.chunks: list[Any] = []
        self._usage = usage
        self._error = error
        self._left = 3

    def _chunk(self) -> Any:
        if not self._left:
            return None
        self._left -= 1
        if self._error is not None and self._left == 1:
            raise self._error
        delta = SimpleNamespace(content="Hello", tool_calls=None)
        chunk = SimpleNamespace(
            model="gpt-4o", choices=[SimpleNamespace(delta=delta)], usage=None, _hidden_params={}
        )
        self.chunks.append(chunk)
        if not self._left and self._usage is not None:
            self.chunks.append(SimpleNamespace(model="gpt-4o", choices=[], usage=self._usage))
        return chunk

    def __iter__(self) -> CustomStreamWrapper:
        return self

    def __next__(self) -> Any:
        chunk = self._chunk()
        if chunk is None:
            raise StopIteration
        return chunk

    def __aiter__(self) -> CustomStreamWrapper:
        return self

    async def __anext__(self) -> Any:
        chunk = self._chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def close(self) -> str:
        return "closed"

    async def aclose(self) -> str:
        return "closed"


class Timeout(openai.APITimeoutError):
    """LiteLLM's own errors have a status, whatever happened."""

    status_code = 408


class ServerError(openai.APIConnectionError):
    """What LiteLLM makes of everything that it does not know."""

    status_code = 500


class ConnectError(Exception):
    """The HTTP library's: nothing was sent."""


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, with what its functions do next in `acts`."""
    made: Any = ModuleType("litellm")
    made.acts = []
    made.seen = []

    def act(*args: Any, **kwargs: Any) -> Any:
        made.seen.append(kwargs)
        do = made.acts.pop(0) if made.acts else answer
        return do()

    def completion(*args: Any, **kwargs: Any) -> Any:
        return act(*args, **kwargs)

    async def acompletion(*args: Any, **kwargs: Any) -> Any:
        return made.completion(*args, **kwargs)  # as the real one calls it below itself

    def embedding(*args: Any, **kwargs: Any) -> Any:
        return act(*args, **kwargs)

    def speech(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return b"sound"

    def ocr(*args: Any, **kwargs: Any) -> Any:
        return "text"

    def get_llm_provider(model: str, provider: Any, base: Any) -> Any:
        if "/" not in model:
            raise ValueError(model)
        provider, _, name = model.partition("/")
        return name, provider, None, None

    for function in (completion, acompletion, embedding, speech, ocr, get_llm_provider):
        setattr(made, function.__name__, function)
    streams: Any = ModuleType("litellm.litellm_core_utils.streaming_handler")
    streams.CustomStreamWrapper = CustomStreamWrapper
    made.stream = CustomStreamWrapper
    app: Any = ModuleType("an_app")
    app.complete = completion
    for module in (made, streams, app):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    made.app = app
    yield made


@pytest.fixture
def pg(init: Init, litellm: Any) -> Iterator[Paygent]:
    """A Paygent with a user who may spend nothing."""
    made = init()
    made.configure_plan("none", PlanConfig(max_spend_per_period=0))
    made.assign_plan("poor", "none")
    with paygent_context("u1"):
        yield made
    instrumentation.uninstall()


CALL: dict[str, Any] = {"model": "openai/gpt-4o", "messages": MESSAGES, "max_tokens": 50}


# -- calls


def test_litellm__a_completion__is_gated_and_metered_once(pg: Paygent, litellm: Any) -> None:
    """By the name that the provider knows, at its price; also under a name of the application's."""
    metered = Metered(pg)
    litellm.completion(**CALL)
    litellm.app.complete(CALL["model"], MESSAGES)
    litellm.completion(**CALL, paygent_user_id="u2")
    assert [event.user_id for event in metered.events] == ["u1", "u1", "u2"]
    for event in metered.events:
        assert (event.provider, event.model, event.quality) == ("openai", "gpt-4o", "exact")
        assert (event.cost_total_nano, event.cached_input_tokens) == (ANSWER_NANO, 30)
    assert "paygent_user_id" not in litellm.seen[-1]


async def test_litellm__an_async_completion__is_metered_once(pg: Paygent, litellm: Any) -> None:
    """The sync function below it is part of the call."""
    metered = Metered(pg)
    await litellm.acompletion(**CALL)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.cost_total_nano for event in events] == [ANSWER_NANO]


async def test_litellm__at_the_cap__the_refusal_arrives_itself(pg: Paygent, litellm: Any) -> None:
    """LiteLLM has no part in it, so it cannot make it an error of its own."""
    with paygent_context("poor"):
        for function in (litellm.completion, litellm.app.complete, litellm.embedding):
            with pytest.raises(PaygentLimitExceeded):
                function(**CALL)
        with pytest.raises(PaygentLimitExceeded):
            await litellm.acompletion(**CALL)
    assert litellm.seen == []


def test_litellm__over_openais_sdk__counts_once_and_asks_for_its_usage(
    pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """The hook below stands back, but has streams tell their usage, which LiteLLM keeps."""
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        for stream in (False, True):
            litellm.acts.append(
                lambda stream=stream: (
                    client.chat.completions.create(
                        model="gpt-4o", messages=MESSAGES, stream=stream
                    ),
                    answer(),
                )[1]
            )
            litellm.completion(**CALL)
    assert [event.cost_total_nano for event in metered.events] == [ANSWER_NANO] * 2
    assert fake.requests[-1].body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in fake.requests[0].body


@pytest.mark.parametrize("way", ["cache", "mock"])
def test_litellm__what_no_provider_saw__costs_nothing(way: str, pg: Paygent, litellm: Any) -> None:
    """An answer out of LiteLLM's cache, and one that the application made up."""
    metered = Metered(pg)
    cached = answer()
    cached._hidden_params = {"cache_hit": True}
    litellm.acts.append(lambda: cached)
    found = litellm.completion(**CALL, **({"mock_response": "Hi."} if way == "mock" else {}))
    assert found is cached
    assert (metered.events, pg.health()["calls_in_flight"]) == ([], 0)


def test_litellm__models_and_providers__have_our_names(pg: Paygent, litellm: Any) -> None:
    """One that LiteLLM does not know is its own to complain about."""
    metered = Metered(pg)
    litellm.completion(model="gemini/gemini-2.5-pro", messages=MESSAGES)
    litellm.completion(model="strange", messages=MESSAGES)
    litellm.completion(messages=MESSAGES)
    assert [event.provider for event in metered.events] == ["google", None, None]


def test_litellm__sound__is_booked_as_estimated_and_ocr_is_said(pg: Paygent, litellm: Any) -> None:
    """Six characters at 15.00 a million; what has no hook is said once."""
    metered = Metered(pg)
    assert litellm.speech(model="openai/tts-1", input="Hello.") == b"sound"
    assert (metered.only.cost_total_nano, metered.only.quality) == (90_000, "estimated")
    assert litellm.ocr(model="mistral/ocr") == "text"
    assert failures.counts["unmetered:litellm:ocr"] == 1


@pytest.mark.parametrize(
    ("error", "booked"),
    [
        (Timeout(None), 1),  # type: ignore[arg-type]
        (ServerError(request=None), 1),  # type: ignore[arg-type]
        (ValueError("no key"), 0),
    ],
)
def test_litellm__an_error__is_booked_where_the_provider_may_have_billed(
    error: Exception, booked: int, pg: Paygent, litellm: Any
) -> None:
    """Whatever status LiteLLM gives it."""

    def act() -> Any:
        raise error

    metered = Metered(pg)
    litellm.acts.append(act)
    with pytest.raises(type(error)):
        litellm.completion(**CALL)
    assert [event.quality for event in metered.events] == ["estimated"] * booked
    assert pg.health()["calls_in_flight"] == 0


def test_litellm__a_connection_that_was_never_made__costs_nothing(
    pg: Paygent, litellm: Any
) -> None:
    """LiteLLM has made it an error of the provider; what stands behind it tells."""

    def act() -> Any:
        try:
            raise ConnectError
        except ConnectError:
            raise ServerError(request=None)  # type: ignore[arg-type]  # noqa: B904 - as it does

    metered = Metered(pg)
    litellm.acts.append(act)
    with pytest.raises(ServerError):
        litellm.completion(**CALL)
    assert metered.events == []


# -- streams


def test_litellm__a_stream__settles_at_its_end_from_what_litellm_keeps(
    pg: Paygent, litellm: Any
) -> None:
    """The application sees the same chunks; a tool that it did not ask for is not counted."""
    metered = Metered(pg)
    stream = litellm.stream(TOLD)
    litellm.acts.append(lambda: stream)
    assert litellm.completion(**CALL, stream=True) is stream
    assert len(list(stream)) == 3
    assert (metered.only.cost_total_nano, metered.only.quality) == (ANSWER_NANO, "exact")


async def test_litellm__an_async_stream__settles_at_its_end(pg: Paygent, litellm: Any) -> None:
    """The same, awaited."""
    metered = Metered(pg)
    litellm.acts.append(lambda: litellm.stream(TOLD))
    assert len([chunk async for chunk in await litellm.acompletion(**CALL)]) == 3
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.cost_total_nano, each.quality) for each in events] == [(ANSWER_NANO, "exact")]


@pytest.mark.parametrize("way", ["close", "aclose", "drop", "error"])
async def test_litellm__a_stream_that_ends_early__settles_what_was_received(
    way: str, pg: Paygent, litellm: Any
) -> None:
    """Closed, dropped or broken: estimated from its text, once."""
    metered = Metered(pg)
    error = ValueError("broke") if way == "error" else None
    litellm.acts.append(lambda: litellm.stream(None, error))
    stream = litellm.completion(**CALL)
    next(stream)
    if way == "close":
        assert stream.close() == "closed"
    elif way == "aclose":
        assert await stream.aclose() == "closed"
    elif way == "error":
        with pytest.raises(ValueError, match="broke"):
            next(stream)
    del stream
    gc.collect()
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.output_tokens, each.quality) for each in events] == [(2, "estimated")]
    assert pg.health()["calls_in_flight"] == 0


async def test_litellm__an_async_stream_that_breaks__settles_and_raises(
    pg: Paygent, litellm: Any
) -> None:
    """The exception arrives."""
    litellm.acts.append(lambda: litellm.stream(None, ValueError("broke")))
    stream = await litellm.acompletion(**CALL)
    with pytest.raises(ValueError, match="broke"):
        _ = [chunk async for chunk in stream]
    assert pg.health()["calls_in_flight"] == 0


def test_litellm__a_stream_with_early_usage__is_partial_where_it_was_left(
    pg: Paygent, litellm: Any
) -> None:
    """Anthropic tells its input at once, and the output as it goes."""
    metered = Metered(pg)
    stream = litellm.stream()
    litellm.acts.append(lambda: stream)
    litellm.completion(**CALL)
    next(stream)
    stream.chunks.append(SimpleNamespace(model="gpt-4o", usage={**TOLD, "completion_tokens": 1}))
    stream.close()
    assert (metered.only.output_tokens, metered.only.quality) == (2, "partial")


def test_litellm__streams_of_others__are_left_alone(pg: Paygent, litellm: Any) -> None:
    """One that no call of ours gave: sync, async, closed."""
    assert len(list(litellm.stream())) == 3
    assert litellm.stream().close() == "closed"

    async def read() -> int:
        stream = litellm.stream()
        count = len([chunk async for chunk in stream])
        await stream.aclose()
        return count

    assert asyncio.run(read()) == 3


# -- in and out


def test_litellm__after_uninstrument__is_as_it_was(pg: Paygent, litellm: Any) -> None:
    """Its own functions and those of the application's modules; our arguments still go."""
    metered = Metered(pg)
    wrapped = litellm.app.complete
    pg.uninstrument()
    litellm.completion(**CALL, paygent_user_id="u2")
    wrapped(**CALL)
    litellm.ocr()
    assert metered.events == []
    assert "paygent_user_id" not in litellm.seen[0]
    instrumentation.uninstall()
    assert litellm.app.complete is litellm.completion
    assert not hasattr(litellm.completion, "__wrapped__")


@pytest.mark.parametrize(
    ("details", "written"),
    [
        ({"cache_creation_tokens": 40}, (40, 0)),
        (
            {
                "cache_creation_tokens": 40,
                "cache_creation_token_details": {"ephemeral_1h_input_tokens": 10},
            },
            (30, 10),
        ),
        ({"cache_creation_tokens": "odd"}, (0, 0)),
    ],
)
def test_read_completion__cache_writes__are_in_its_own_fields(
    details: dict[str, Any], written: tuple[int, int]
) -> None:
    """As LiteLLM tells what Anthropic has written to its caches."""
    found = read_completion(
        {"usage": {**TOLD, "prompt_tokens_details": details}, "model": "m"}, False
    )
    assert found is not None
    assert (found.cache_write_tokens, found.cache_write_long_tokens) == written  # type: ignore[union-attr]
    assert read_completion({"usage": None}, False) is None


def test_read_completion__a_bill__is_openrouters_alone() -> None:
    """LiteLLM writes its own idea of the cost into every usage."""
    billed = answer()
    billed._hidden_params = {"custom_llm_provider": "openrouter"}
    found, other = read_completion(billed, False), read_completion(answer(), False)
    assert found.billed_nano == 5 * 10**9  # type: ignore[union-attr]
    assert other.billed_nano is None  # type: ignore[union-attr]
