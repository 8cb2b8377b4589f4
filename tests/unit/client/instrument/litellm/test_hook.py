"""LiteLLM's hook, on a stand-in of its shape: calls, caches, errors, discovery and logs. The
real one is run beside Paygent by `make test-peers`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.litellm.litellm_stand_in import (
    ANSWER_NANO,
    CALL,
    LOGGING,
    SENDS,
    ConnectError,
    Init,
    Rejected,
    ServerError,
    Timeout,
    answer,
    placed,
    started,
)

from paygent import ModelCostRate, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.instrument.litellm.functions import BY_NAME, positional_names
from paygent.client.instrument.realtime.hook import _Address, _destination
from paygent.client.instrument.registry import instrumentation
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider


@pytest.fixture
def pg(init: Init, litellm: Any) -> Iterator[Paygent]:
    """A Paygent with a user who may spend nothing."""
    yield from started(init)


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
    """The SDK's hook lets it pass, but requests the usage of streams, which LiteLLM keeps."""
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        for stream in (False, True):

            def send(stream: bool = stream) -> Any:
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=stream)
                return answer()

            litellm.acts.append(placed(SENDS, send))
            litellm.completion(**CALL)
    assert [event.cost_total_nano for event in metered.events] == [ANSWER_NANO] * 2
    assert fake.requests[-1].body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in fake.requests[0].body


def test_litellm__an_answer_from_its_cache__costs_nothing(pg: Paygent, litellm: Any) -> None:
    """No provider saw the request."""
    metered = Metered(pg)
    cached = answer({"cache_hit": True})
    litellm.acts.append(lambda: cached)
    assert litellm.completion(**CALL) is cached
    assert (metered.events, pg.health()["calls_in_flight"]) == ([], 0)


@pytest.mark.parametrize(
    ("name", "given", "booked"),
    [
        ("completion", {"mock_response": "Hi."}, 0),
        ("completion", {"mock_tool_calls": [{"id": "1"}]}, 0),
        ("responses", {"mock_response": "Hi.", "input": "x"}, 0),
        ("completion", {"mock_timeout": False}, 1),
        ("completion", {"mock_timeout": True}, 1),
        ("completion", {"mock_tool_calls": []}, 1),
        ("completion", {"mock_response": ""}, 1),
        ("responses", {"mock_tool_calls": [{"id": "1"}], "input": "x"}, 1),
        ("transcription", {"mock_response": "Hi.", "file": b""}, 1),
        ("speech", {"mock_response": "Hi.", "input": "x"}, 1),
    ],
)
def test_litellm__a_mocked_answer__costs_nothing_where_litellm_makes_it_up(
    name: str, given: dict[str, Any], booked: int, pg: Paygent, litellm: Any
) -> None:
    """What a function does not know is sent, and so is what an empty argument asks for."""
    metered = Metered(pg)
    getattr(litellm, name)(model="openai/gpt-4o", **given)
    assert len(metered.events) == booked


async def test_litellm__a_fallback_of_a_mocked_call__is_gated_and_metered(
    pg: Paygent, litellm: Any
) -> None:
    """It is asked in earnest: a call of its own."""
    metered = Metered(pg)

    def fall_back() -> Any:
        return litellm.completion(**CALL)

    async def fall_back_awaiting() -> None:
        await litellm.acompletion(**CALL)

    litellm.acts.append(placed("litellm.main", fall_back))
    litellm.completion(**CALL, mock_response="Hi.")
    litellm.awaits.append(placed("litellm.main", fall_back_awaiting))
    await litellm.acompletion(**CALL, mock_response="Hi.")
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.cost_total_nano for event in events] == [ANSWER_NANO] * 2
    litellm.acts.append(placed("litellm.main", fall_back))
    with pytest.raises(PaygentLimitExceeded), paygent_context("poor"):
        litellm.completion(**CALL, mock_response="Hi.")


