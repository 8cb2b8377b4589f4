"""LangChain's callback: it says whose calls they are, and meters only what no hook sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import openai
import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from tests.instrument.shapes import MESSAGES, Metered

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.context import current
from paygent.core.usage import Usage
from paygent.integrations import LangChainCallback
from paygent.integrations.langchain import read_result
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

TOLD: Any = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_token_details": {"cache_read": 30},
    "output_token_details": {"reasoning": 5},
}


def who() -> str | None:
    """The user whose calls are made here."""
    identity = current.get()
    return identity.user_id if identity is not None else None


class OpenAIModel(BaseChatModel):
    """A chat model on OpenAI's SDK, sync and async, streamed and not."""

    url: str

    @property
    def _llm_type(self) -> str:
        return "openai-chat"

    def _client(self) -> openai.OpenAI:
        return openai.OpenAI(api_key="k", base_url=self.url)

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        with self._client() as client:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        return _result(AIMessage("Hello.", usage_metadata=TOLD))

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with self._client() as client:
            for chunk in client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True
            ):
                text = chunk.choices[0].delta.content or ""
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))

    async def _astream(
        self, messages: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with openai.AsyncOpenAI(api_key="k", base_url=self.url) as client:
            async for chunk in await client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True
            ):
                text = chunk.choices[0].delta.content or ""
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))


