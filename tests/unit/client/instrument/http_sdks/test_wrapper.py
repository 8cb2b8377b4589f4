"""The funnel: one wrapper around each SDK's own, which changes nothing that the app sees."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
from collections.abc import Callable, Generator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest
from openai._base_client import SyncAPIClient
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered, run_inside_lock
from tests.unit.client.instrument.requests import Client, Init, options_of

from paygent import Limit, PlanConfig, paygent_context
from paygent.client.instrument.http_sdks.request import CARRIER_HEADER
from paygent.client.instrument.http_sdks.wrapper import (
    _is_direct,
    carry,
    set_active,
    wrap_async,
    wrap_resource,
    wrap_sync,
)
from paygent.client.instrument.openai import routes as openai_names
from paygent.client.instrument.patching.patches import Switch
from paygent.failopen import diagnostics
from paygent.testing import Answer, FakeProvider


def test_carry__without_a_paygent__drops_our_arguments() -> None:
    """After a shutdown an app's `paygent_*` arguments still never reach the provider."""
    set_active(None)
    given = {"paygent_user_id": "u", "paygent_metadata": {}, "n": 1}
    assert carry(given, Switch(True)) == {"n": 1}


@pytest.mark.parametrize("instrumented", [True, False])
def test_openai__where_calls_are_not_metered__sends_no_header_of_paygent(
    instrumented: bool, init: Init, fake: FakeProvider
) -> None:
    """After `uninstrument`, and where nothing was instrumented, no wrapper would remove it."""
    pg = init(auto_instrument=instrumented)
    if instrumented:
        pg.uninstrument()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        create: Any = client.chat.completions.create
        create(model="gpt-4o", messages=MESSAGES, paygent_user_id="u")
    (request,) = fake.requests
    assert CARRIER_HEADER not in request.headers


async def test_wrap_resource__of_both_kinds__stays_of_its_kind() -> None:
    """A coroutine function stays one; calls without our arguments pass untouched."""
    set_active(None)

    async def create(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    wrapped = wrap_resource(create, print)
    assert inspect.iscoroutinefunction(wrapped)
    assert await wrapped(a=1) == {"a": 1}
    assert await wrapped(a=1, paygent_user_id="u") == {"a": 1}
    plain = wrap_resource(lambda **kwargs: kwargs, print)
    assert (plain(a=1), plain(a=1, paygent_session_id="s")) == ({"a": 1}, {"a": 1})


def test_openai__a_fallback_that_never_left__spends_nothing(init: Init, fake: FakeProvider) -> None:
    """After a time-out the app tries again with a body that cannot be sent: one call counts."""
    metered = Metered(init())
    fake.script(Answer(delay_s=5))
    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client,
        pytest.raises(TypeError),
        paygent_context("u1"),
    ):
        try:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, timeout=0.05)
        except openai.APITimeoutError:
            client.chat.completions.create(model="gpt-4o", messages=[object()])  # type: ignore[list-item]
    assert len(metered.events) == 1


@pytest.mark.parametrize(
    ("api_key", "options"), [("k", {"temperature": float("nan")}), ("sk-é", {})]
)
def test_openai__a_request_that_cannot_be_encoded__spends_nothing(
    api_key: str, options: dict[str, Any], init: Init, fake: FakeProvider
) -> None:
    """A value that JSON lacks, and a header that is not ASCII, are errors of the request."""
    metered = Metered(init())
    with (
        openai.OpenAI(api_key=api_key, base_url=fake.openai_url, max_retries=0) as client,
        pytest.raises(ValueError),
    ):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **options)
    assert (fake.requests, metered.events) == ([], [])


def test_openai__a_response_type_of_the_http_library__is_metered(
    init: Init, fake: FakeProvider
) -> None:
    """`cast_to=httpx.Response` gives the library's own response, and its usage counts."""
    import httpx2

    metered = Metered(init())
    body = {"model": "gpt-4o", "messages": MESSAGES}
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
        answer = client.post("/chat/completions", cast_to=httpx2.Response, body=body)
    assert answer.json()["id"] == "chatcmpl-fake"
    assert (metered.only.input_tokens, metered.only.quality) == (100, "exact")


@pytest.fixture
def passing() -> Iterator[None]:
    """No meter."""
    set_active(None)
    yield
    set_active(None)