def test_litellm__a_time_out_that_was_asked_for__costs_nothing(pg: Paygent, litellm: Any) -> None:
    """LiteLLM raises it, and sends nothing."""
    metered = Metered(pg)
    for _ in range(2):
        litellm.acts.append(placed("litellm.main", _time_out))
    with pytest.raises(Timeout):
        litellm.completion(**CALL, mock_timeout=True)
    assert metered.events == []
    with pytest.raises(Timeout):
        litellm.completion(**CALL)
    assert metered.only.quality == "estimated"


def _time_out() -> Any:
    raise Timeout(None)  # type: ignore[arg-type]


SECRET = "my secret diagnosis"


@pytest.mark.parametrize("name", ["responses", "text_completion", "image_generation"])
def test_litellm__arguments_by_position__are_known_by_the_functions_own_names(
    name: str, pg: Paygent, litellm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is no prompt: a user's text is neither logged nor stored as one."""
    metered = Metered(pg)
    litellm.acts += [lambda: answer(model=None)] * 2
    getattr(litellm, name)(SECRET, "openai/gpt-4o")
    getattr(litellm, name)(SECRET)
    assert [event.model for event in metered.events] == ["gpt-4o", None]
    assert SECRET not in caplog.text


async def test_litellm__arguments_of_an_async_twin__have_the_sync_ones_names(
    pg: Paygent, litellm: Any
) -> None:
    """It takes whatever comes; more than there are names for is left out."""
    metered = Metered(pg)
    litellm.not_cached = ["x"]
    await litellm.aembedding("openai/text-embedding-3-small")
    with pytest.raises(TypeError):
        litellm.embedding("openai/text-embedding-3-small", ["x"], SECRET)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.provider for event in events] == ["openai"]


def test_positional_names__without_a_signature__are_unknown() -> None:
    """The order of another wrapper's arguments is unknown, so none is taken for a model."""

    def wrapper(*args: Any) -> None:
        """Take any argument."""

    wrapper.__signature__ = "none"  # type: ignore[attr-defined]
    assert positional_names(wrapper) == positional_names(None) == []


async def test_litellm__a_fallback__is_booked_as_whose_answer_it_is(
    pg: Paygent, litellm: Any
) -> None:
    """The provider that the answer names; otherwise the one of LiteLLM's last request."""
    metered = Metered(pg)
    claude = "anthropic/claude-sonnet-4-5"
    told = {"custom_llm_provider": "anthropic"}
    litellm.acts.append(lambda: answer(told, model="claude-sonnet-4-5"))
    litellm.completion(**CALL)
    litellm.acts += [lambda: None, lambda: answer(model="claude-sonnet-4-5")]
    await litellm.acompletion(**CALL, fallbacks=[claude])
    litellm.acts += [lambda: None, lambda: None, lambda: answer(model="claude-sonnet-4-5")]
    await litellm.acompletion(**{**CALL, "model": claude}, fallbacks=["openai/gpt-4o", claude])
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.provider, each.model, each.quality) for each in events] == [
        ("anthropic", "claude-sonnet-4-5", "exact")
    ] * 3


async def test_litellm__embeddings_that_are_partly_cached__count_by_what_was_asked(
    pg: Paygent, litellm: Any
) -> None:
    """LiteLLM adds up the tokens of both, and calls the answer a cached one."""
    metered = Metered(pg)

    def merged() -> Any:
        usage = {"prompt_tokens": 90, "completion_tokens": 0}
        return answer({"cache_hit": True}, model="text-embedding-3-small", usage=usage)

    call = {"model": "openai/text-embedding-3-small", "input": ["one", "two", "six"]}
    for left in (["six"], None, ["one", "two", "six"]):
        litellm.not_cached = left
        litellm.acts.append(merged)
        await litellm.aembedding(**call)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.input_tokens, each.quality) for each in events] == [
        (30, "estimated"),
        (90, "exact"),
    ]


def test_litellm__models_and_providers__have_our_names(pg: Paygent, litellm: Any) -> None:
    """One that LiteLLM does not know is its own to complain about."""
    metered = Metered(pg)
    litellm.completion(model="gemini/gemini-2.5-pro", messages=MESSAGES)
    litellm.completion(model="strange", messages=MESSAGES)
    litellm.completion(messages=MESSAGES)
    assert [event.provider for event in metered.events] == ["google", None, None]


