"""The wrapper's parts, one by one: how requests are read, and how each end of a call is told."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered

from paygent import Paygent, PlanConfig, paygent_context
from paygent.call import Call
from paygent.core.estimate import Estimate
from paygent.core.usage import Usage
from paygent.failopen import failures
from paygent.instrument import anthropic as anthropic_names
from paygent.instrument import openai as openai_names
from paygent.instrument.funnel import (
    CARRIER_HEADER,
    Carrier,
    Prepared,
    carry,
    end_answered,
    end_failed,
    plain_path,
    prepare,
    route_name,
    set_active,
    wrap_async,
    wrap_resource,
    wrap_sync,
)
from paygent.ledger.flights import Hold, Use
from paygent.meter import Meter
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]


class Client:
    """A provider SDK's client, as far as the funnel looks at it."""

    def __init__(self, url: str = "https://api.openai.com/v1/") -> None:
        host = url.split("/")[2].partition(":")[0]
        self.base_url = SimpleNamespace(host=host)


class AzureOpenAI(Client):
    """A client whose class tells who is called."""


class Ends:
    """Stands for a meter: notes how a call ended."""

    def __init__(self) -> None:
        self.ended: list[Any] = []

    def settle(self, call: Call, usage: Usage | None) -> None:
        """Note a settlement."""
        self.ended.append(("settle", usage))

    def void(self, call: Call, why: str) -> None:
        """Note a void."""
        self.ended.append(("void", why))


def options_of(
    url: str = "/chat/completions", body: Any = None, headers: Any = None, **more: Any
) -> Any:
    """A request as an SDK hands it to its funnel."""
    return SimpleNamespace(
        method=more.pop("method", "post"), url=url, json_data=body, headers=headers, **more
    )


def prepared(
    body: Any = None, url: str = "/chat/completions", client: Any = None, **more: Any
) -> Prepared:
    """A metered request, read."""
    kwargs = more.pop("kwargs", {})
    found = prepare(openai_names, client or Client(), options_of(url, body, **more), kwargs)
    assert found is not None
    return found


# -- paths and routes


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/chat/completions", "/chat/completions"),
        ("chat/completions/", "/chat/completions"),
        ("/v1/messages?beta=true", "/messages"),
        ("https://api.openai.com/v1/responses", "/responses"),
        ("https://api.openai.com", "/"),
        ("https://x.example/openai/deployments/d/chat/completions",
         "/openai/deployments/d/chat/completions"),
        ("", "/"),
    ],
)  # fmt: skip
def test_plain_path__of_any_address__is_below_the_apis_root(url: str, expected: str) -> None:
    """Host, version and query are left out."""
    assert plain_path(url) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/images/generations", "POST /images/generations"),
        ("/threads/thread_abc123/runs", "POST /threads/{id}/runs"),
        ("/batches/batch_0123456789abcdef", "POST /batches/{id}"),
        ("/responses/resp_68af4030592c81938ec0a5fbab4a3e9f/cancel", "POST /responses/{id}/cancel"),
        ("/fine_tuning/jobs", "POST /fine_tuning/jobs"),
        ("/vector_stores", "POST /vector_stores"),
        ("/vector_stores/vs_abc123/file_batches", "POST /vector_stores/{id}/file_batches"),
    ],
)
def test_route_name__of_a_path__leaves_out_ids_and_nothing_else(path: str, expected: str) -> None:
    """A warning names the operation, once per operation and not once per id."""
    assert route_name("POST", path) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/openai/deployments/d/chat/completions", "chat.completions"),
        ("POST", "/chat/completions", "chat.completions"),
        ("POST", "/completions", "completions"),
        ("POST", "/api/v3/embeddings", "embeddings"),
        ("POST", "/moderations", True),
        ("POST", "/responses/input_tokens", True),
        ("POST", "/images/generations", "images.generate"),
        ("POST", "/audio/speech", "audio.speech"),
        ("POST", "/responses/compact", "responses.compact"),
        ("POST", "/videos", False),
        ("POST", "/fine_tuning/jobs", False),
        ("POST", "/vector_stores", True),
        ("POST", "/vector_stores/v/files", True),
        ("POST", "/vector_stores/v/search", False),
        ("POST", "/threads/t/messages", True),
        ("POST", "/threads/t/runs", False),
        ("POST", "/threads/runs", False),
        ("POST", "/chat/completions/chatcmpl-1", True),
        ("GET", "/models", True),
        ("GET", "/responses/resp_1", "responses.retrieve"),
        ("GET", "/responses/resp_1/input_items", True),
        ("POST", "/responses/resp_1/cancel", "responses.retrieve"),
        ("GET", "/batches", True),
        ("POST", "/batches", "batches"),
        ("GET", "/batches/batch_1", "batches.retrieve"),
        ("GET", "/openai/batches/batch_1", "batches.retrieve"),
        ("GET", "/vector_stores/v/file_batches/b", True),
        ("POST", "/fine_tuning/jobs/j/cancel", True),
        ("DELETE", "/files/f", True),
        ("HEAD", "/x", True),
        ("PUT", "/x", False),
    ],
)
def test_openai_route__each_operation__is_metered_free_or_unknown(
    method: str, path: str, expected: Any
) -> None:
    """A path of a deployment or a proxy is still its operation."""
    found = openai_names.route(method, path)
    assert (found if isinstance(found, bool) else found.name) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/messages", "messages"),
        ("POST", "/projects/p/locations/l/messages", "messages"),
        ("POST", "/messages/count_tokens", True),
        ("POST", "/messages/batches", "messages.batches"),
        ("POST", "/messages/batches/b/cancel", True),
        ("POST", "/complete", "complete"),
        ("POST", "/sessions", False),
        ("GET", "/models", True),
        ("GET", "/messages/batches/b", True),
        ("GET", "/messages/batches/b/results", "messages.batches.results"),
        ("GET", "/gateway/v1/messages/batches/b/results", "messages.batches.results"),
        ("DELETE", "/files/f", True),
        ("PATCH", "/x", False),
    ],
)
def test_anthropic_route__each_operation__is_metered_free_or_unknown(
    method: str, path: str, expected: Any
) -> None:
    """Batches are metered where they are started and where their results are read."""
    found = anthropic_names.route(method, path)
    assert (found if isinstance(found, bool) else found.name) == expected