async def test_wrappers__without_a_meter__only_pass(passing: None) -> None:
    """After a shutdown the patch costs a look at one variable."""

    async def original_async(client: Any, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    sync = wrap_sync(lambda client, *args, **kwargs: (args, kwargs), openai_names)
    asynchronous = wrap_async(original_async, openai_names)
    for given in ({}, {"stream": True, "stream_cls": list}):
        expected = (1, 2), given  # just as the application calls it
        assert sync(Client(), 1, 2, **given) == expected
        assert await asynchronous(Client(), 1, 2, **given) == expected
        assert sync(Client(), 1, 2, 3, **given) == ((1, 2, 3), expected[1])
        assert await asynchronous(Client(), 1, 2, 3, **given) == ((1, 2, 3), expected[1])


@pytest.mark.parametrize("is_metered", [False, True])
async def test_wrappers__a_keyword_that_other_versions_of_the_sdk_have__reaches_the_sdk(
    is_metered: bool, init: Init
) -> None:
    """`remaining_retries` is an argument of `request` up to openai 1.60 and anthropic 0.40."""
    set_active(None)
    if is_metered:
        init(auto_instrument=False)
    answer = {"model": "gpt-4o", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    retries: list[int] = []

    def original(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        retries.append(kwargs["remaining_retries"])
        return answer

    async def original_async(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        return original(client, cast_to, options, **kwargs)

    sync: Any = wrap_sync(original, openai_names)
    asynchronous: Any = wrap_async(original_async, openai_names)
    options = options_of(body={"model": "gpt-4o"})
    with paygent_context("u1"):
        assert sync(Client(), cast_to=object, options=options, remaining_retries=1) is answer
        assert await asynchronous(Client(), object, options, remaining_retries=2) is answer
    assert retries == [1, 2]


async def test_wrappers__a_request_that_cannot_be_read__passes(
    init: Init, swallowed: Swallowed
) -> None:
    """Options of a shape that we do not know are the SDK's business; that is counted."""
    init(auto_instrument=False)
    swallowed.expect("prepare")

    async def original_async(client: Any, *args: Any, **kwargs: Any) -> str:
        return "answer"

    sync = wrap_sync(lambda client, *args, **kwargs: "answer", openai_names)
    asynchronous = wrap_async(original_async, openai_names)
    assert sync(Client(), object, object()) == "answer"
    assert await asynchronous(Client(), object, object()) == "answer"
    assert diagnostics.counts["prepare"] == 2


class Pause:
    """Suspends the coroutine that awaits it."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def suspended(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
    """A provider that does not answer; its SDK wraps what ends the waiting."""
    try:
        try:
            await Pause()
        except BaseException as error:
            raise RuntimeError("closing a connection without a loop") from error
    except RuntimeError as error:
        raise openai.APIConnectionError(request=cast(Any, None)) from error


def begin_in_a_cycle(begun: Callable[[], Any]) -> None:
    """Begin a coroutine that only the garbage collector ends."""
    cycle: list[Any] = [begun()]
    cycle.append(cycle)
    with paygent_context("u1"):
        cycle[0].send(None)


@pytest.fixture
def _collector_by_hand() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_collector_by_hand")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_wrappers__an_async_call_collected_inside_one_of_our_locks__ends_where_none_is_held(
    init: Init,
) -> None:
    """A task that is dropped is closed at any allocation, also under a user's lock: at the
    provider, or in the queue of a limit.
    """
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    pg.configure_plan("default", PlanConfig(limits=(Limit("calls", cap=1),)))
    await asyncio.to_thread(pg.get_usage, "u1")
    request = wrap_async(suspended, openai_names)

    def begun() -> Any:
        return request(Client(), object, options_of(body={"model": "gpt-4o"}))

    begin_in_a_cycle(begun)
    begin_in_a_cycle(begun)
    state = pg.health()
    assert (state["calls_in_flight"], state["calls_waiting"]) == (1, 1)
    assert run_inside_lock(pg, "u1", gc.collect) >= 2  # and the finalizer of the call itself
    await asyncio.to_thread(pg.get_usage, "u1")  # runs what was deferred
    state = pg.health()
    assert (state["calls_in_flight"], state["calls_waiting"]) == (0, 0)
    assert metered.only.quality == "estimated"


async def test_wrappers__around_each_other__count_a_call_once(init: Init) -> None:
    """Two layers of ours (another code kept the first) are one call."""
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    answer = {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}

    async def original_async(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        return answer

    sync = wrap_sync(
        wrap_sync(lambda client, cast_to, options, **kwargs: answer, openai_names),
        openai_names,
    )
    asynchronous = wrap_async(wrap_async(original_async, openai_names), openai_names)
    with paygent_context("u1"):
        assert sync(Client(), object, options=options_of(body={"model": "gpt-4o"})) is answer
        assert await asynchronous(Client(), object, options_of(body={"model": "gpt-4o"})) is answer
    assert [event.cost_total_nano for event in metered.events] == [450_000] * 2


def test_wrappers__usage_that_is_asked_for__keeps_the_apps_own_options(init: Init) -> None:
    """Only what is missing is added to `stream_options`."""
    init(auto_instrument=False)
    sent: list[Any] = []

    def original(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        sent.append(options.json_data)
        return SimpleNamespace(_iterator=iter(()), response=None)

    request = wrap_sync(original, openai_names)
    for given in (None, {"other": 1}, {"include_usage": False}):
        body = {"model": "gpt-4o", "stream": True, "stream_options": given}
        stream = request(Client(), object, options_of(body=body), stream=True)
        assert list(stream._iterator) == []
    assert [each["stream_options"] for each in sent] == [
        {"include_usage": True},
        {"other": 1, "include_usage": True},
        {"include_usage": False},
    ]


def test_openai__a_subclass_that_copies_the_options__is_counted_once(
    init: Init, fake: FakeProvider
) -> None:
    """Other instrumentation may hand a copy of the request down; it is the same call."""

    class Copying(openai.OpenAI):
        def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            return super().request(cast_to, options.model_copy(), **kwargs)

    metered = Metered(init())
    with Copying(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        for _ in client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True):
            pass
    assert (len(fake.requests), len(metered.events)) == (2, 2)


def test_openai__a_subclass_that_changes_the_body__is_counted_once(
    init: Init, fake: FakeProvider
) -> None:
    """What it sends is another request by the same client, inside the one under way."""

    class Changing(openai.OpenAI):
        def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            body = {**options.json_data, "user": "x"}
            changed = options.model_copy(update={"json_data": body})
            return super().request(cast_to, changed, **kwargs)

    metered = Metered(init())
    with Changing(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (len(fake.requests), len(metered.events)) == (2, 2)


@pytest.mark.parametrize("changes_model", [False, True])
def test_openai__a_subclass_that_sends_again__is_counted_once(
    changes_model: bool, init: Init, fake: FakeProvider
) -> None:
    """The repetition of a failed request, also by another model, is a part of the same call."""

    class Repeating(openai.OpenAI):
        def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            try:
                return super().request(cast_to, options, **kwargs)
            except openai.RateLimitError:
                if changes_model:
                    body = {**options.json_data, "model": "gpt-4o-mini"}
                    options = options.model_copy(update={"json_data": body})
                return super().request(cast_to, options, **kwargs)

    metered = Metered(init())
    fake.script(Answer(status=429), Answer())
    url = fake.openai_url
    with Repeating(api_key="k", base_url=url, max_retries=0) as client, paygent_context("u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (len(fake.requests), len(metered.events)) == (2, 1)
    assert metered.only.quality == "exact"


async def test_openai__an_async_subclass_that_sends_again__is_counted_once(
    init: Init, fake: FakeProvider
) -> None:
    """The same for async clients."""

    class Repeating(openai.AsyncOpenAI):
        async def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            try:
                return await super().request(cast_to, options, **kwargs)
            except openai.RateLimitError:
                return await super().request(cast_to, options, **kwargs)

    metered = Metered(init())
    fake.script(Answer(status=429), Answer())
    async with Repeating(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (len(fake.requests), len(metered.events)) == (2, 1)


def test_openai__a_subclass_that_goes_on_after_an_answer__has_each_request_counted(
    init: Init, fake: FakeProvider
) -> None:
    """What follows an answer is paid too, whichever answer the application gets."""

    class Continuing(openai.OpenAI):
        def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            first = super().request(cast_to, options, **kwargs)
            for _ in range(3):
                super().request(cast_to, options.model_copy(), **kwargs)
            return first

    metered = Metered(init())
    with Continuing(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (len(fake.requests), len(metered.events)) == (4, 4)


def test_openai__another_request_that_is_made_while_one_is_under_way__counts_too(
    init: Init, fake: FakeProvider
) -> None:
    """The SDK asks a subclass for its options in the middle, and that asks a model."""

    class Guarded(openai.OpenAI):
        def _prepare_options(self, options: Any) -> Any:
            if options.json_data["model"] != "gpt-4o-mini":
                self.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
            return super()._prepare_options(options)

        def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            return super().request(cast_to, options, **kwargs)

    metered = Metered(init())
    with Guarded(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert len(fake.requests) == 2
    assert sorted(str(event.model) for event in metered.events) == ["gpt-4o", "gpt-4o-mini"]


def test_openai__what_was_started_inside_a_request__is_its_own_when_that_is_over(
    init: Init, fake: FakeProvider
) -> None:
    """A hook of the HTTP client starts a thread, which calls by the same client later."""
    metered = Metered(init())
    is_over, threads = threading.Event(), list[threading.Thread]()

    def start(request: Any) -> None:
        if not threads:
            threads.append(threading.Thread(target=call_later))
            threads[0].start()

    http = openai.DefaultHttpxClient(event_hooks={"request": [start]})
    client = openai.OpenAI(api_key="k", base_url=fake.openai_url, http_client=http)

    def call() -> None:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    def call_later() -> None:
        is_over.wait(30)
        call()

    with client, paygent_context("u1"):
        call()
        is_over.set()
        threads[0].join(30)
    assert [event.user_id for event in metered.events] == ["u1", "u1"]


def test_is_direct__a_wrapper_that_looks_like_the_sdks_own__is_not() -> None:
    """Other code's wrapper has the name and module of what it wraps, and may lead to ours."""
    original: Any = SyncAPIClient.request
    while hasattr(original, "__wrapped__"):
        original = original.__wrapped__

    @functools.wraps(original)
    def other(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    assert other.__module__ == original.__module__
    sdk: Any = openai_names
    assert _is_direct(original, sdk)
    assert not _is_direct(other, sdk)