def test_litellm__a_provider_that_cannot_be_resolved__is_logged_and_the_call_metered(
    pg: Paygent, litellm: Any, swallowed: Swallowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of LiteLLM may have changed the function that names the provider."""
    swallowed.expect("gateway")
    monkeypatch.setattr(litellm, "get_llm_provider", lambda: None)
    metered = Metered(pg)
    litellm.completion(**CALL)
    assert metered.only.quality == "exact"


def test_litellm__sound__is_booked_as_estimated(pg: Paygent, litellm: Any) -> None:
    """By the request, at the plan's own rate: the answer reports no usage."""
    rates = {"a-voice": ModelCostRate.per_million(10, 0)}
    pg.configure_plan("speakers", PlanConfig(cost_rates=rates))
    pg.assign_plan("u1", "speakers")
    metered = Metered(pg)
    assert litellm.speech(model="openai/a-voice", input="Hello.") == b"sound"
    assert (metered.only.cost_total_nano, metered.only.quality) == (20_000, "estimated")


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


def _reject(**fields: Any) -> Any:
    raise Rejected(**fields)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (_reject, (50, "estimated")),
        (lambda: _reject(raw_response="No JSON."), (2, "estimated")),
        (lambda: _reject(raw_response=answer()), (20, "exact")),
    ],
)
def test_litellm__an_answer_that_it_rejects__is_booked(
    act: Callable[[], Any], expected: tuple[int, str], pg: Paygent, litellm: Any
) -> None:
    """It was paid, whatever status LiteLLM gives it: by the error's answer or its text, or at the
    estimate.
    """
    metered = Metered(pg)
    litellm.acts.append(act)
    with pytest.raises(Rejected):
        litellm.completion(**CALL)
    event = metered.only
    assert (event.output_tokens, event.quality, event.provider) == (*expected, "openai")


async def test_litellm__a_request_that_a_rule_rejects__costs_nothing(
    pg: Paygent, litellm: Any
) -> None:
    """LiteLLM raises the same error as for an answer, but before anything is sent."""

    def pre_call_rules() -> Any:
        return _reject()

    metered = Metered(pg)
    litellm.acts += [pre_call_rules, pre_call_rules]
    with pytest.raises(Rejected):
        await asyncio.to_thread(litellm.completion, **CALL)
    with pytest.raises(Rejected):
        await litellm.acompletion(**CALL)
    assert await asyncio.to_thread(lambda: metered.events) == []
    assert pg.health()["calls_in_flight"] == 0


def _refused() -> Any:
    try:
        raise ConnectError
    except ConnectError:
        raise ServerError(request=None)  # type: ignore[arg-type]  # noqa: B904 - as it does


def test_litellm__a_connection_that_was_never_made__costs_nothing(
    pg: Paygent, litellm: Any
) -> None:
    """LiteLLM has made it an error of the provider; the error behind it counts."""
    metered = Metered(pg)
    litellm.acts.append(_refused)
    with pytest.raises(ServerError):
        litellm.completion(**CALL)
    assert metered.events == []


def test_litellm__an_error_while_another_is_handled__is_judged_by_itself(
    pg: Paygent, litellm: Any
) -> None:
    """Neither what the application handles nor an earlier attempt of LiteLLM's says that this one
    has not left.
    """
    metered = Metered(pg)

    def broke() -> Any:
        raise ServerError(request=None)  # type: ignore[arg-type]

    def broke_again() -> Any:
        try:
            return _refused()
        except ServerError:
            return broke()

    litellm.acts += [broke, broke_again]
    try:
        raise ConnectError
    except ConnectError:
        with pytest.raises(ServerError):
            litellm.completion(**CALL)
    with pytest.raises(ServerError):
        litellm.completion(**CALL)
    assert len(metered.events) == 2


# -- in and out