@pytest.mark.parametrize(
    ("name", "provider"),
    [("Anthropic", "anthropic"), ("AsyncAnthropicBedrock", "aws"), ("AnthropicVertex", "google"),
     ("AnthropicFoundry", "azure")],
)  # fmt: skip
def test_anthropic_provider__is_told_by_the_class(name: str, provider: str) -> None:
    """Bedrock, Vertex and Foundry have price lists of their own."""
    assert anthropic_names.provider(type(name, (), {})()) == provider
    assert anthropic_names.tells_stream_usage(object()) is False


@pytest.mark.parametrize(
    ("client", "provider", "asks"),
    [
        (Client(), "openai", True),
        (Client("https://API.groq.com/x"), "groq", True),
        (Client("https://api.deepseek.com/x"), "deepseek", False),
        (Client("https://my.openai.azure.com/x"), "azure", True),
        (Client("https://llm.example.com/x"), "openai", False),
        (Client("http://127.0.0.1:1/x"), "openai", True),
        (AzureOpenAI("https://gateway.example.com/x"), "azure", True),
    ],
)
def test_openai_provider__is_told_by_class_and_host(client: Any, provider: str, asks: bool) -> None:
    """Usage of a stream is asked for only where the host is known to honour that."""
    assert openai_names.provider(client) == provider
    assert openai_names.tells_stream_usage(client) is asks


# -- reading a request


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "n": 1}, 10),
        ({"max_tokens": 10, "n": True}, 10),
        ({"max_tokens": 10, "n": "3"}, 10),
        ({"max_tokens": 0}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "10", "max_completion_tokens": None}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_prepare__max_tokens__is_what_all_answers_may_take_together(
    body: Any, expected: int | None
) -> None:
    """`n` answers may each take as much."""
    assert prepared(body).request.max_tokens == expected


def test_prepare__a_request__is_read_as_it_is_sent() -> None:
    """Model, body with the extra fields, provider and route; odd models are none."""
    found = prepared({"model": "gpt-4o", "a": 1}, extra_json={"model": "gpt-4o-mini", "b": 2})
    request = found.request
    assert (request.model, request.provider, request.route) == (
        "gpt-4o-mini",
        "openai",
        "chat.completions",
    )
    assert request.body == {"model": "gpt-4o-mini", "a": 1, "b": 2}
    assert prepared({"model": 5}).request.model == ""
    assert prepared(url="/embeddings").request.generates is False


@pytest.mark.parametrize(
    ("url", "headers", "stream", "expected"),
    [
        ("/chat/completions", None, True, True),
        ("/chat/completions", None, False, False),
        ("/responses", None, True, False),
        ("/chat/completions", {"X-Stainless-Raw-Response": "stream"}, True, False),
    ],
)
def test_prepare__usage_of_a_stream__is_asked_for_where_it_is_not_told(
    url: str, headers: Any, stream: bool, expected: bool
) -> None:
    """Only parsed chat streams, and only where we can take the chunk out again."""
    found = prepared({}, url, headers=headers, kwargs={"stream": stream})
    assert found.asks_for_usage is expected


def test_prepare__a_client_whose_address_changes__is_looked_at_again() -> None:
    """Who is called is remembered per address, not per client."""
    client = Client()
    assert prepared({}, client=client).request.provider == "openai"
    client.base_url = SimpleNamespace(host="api.groq.com")
    assert prepared({}, client=client).request.provider == "groq"


