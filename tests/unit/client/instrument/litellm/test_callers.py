"""What runs inside a call of LiteLLM's: its own work is a part of it, the application's code counts
for itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.litellm.litellm_stand_in import (
    ANSWER_NANO,
    CALL,
    SENDS,
    Init,
    answer,
    placed,
    started,
)

from paygent import Paygent
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider


@pytest.fixture
def pg(init: Init, litellm: Any) -> Iterator[Paygent]:
    """A Paygent with a user who may spend nothing."""
    yield from started(init)


@pytest.fixture
def ask(fake: FakeProvider) -> Iterator[Callable[[], Any]]:
    """A call of OpenAI's SDK that the application makes."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def ask() -> Any:
            return client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

        yield ask


def costs(metered: Metered) -> list[int]:
    """What each event costs, the least first."""
    return sorted(event.cost_total_nano for event in metered.events)


ASKED_NANO = 450_000
BOTH = [ANSWER_NANO, ASKED_NANO]


# -- callbacks


def test_litellm__a_callback_that_calls_an_sdk__is_a_call_beside(
    pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """Of the same model, on the same thread, before the function has returned."""
    metered = Metered(pg)
    litellm.callbacks.append(ask)
    litellm.completion(**CALL)
    assert costs(metered) == BOTH


async def test_litellm__a_callback_that_calls_litellm__is_a_call_beside(
    pg: Paygent, litellm: Any
) -> None:
    """A judge, say; its own callback is left out here."""
    metered = Metered(pg)

    def judge() -> None:
        litellm.callbacks.clear()
        litellm.completion(**CALL)

    for call in (litellm.completion, litellm.acompletion):
        litellm.callbacks.append(judge)
        found = call(**CALL)
        if asyncio.iscoroutine(found):
            await found
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.cost_total_nano for event in events] == [ANSWER_NANO] * 4


@pytest.mark.parametrize("is_over", [False, True])
def test_litellm__a_callback_on_a_thread__is_a_call_beside(
    is_over: bool, pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """In a copy of the call's context, while it runs and when it has returned."""
    metered = Metered(pg)
    threads = []

    def start() -> None:
        inside = contextvars.copy_context()
        thread = threading.Thread(target=inside.run, args=(lambda: ask(),))
        threads.append(thread)
        if not is_over:
            thread.start()
            thread.join()

    litellm.callbacks.append(start)
    litellm.completion(**CALL)
    if is_over:
        threads[0].start()
        threads[0].join()
    assert costs(metered) == BOTH


async def test_litellm__a_callback_in_a_task__is_a_call_beside(pg: Paygent, litellm: Any) -> None:
    """Of LiteLLM's own functions too: what it starts itself, it marks."""
    metered = Metered(pg)

    async def judge() -> None:
        await asyncio.create_task(litellm.acompletion(**CALL))

    litellm.awaits.append(judge)
    await litellm.acompletion(**CALL)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.cost_total_nano for event in events] == [ANSWER_NANO] * 2


def test_litellm__a_call_inside_that_names_its_user__is_a_call_beside(
    pg: Paygent, litellm: Any
) -> None:
    """LiteLLM does not know our arguments, so the application calls, wherever that is."""
    metered = Metered(pg)

    def call() -> Any:
        return litellm.completion(**CALL, paygent_user_id="u2")

    litellm.acts.append(placed("litellm.main", call))
    litellm.completion(**CALL)
    assert sorted(str(event.user_id) for event in metered.events) == ["u1", "u2"]


def test_litellm__a_function_that_is_not_metered_below_another__is_not_said(
    pg: Paygent, litellm: Any
) -> None:
    """It is a part of that call."""
    litellm.acts.append(lambda: litellm.ocr() and answer())
    litellm.completion(**CALL)
    assert "unmetered:litellm:ocr" not in diagnostics.counts


# -- other code in between