def test_litellm__after_uninstrument__is_as_it_was(pg: Paygent, litellm: Any) -> None:
    """Its own functions and those of the application's modules; our arguments still go."""
    metered = Metered(pg)
    wrapped = litellm.app.complete
    pg.uninstrument()
    litellm.completion(**CALL, paygent_user_id="u2")
    wrapped(**CALL)
    assert litellm.ocr() == "text"
    assert metered.events == []
    assert "paygent_user_id" not in litellm.seen[0]
    instrumentation.uninstall()
    assert litellm.app.complete is litellm.completion
    assert not hasattr(litellm.completion.__wrapped__, "__wrapped__")  # LiteLLM's own alone


def test_litellm__a_function_that_is_not_metered__is_said_once_and_stays_of_its_kind(
    pg: Paygent, litellm: Any
) -> None:
    """Every one that calls a provider, under whatever name; what asks for what there is is free."""
    assert (litellm.ocr(), litellm.search()) == ("text", "found")
    assert asyncio.run(litellm.avideo_remix()) == "video"
    assert litellm.get_responses() == "what there is"
    said = {
        name: count for name, count in diagnostics.counts.items() if name.startswith("unmetered")
    }
    assert said == {f"unmetered:litellm:{name}": 1 for name in ("ocr", "search", "avideo_remix")}
    for name in ("avideo_remix", "acompletion", "aembedding"):
        assert inspect.iscoroutinefunction(getattr(litellm, name))
    for name in ("ocr", "completion", "get_responses"):
        assert not inspect.iscoroutinefunction(getattr(litellm, name))


def test_litellm__a_function_that_is_not_metered__is_refused_where_those_are(
    init: Init, litellm: Any
) -> None:
    """Sync and async, before it runs; what is metered, or asks for what there is, is not."""
    init(on_unmetered="raise")
    for call in (litellm.ocr, lambda: asyncio.run(litellm.avideo_remix())):
        with pytest.raises(PaygentLimitExceeded) as caught:
            call()
        assert str(caught.value.guard_result.gate_reason).startswith("unmetered:litellm:")
    assert litellm.get_responses() == "what there is"
    assert litellm.completion(**CALL).usage
    assert litellm.ocr.__wrapped__() == "text"


def _counted() -> dict[str, int]:
    """How many unmetered calls have passed, by their names."""
    names = [name for name in diagnostics.counts if name.startswith("unmetered:")]
    return {name.removeprefix("unmetered:"): diagnostics.counts[name] for name in names}


def _decorated(litellm: Any, name: str, function: Callable[..., Any]) -> Any:
    """Give the stand-in one more function that calls a provider."""
    made = placed("litellm", function)
    made.__name__ = name
    setattr(litellm, name, sys.modules["litellm.utils"].client(made))
    return getattr(litellm, name)