def test_prepare__the_carried_arguments__are_taken_out_of_the_headers(init: Init) -> None:
    """Nothing of ours is sent; the app's headers stay."""
    init(auto_instrument=False)
    kwargs = carry({"paygent_user_id": "u", "extra_headers": {"x-app": "1"}, "model": "m"})
    assert sorted(kwargs) == ["extra_headers", "model"]
    assert str(kwargs["extra_headers"][CARRIER_HEADER]) == ""
    options = options_of(body={}, headers=kwargs["extra_headers"])
    found = prepare(openai_names, Client(), options, {})
    assert found is not None
    assert found.request.identity is not None
    assert (found.request.identity.user_id, options.headers) == ("u", {"x-app": "1"})


def test_carry__without_a_paygent__drops_our_arguments() -> None:
    """After a shutdown an app's `paygent_*` arguments still never reach the provider."""
    set_active(None)
    assert carry({"paygent_user_id": "u", "paygent_metadata": {}, "n": 1}) == {"n": 1}


def test_carrier__shown_anywhere__tells_nothing() -> None:
    """Were it ever sent or logged, it is empty text."""
    assert (str(Carrier("")), bytes(Carrier(""), "ascii")) == ("", b"")


async def test_wrap_resource__of_both_kinds__stays_of_its_kind() -> None:
    """A coroutine function stays one; calls without our arguments pass untouched."""
    set_active(None)

    async def create(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    wrapped = wrap_resource(create, print, is_coroutine=True)
    assert inspect.iscoroutinefunction(wrapped)
    assert await wrapped(a=1) == {"a": 1}
    assert await wrapped(a=1, paygent_user_id="u") == {"a": 1}
    plain = wrap_resource(lambda **kwargs: kwargs, print, is_coroutine=False)
    assert (plain(a=1), plain(a=1, paygent_session_id="s")) == ({"a": 1}, {"a": 1})


# -- how a call that raised ends


def error_of(name: str, *bases: type[Exception], **fields: Any) -> Exception:
    """An exception of a class of this name."""
    made = cast(Exception, type(name, bases or (Exception,), {})("x"))
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """An exception with its cause."""
    error.__cause__ = cause
    return error


def call_of(plan: PlanConfig | None = None) -> Call:
    """A call under way."""
    call = Call()
    call.plan = plan or PlanConfig()
    call.ends, call.drops_usage_chunk = [None], False
    call.hold = Hold(Use(Estimate(5, 7), 0), "gpt-4o")
    return call


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (error_of("APIStatusError", status_code=400), "void"),
        (error_of("RateLimitError", status_code=429), "void"),
        (error_of("InternalServerError", status_code=529), "void"),
        (error_of("APIResponseValidationError", status_code=200), "settle"),
        (error_of("APITimeoutError"), "settle"),
        (caused(error_of("APIConnectionError"), error_of("ReadError")), "settle"),
        (caused(error_of("APIConnectionError"), error_of("ConnectError")), "void"),
        (caused(error_of("APITimeoutError"), error_of("ConnectTimeout")), "void"),
        (caused(error_of("APITimeoutError"), error_of("PoolTimeout")), "void"),
        (caused(error_of("APIConnectionError"), error_of("UnsupportedProtocol")), "void"),
        (json.JSONDecodeError("x", "y", 0), "settle"),
        (TimeoutError(), "settle"),
        (TypeError("not serializable"), "void"),
        (RuntimeError("of the app"), "void"),
        (KeyboardInterrupt(), "settle"),
        (SystemExit(), "settle"),
        (asyncio.CancelledError(), "settle"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_end_failed__each_kind_of_error__is_void_or_settled(
    error: BaseException, expected: str
) -> None:
    """What cannot have cost anything is void; what may have been billed counts as estimated."""
    ends = Ends()
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    assert [how for how, _ in ends.ended] == [expected]
    if expected == "settle":
        assert ends.ended == [("settle", None)]


def test_end_failed__an_answer_that_could_not_be_parsed__counts_its_usage() -> None:
    """A completion that was cut at its length was paid; the error carries it."""
    completion = {"model": "gpt-4o", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    ends = Ends()
    error = error_of("LengthFinishReasonError", completion=completion)
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    ((how, usage),) = ends.ended
    assert (how, usage.input_tokens, usage.output_tokens) == ("settle", 3, 4)


def test_end_failed__a_chain_without_end__is_looked_at_within_bounds() -> None:
    """An error that is its own cause does not hang the app."""
    error = error_of("Loop")
    error.__context__ = other = error_of("Loop")
    other.__context__ = error
    ends = Ends()
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    assert [how for how, _ in ends.ended] == ["void"]


@pytest.mark.parametrize("handled", ["APITimeoutError", "ConnectError"])
def test_end_failed__while_the_app_handles_another_error__looks_at_its_own_only(
    handled: str,
) -> None:
    """A fallback inside `except` has the first call's error as context, which tells nothing."""
    ends = Ends()
    own = json.JSONDecodeError("x", "y", 0) if handled == "ConnectError" else TypeError("bad body")
    own.__context__ = error_of(handled)
    end_failed(cast(Meter, ends), call_of(), prepared({}), own)
    assert [how for how, _ in ends.ended] == ["settle" if handled == "ConnectError" else "void"]


def test_openai__a_fallback_that_never_left__spends_nothing(init: Init, fake: FakeProvider) -> None:
    """After a time-out the app tries again with a body that cannot be sent: one call counts."""
    metered = Metered(init())
    fake.script(Answer(delay_s=0.3))
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


# -- how a call that was answered ends


class Unreadable:
    """A response whose body cannot be read again."""

    is_stream_consumed = True
    stream = None

    def json(self) -> Any:
        """Fail as a body that is no JSON does."""
        raise ValueError("no JSON")


def test_end_answered__a_raw_answer_without_a_response__settles_the_estimate() -> None:
    """What nobody can read counts as estimated."""
    ends = Ends()
    raw = prepared({}, headers={"x-stainless-raw-response": "true"})
    assert raw.is_raw is True
    end_answered(cast(Meter, ends), call_of(), raw, object())
    assert ends.ended == [("settle", None)]


def test_end_answered__a_body_that_cannot_be_read__settles_the_estimate(
    swallowed: Swallowed,
) -> None:
    """A response that was read already and is no JSON counts as estimated."""
    swallowed.expect("usage")
    ends = Ends()
    end_answered(cast(Meter, ends), call_of(), prepared({}), Unreadable())
    assert ends.ended == [("settle", None)]


def test_end_answered__a_response_without_a_stream_to_watch__settles_the_estimate() -> None:
    """An HTTP library of a kind that we do not know is not broken by us."""
    ends = Ends()
    response = SimpleNamespace(is_stream_consumed=False, stream=object(), headers={})
    end_answered(cast(Meter, ends), call_of(), prepared({}), response)
    assert ends.ended == [("settle", None)]


def test_end_answered__a_stream_that_cannot_be_tapped__is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No silent bypass: the type is named, the call counts as estimated."""
    ends = Ends()
    stream = prepared({}, kwargs={"stream": True})
    end_answered(cast(Meter, ends), call_of(), stream, object())
    assert ends.ended == [("settle", None)]
    assert "a stream of type object cannot be read" in caplog.text


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


# -- the wrappers


@pytest.fixture
def passing() -> Iterator[None]:
    """No meter."""
    set_active(None)
    yield
    set_active(None)


async def test_wrappers__without_a_meter__only_pass(passing: None) -> None:
    """After a shutdown the patch costs a look at one variable."""

    async def original_async(client: Any, *args: Any) -> Any:
        return args

    sync = wrap_sync(lambda client, *args: args, openai_names)
    asynchronous = wrap_async(original_async, openai_names)
    assert sync(Client(), 1, 2) == (1, 2)
    assert await asynchronous(Client(), 1, 2) == (1, 2)


async def test_wrappers__a_request_that_cannot_be_read__passes(
    init: Init, swallowed: Swallowed
) -> None:
    """Options of a shape that we do not know are the SDK's business; that is counted."""
    init(auto_instrument=False)
    swallowed.expect("prepare")

    async def original_async(client: Any, *args: Any) -> str:
        return "answer"

    sync = wrap_sync(lambda client, *args: "answer", openai_names)
    asynchronous = wrap_async(original_async, openai_names)
    assert sync(Client(), object, object()) == "answer"
    assert await asynchronous(Client(), object, object()) == "answer"
    assert failures.counts["prepare"] == 2


async def test_wrappers__around_each_other__count_a_call_once(init: Init) -> None:
    """Two layers of ours (another code kept the first) are one call."""
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    answer = {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}

    async def original_async(client: Any, cast_to: Any, options: Any) -> Any:
        return answer

    sync = wrap_sync(
        wrap_sync(lambda client, cast_to, options: answer, openai_names),
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


def test_end_failed__before_it_was_sent__is_void() -> None:
    """An interruption between the gate and the provider has cost nothing."""
    ends = Ends()
    end_failed(cast(Meter, ends), call_of(), prepared({}), KeyboardInterrupt(), False)
    assert [how for how, _ in ends.ended] == ["void"]


def test_end_failed__an_answer_refused_for_its_content__was_paid() -> None:
    """Older SDKs raise it without the completion; then it counts as estimated."""
    ends = Ends()
    error = error_of("ContentFilterFinishReasonError")
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    assert ends.ended == [("settle", None)]


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