class OwnModel(BaseChatModel):
    """A chat model that calls nothing that a hook sees."""

    error: Any = None

    @property
    def _llm_type(self) -> str:
        return "own"

    def _get_ls_params(self, *args: Any, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o", "ls_max_tokens": 50}

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        if self.error is not None:
            raise self.error
        told = {"model_name": "gpt-4o"}
        return _result(AIMessage("Hello.", usage_metadata=TOLD, response_metadata=told))


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent with a user who may spend nothing."""
    made = init()
    made.configure_plan("none", PlanConfig(max_spend_per_period=0))
    made.assign_plan("poor", "none")
    return made


@pytest.fixture
def model(fake: FakeProvider) -> OpenAIModel:
    """A model on OpenAI's SDK."""
    return OpenAIModel(url=fake.openai_url)


# -- models that a hook sees


def test_callback__of_a_model_that_a_hook_sees__names_the_user_and_meters_nothing(
    pg: Paygent, model: OpenAIModel
) -> None:
    """One call, one event, exact, of the callback's user and session."""
    metered = Metered(pg)
    callback = LangChainCallback(pg, "u1", "s1", {"via": "chain"})
    config: Any = {"callbacks": [callback]}
    model.invoke("x", config=config)
    list(model.stream("x", config=config))
    model.batch(["x", "y"], config=config)
    chain = RunnableParallel(a=model, b=RunnableLambda(str) | model)
    chain.invoke("x", config=config)
    assert len(metered.events) == 6
    for event in metered.events:
        assert (event.user_id, event.session_id, event.quality) == ("u1", "s1", "exact")
        assert event.metadata == {"via": "chain"}
    assert (callback.user_id, who(), pg.health()["calls_in_flight"]) == ("u1", None, 0)


async def test_callback__awaited__names_the_user(pg: Paygent, model: OpenAIModel) -> None:
    """Awaited, streamed and in a batch; tasks of two users at once."""
    metered = Metered(pg)
    first, second = ({"callbacks": [LangChainCallback(pg, user)]} for user in ("u1", "u2"))
    await asyncio.gather(
        model.ainvoke("x", config=first),  # type: ignore[arg-type]
        model.ainvoke("x", config=second),  # type: ignore[arg-type]
        model.abatch(["x"], config=first),  # type: ignore[arg-type]
    )
    async for _ in model.astream("x", config=first):  # type: ignore[arg-type]
        assert who() is None  # who reads is not who asked
    events = await asyncio.to_thread(lambda: metered.events)
    assert sorted(event.user_id for event in events) == ["u1", "u1", "u1", "u2"]
    assert who() is None


def test_callback__in_a_block__wins_and_leaves_it_as_it_was(
    pg: Paygent, model: OpenAIModel
) -> None:
    """Of another user it inherits nothing, of the same one session and metadata."""
    metered = Metered(pg)
    with paygent_context("u1", "s1", metadata={"x": 1}):
        for user in ("u1", "u2"):
            stream = model.stream("x", config={"callbacks": [LangChainCallback(pg, user)]})
            next(stream)
            assert who() == "u1"
            list(stream)
            assert who() == "u1"
    found = {event.user_id: event for event in metered.events}
    assert (found["u1"].session_id, found["u1"].metadata) == ("s1", {"x": 1})
    assert found["u2"].session_id != "s1"


def test_callback__at_the_cap__lets_the_refusal_reach_the_application(
    pg: Paygent, model: OpenAIModel, fake: FakeProvider
) -> None:
    """Itself, out of the chain, and nothing is sent."""
    config: Any = {"callbacks": [LangChainCallback(pg, "poor")]}
    chain = RunnableLambda(str) | model
    for call in (chain.invoke, lambda text, config: list(chain.stream(text, config))):
        with pytest.raises(PaygentLimitExceeded):
            call("x", config)
    with pytest.raises(PaygentLimitExceeded):
        chain.batch(["x", "y"], config)
    assert fake.requests == []
    assert who() is None


# -- models that no hook sees


def test_callback__of_any_other_model__gates_and_meters_it(pg: Paygent) -> None:
    """From what LangChain says of its use: 70 and 30 cached in, 20 out, by gpt-4o."""
    metered = Metered(pg)
    OwnModel().invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    event = metered.only
    assert (event.user_id, event.model, event.provider) == ("u1", "gpt-4o", "openai")
    assert (event.input_tokens, event.cached_input_tokens, event.reasoning_tokens) == (100, 30, 5)
    assert (event.cost_total_nano, event.quality) == (412_500, "exact")
    with pytest.raises(PaygentLimitExceeded):
        OwnModel().invoke("x", config={"callbacks": [LangChainCallback(pg, "poor")]})
    assert (len(metered.events), who(), pg.health()["calls_in_flight"]) == (1, None, 0)


def test_callback__of_a_model_that_raises__holds_nothing(pg: Paygent) -> None:
    """An error of its own costs nothing, a time-out what was held."""
    metered = Metered(pg)
    for error in (ValueError("bad"), TimeoutError("late")):
        with pytest.raises(type(error)):
            OwnModel(error=error).invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
        assert who() is None
    assert metered.only.quality == "estimated"
    assert pg.health()["calls_in_flight"] == 0


def test_callback__of_a_stream_that_is_left__is_booked_and_holds_nothing(pg: Paygent) -> None:
    """LangChain says so; the text models too, which tell nothing, no name either: no price."""
    metered = Metered(pg)
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
    stream = GenericFakeChatModel(messages=iter([AIMessage("Hello there.")])).stream("x", config)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    FakeListLLM(responses=["Hello."]).invoke("x", config=config)
    assert [event.quality for event in metered.events] == ["unpriced"] * 2
    assert pg.health()["calls_in_flight"] == 0


def test_callback__without_paygent__changes_nothing(pg: Paygent, model: OpenAIModel) -> None:
    """After `shutdown` calls pass."""
    callback = LangChainCallback(pg, "u1")
    pg.shutdown()
    assert model.invoke("x", config={"callbacks": [callback]}).content == "Hello."


def test_callback__words_of_runs_that_nobody_began__are_ignored(pg: Paygent) -> None:
    """A handler may be added in the middle of a run."""
    callback = LangChainCallback(pg, "u1")
    callback.on_llm_new_token("x", run_id=uuid4())
    callback.on_llm_end(None, run_id=uuid4())
    callback.on_llm_error(ValueError(), run_id=uuid4())


def _message(**fields: Any) -> Any:
    return SimpleNamespace(generations=[[SimpleNamespace(message=SimpleNamespace(**fields))]])


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, None),
        (SimpleNamespace(generations=[[]], llm_output=None), None),
        (SimpleNamespace(generations=[], llm_output={"token_usage": 5}), None),
        (SimpleNamespace(llm_output={"token_usage": {"prompt_tokens": 0}}), None),
        (
            SimpleNamespace(
                llm_output={"token_usage": {"prompt_tokens": 3, "completion_tokens": 2}}
            ),
            Usage(3, 2),
        ),
        (_message(usage_metadata={"input_tokens": 0, "output_tokens": "odd"}), None),
        (
            _message(usage_metadata={"input_tokens": 3}, response_metadata={"model": "m"}),
            Usage(3, 0, model="m"),
        ),
    ],
)
def test_read_result__of_any_shape__is_read_or_none(result: Any, expected: Usage | None) -> None:
    """What a model does not tell is not made up."""
    assert read_result(result) == expected