async def test_litellm__an_unmetered_function__counts_with_all_that_it_calls(
    pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """Its sync twin on another thread, and SDKs below; then it is over."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def send(**kwargs: Any) -> Any:
            return client.post("/videos", body={"model": "sora-2"}, cast_to=object)

        def generate(**kwargs: Any) -> Any:
            return placed(SENDS, send)(**kwargs)

        twin = _decorated(litellm, "video_generation", generate)

        async def generate_async(**kwargs: Any) -> Any:
            run = functools.partial(contextvars.copy_context().run, twin, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(None, run)

        await _decorated(litellm, "avideo_generation", generate_async)(model="openai/sora-2")
        assert _counted() == {"litellm:avideo_generation": 1}
        twin(model="openai/sora-2")
        assert _counted() == {"litellm:avideo_generation": 1, "litellm:video_generation": 1}
        send()
    assert _counted()["openai:POST /videos"] == 1
    assert len(fake.requests) == 3


def test_litellm__an_unmetered_function__is_reported_once(init: Init, litellm: Any) -> None:
    """`raise_on_hard_gate=False`: one callback for one call."""
    refused: list[Any] = []
    pg = init(on_unmetered="raise", raise_on_hard_gate=False)
    pg.on_hard_gate(refused.append)
    _decorated(litellm, "asearch", lambda **kwargs: litellm.search())()
    pg.flush()
    assert [each.gate_reason for each in refused] == ["unmetered:litellm:asearch"]
    instrumentation.uninstall()


def test_litellm__in_an_unmetered_function__what_can_be_metered_is(
    pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """Its own metered functions, and metered operations of an SDK: a batch."""
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def send() -> Any:
            client.batches.create(
                completion_window="24h", endpoint="/v1/chat/completions", input_file_id="f"
            )

        def create_batch(**kwargs: Any) -> Any:
            placed(SENDS, send)()
            return litellm.completion(**CALL)

        _decorated(litellm, "create_batch", create_batch)()
    assert [event.model for event in metered.events] == [None, "gpt-4o"]
    assert _counted() == {"litellm:create_batch": 1}


def test_litellm__a_socket_of_an_unmetered_function__counts_with_it(
    pg: Paygent, litellm: Any
) -> None:
    """It connects a client to a provider, at an address that is not metered."""

    def connect() -> Any:
        assert _destination(_Address("api.openai.com", "/v1/brand/new", {}), None) is None

    _decorated(litellm, "_arealtime", lambda **kwargs: placed(SENDS, connect)())()
    assert _counted() == {"litellm:_arealtime": 1}
    connect()
    assert _counted()["openai:WS /v1/brand/new"] == 1


def test_litellm__a_callback_in_an_unmetered_function__counts_by_itself(
    pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """What the application asks there is no part of it."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def callback() -> Any:
            client.post("/videos", body={"model": "sora-2"}, cast_to=object)

        _decorated(litellm, "extraction", lambda **kwargs: placed(LOGGING, callback)())()
    assert _counted() == {"litellm:extraction": 1, "openai:POST /videos": 1}


def test_litellm__a_module_that_it_loads_later__is_found(pg: Paygent, litellm: Any) -> None:
    """Its functions are made by the same decorator."""
    make = sys.modules["litellm.utils"].client
    assert make(placed("litellm.late.main", _generate))() == "text"
    assert diagnostics.counts["unmetered:litellm:late._generate"] == 1
    pg.uninstrument()
    assert make(placed("litellm.later.main", _generate))() == "text"
    assert "unmetered:litellm:later._generate" not in diagnostics.counts


def _generate() -> str:
    return "text"


async def test_litellm__a_plain_function_around_a_coroutine_function__stays_one(
    init: Init, litellm: Any
) -> None:
    """Another instrumentation has put it there; its answer is awaited, gated and metered."""
    original = litellm.acompletion

    @functools.wraps(original)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    litellm.acompletion = theirs
    metered = Metered(init())
    assert not inspect.iscoroutinefunction(litellm.acompletion)
    await litellm.acompletion(**CALL)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.cost_total_nano for event in events] == [ANSWER_NANO]
    instrumentation.uninstall()


def test_litellm__switched_off__takes_our_arguments_out_and_patches_nothing_else(
    litellm: Any,
) -> None:
    """With PAYGENT_DISABLED what is not metered is not touched."""
    before = {name: value for name, value in vars(litellm).items() if callable(value)}
    instrumentation.install(arguments_only=True)
    litellm.completion(**CALL, paygent_user_id="u2")
    assert "paygent_user_id" not in litellm.seen[0]
    changed = {name for name, value in before.items() if getattr(litellm, name) is not value}
    assert changed == set(before) & set(BY_NAME)
    instrumentation.uninstall()


def test_litellm__modules_that_load_themselves__are_left_asleep(
    init: Init, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Access to any attribute of one would run it; one that breaks does not prevent the hook."""
    woken = []

    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            woken.append(name)
            raise ImportError("needs a GPU")

    for name, module in (("lazy", Lazy("lazy")), ("none", None), ("odd", object())):
        monkeypatch.setitem(sys.modules, name, module)
    init()
    assert woken == []
    assert instrumentation.is_installed
    with paygent_context("u1"):
        litellm.completion(**CALL)
    instrumentation.uninstall()
    assert diagnostics.counts.get("patch:litellm") is None