def test_litellm__other_code_between_it_and_an_sdk__changes_nothing(
    pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """Another instrumentation's wrapper is there."""
    metered = Metered(pg)

    def send() -> Any:
        return ask() and answer()

    litellm.acts.append(placed(SENDS, send))
    litellm.completion(**CALL)
    assert costs(metered) == [ANSWER_NANO]


def _with_hook(hook: Callable[[], Any], url: str) -> openai.OpenAI:
    """A client with an HTTP library that runs a hook of the application at its first request."""
    left = [hook]
    hooks = {"request": [lambda request: left and left.pop()()]}
    library: Any = httpx.Client(event_hooks=hooks)
    return openai.OpenAI(api_key="k", base_url=url, http_client=library)


@pytest.mark.parametrize("calls_litellm", [False, True])
def test_litellm__a_hook_of_the_http_library__is_a_part_of_the_call(
    calls_litellm: bool, pg: Paygent, litellm: Any, ask: Callable[[], Any], fake: FakeProvider
) -> None:
    """The nearest frame of LiteLLM is the one that sends, so the call is taken for LiteLLM's."""
    metered = Metered(pg)
    hook = functools.partial(litellm.completion, **CALL) if calls_litellm else ask
    with _with_hook(hook, fake.openai_url) as client:

        def send() -> Any:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            return answer()

        litellm.acts.append(placed(SENDS, send))
        litellm.completion(**CALL)
    assert costs(metered) == [ANSWER_NANO]


# -- providers of the application's


@pytest.mark.parametrize("is_async", [False, True])
def test_litellm__a_provider_of_the_applications__counts_by_what_it_calls(
    is_async: bool, pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """A draft and a review; the call around them gives up."""
    metered = Metered(pg)
    litellm.custom_provider_map = [{"provider": "mine"}]
    litellm.acts.append(lambda: (ask(), ask(), answer())[2])
    if is_async:
        asyncio.run(litellm.acompletion(model="mine/agent"))
    else:
        litellm.completion(model="mine/agent")
    assert costs(metered) == [ASKED_NANO] * 2
    assert pg.health()["calls_in_flight"] == 0


@pytest.mark.parametrize("callback", [False, True])
def test_litellm__a_provider_of_the_applications_without_calls__counts_itself(
    callback: bool, pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """It speaks to somebody by itself; a callback beside it changes nothing."""
    metered = Metered(pg)
    litellm.custom_provider_map = [{"provider": "mine"}]
    if callback:
        litellm.callbacks.append(ask)
    litellm.completion(model="mine/gpt-4o")
    events = metered.events
    assert [event.provider for event in events] == [*["openai"] * callback, "mine"]


def test_litellm__an_unmetered_call_of_the_applications_provider__is_metered_with_it(
    pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """It is what the call costs; one of a callback is beside it, and is logged."""
    metered = Metered(pg)
    litellm.custom_provider_map = [{"provider": "mine"}]
    kind = "unmetered:openai:POST /videos"
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def make_video() -> Any:
            client.post("/videos", body={}, cast_to=object)
            return answer()

        litellm.acts.append(make_video)
        litellm.completion(model="mine/video")
        assert metered.only.provider == "mine"
        assert kind not in diagnostics.counts
        for model in ("mine/video", "gpt-4o"):
            litellm.callbacks.append(make_video)
            litellm.completion(model=model, messages=MESSAGES)
            litellm.callbacks.clear()
    assert diagnostics.counts[kind] == 2


async def test_litellm__a_fallback_to_a_provider_of_the_applications__counts_by_what_it_calls(
    pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """It is seen when LiteLLM goes there."""
    metered = Metered(pg)
    litellm.custom_provider_map = [{"provider": "mine"}]
    litellm.acts += [lambda: None, lambda: ask() and answer()]
    await litellm.acompletion(**CALL, fallbacks=["mine/agent"])
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.cost_total_nano for event in events] == [ASKED_NANO]


def test_litellm__a_provider_with_the_name_of_one_of_litellms__is_not_the_applications(
    pg: Paygent, litellm: Any, ask: Callable[[], Any]
) -> None:
    """LiteLLM calls its own."""
    metered = Metered(pg)
    litellm.LlmProviders = [SimpleNamespace(value="openai")]
    litellm.custom_provider_map = [{"provider": "openai"}]

    def send() -> Any:
        return ask() and answer()

    litellm.acts.append(placed(SENDS, send))
    litellm.completion(**CALL)
    assert costs(metered) == [ANSWER_NANO]
