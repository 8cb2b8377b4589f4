"""LangChain's callback: it sets the user of calls, and meters only those that no hook sees."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.language_models.llms import LLM, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    LLMResult,
)
from langchain_core.runnables import RunnableLambda, RunnableParallel
from tests.instrument.shapes import MESSAGES, Metered, run_inside_lock
from tests.unit.client.context.here import who

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.context.scopes import current
from paygent.core.usage import Usage
from paygent.failopen import diagnostics
from paygent.integrations import LangChainCallback
from paygent.integrations.langchain import runs
from paygent.integrations.langchain.usage import read_result
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

USAGE: Any = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_token_details": {"cache_read": 30},
    "output_token_details": {"reasoning": 5},
}


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
        return _result(AIMessage("Hello.", usage_metadata=USAGE))

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
        metadata = {"model_name": "gpt-4o"}
        return _result(AIMessage("Hello.", usage_metadata=USAGE, response_metadata=metadata))


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent with a user on a plan of $0."""
    paygent = init()
    paygent.configure_plan("none", PlanConfig(max_spend_per_period=0))
    paygent.assign_plan("poor", "none")
    return paygent


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
        assert who() is None  # the reader is not the stream's user
    events = await asyncio.to_thread(lambda: metered.events)
    assert sorted(event.user_id for event in events) == ["u1", "u1", "u1", "u2"]
    assert who() is None


def test_callback__in_a_block__wins_and_restores_it(pg: Paygent, model: OpenAIModel) -> None:
    """It inherits session and metadata from a block of its user, nothing from another's."""
    metered = Metered(pg)
    with paygent_context("u1", "s1", metadata={"x": 1}):
        for user in ("u1", "u2"):
            stream = model.stream("x", config={"callbacks": [LangChainCallback(pg, user)]})
            next(stream)
            assert who() == "u1"
            list(stream)
            assert who() == "u1"
    events = {event.user_id: event for event in metered.events}
    assert (events["u1"].session_id, events["u1"].metadata) == ("s1", {"x": 1})
    assert events["u2"].session_id != "s1"


def test_callback__at_the_cap__lets_the_refusal_reach_the_application(
    pg: Paygent, model: OpenAIModel, fake: FakeProvider
) -> None:
    """The exception leaves the chain as it is, and nothing is sent."""
    config: Any = {"callbacks": [LangChainCallback(pg, "poor")]}
    chain = RunnableLambda(str) | model
    for call in (chain.invoke, lambda text, config: list(chain.stream(text, config))):
        with pytest.raises(PaygentLimitExceeded):
            call("x", config)
    with pytest.raises(PaygentLimitExceeded):
        chain.batch(["x", "y"], config)
    assert fake.requests == []
    assert who() is None


class PackageModel(OpenAIModel):
    """A model of a LangChain package that is known to be built on a hooked SDK."""

    __module__ = "langchain_openai.chat_models.base"


def test_callback__of_a_model_of_a_known_package__asks_the_gate_once(
    pg: Paygent, fake: FakeProvider
) -> None:
    """Also at the first call of its class: only the hook holds anything."""
    refused: list[str] = []
    pg.on_hard_gate(lambda result: refused.append(result.gate_reason))
    model = PackageModel(url=fake.openai_url)
    with pytest.raises(PaygentLimitExceeded):
        model.invoke("x", config={"callbacks": [LangChainCallback(pg, "poor")]})
    pg.flush()
    assert refused == ["total_spend"]


def test_callback__of_a_class_that_was_seen__asks_the_gate_once(
    pg: Paygent, model: OpenAIModel
) -> None:
    """The first call shows that a hook meters its calls."""
    refused: list[str] = []
    pg.on_hard_gate(lambda result: refused.append(result.gate_reason))
    model.invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    with pytest.raises(PaygentLimitExceeded):
        model.invoke("x", config={"callbacks": [LangChainCallback(pg, "poor")]})
    pg.flush()
    assert refused == ["total_spend"]


async def test_callback__awaited_by_many__waits_for_them_as_the_hook_does(
    pg: Paygent, fake: FakeProvider
) -> None:
    """A handler cannot wait on an event loop; the hook can, and every call fits."""
    plan = PlanConfig(max_spend_per_period=0.13, contention_wait_s=20)  # two fit at a time
    pg.configure_plan("small", plan)
    pg.assign_plan("u1", "small")
    model = PackageModel(url=fake.openai_url)
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
    answers = await asyncio.gather(*(model.ainvoke("x", config=config) for _ in range(6)))
    assert [message.content for message in answers] == ["Hello."] * 6


def test_callback__of_an_answer_out_of_langchains_cache__books_nothing(
    pg: Paygent, fake: FakeProvider
) -> None:
    """For models with a hook and without one; no warning that the hook saw no call."""
    metered = Metered(pg)
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
    for model in (OwnModel(), PackageModel(url=fake.openai_url)):
        model.cache = InMemoryCache()
        for _ in range(3):
            model.invoke("x", config=config)
    assert len(metered.events) == 2
    assert not any(kind.startswith("unmetered") for kind in diagnostics.counts)


def test_callback__of_a_known_package_that_no_hook_saw__warns(pg: Paygent) -> None:
    """Such as a model with the application's own client."""

    class Unseen(OwnModel):
        """A model without a hooked call."""

    Unseen.__module__ = "langchain_openai.chat_models.base"
    Unseen().invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    assert diagnostics.counts["unmetered:langchain:Unseen"] == 1


# -- batches of text models


class BatchModel(BaseLLM):
    """A text model that no hook sees, and that reports the usage of a batch as a whole."""

    output: Any

    @property
    def _llm_type(self) -> str:
        return "batch"

    def _generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        return LLMResult(generations=[[Generation(text="x")] for _ in prompts], **self.output)


@pytest.mark.parametrize("is_async", [False, True])
async def test_callback__of_a_batch_with_one_usage__counts_it_once(
    pg: Paygent, is_async: bool
) -> None:
    """LangChain leaves a batch's usage with the first prompt, and empties it for the others."""
    metered = Metered(pg)
    usage = {"prompt_tokens": 30, "completion_tokens": 6}
    model = BatchModel(output={"llm_output": {"token_usage": usage}})
    callbacks: Any = [LangChainCallback(pg, "u1")]
    if is_async:
        await model.agenerate(["a", "b", "c"], callbacks=callbacks)
    else:
        await asyncio.to_thread(model.generate, ["a", "b", "c"], callbacks=callbacks)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.input_tokens, event.output_tokens) for event in events] == [(30, 6)]
    assert pg.health()["calls_in_flight"] == 0


@pytest.mark.parametrize("output", [{}, {"llm_output": {}}, {"llm_output": {"token_usage": {}}}])
def test_callback__of_a_batch_without_usage__books_the_estimate_of_each_prompt(
    pg: Paygent, output: Any
) -> None:
    """LangChain then empties a usage that was never reported."""
    metered = Metered(pg)
    callbacks: Any = [LangChainCallback(pg, "u1")]
    BatchModel(output=output).generate(["a", "b"], callbacks=callbacks)
    assert [event.output_tokens > 0 for event in metered.events] == [True, True]


# -- the scope of the user


def test_callback__of_several_prompts__counts_each_and_restores_the_user(
    pg: Paygent, model: OpenAIModel
) -> None:
    """LangChain starts them all before the first call."""
    metered = Metered(pg)
    prompts: Any = [[HumanMessage("a")], [HumanMessage("b")], [HumanMessage("c")]]
    for used in (OwnModel(), model):
        used.generate(prompts, callbacks=[LangChainCallback(pg, "u1")])
        assert who() is None
    assert [event.user_id for event in metered.events] == ["u1"] * 6
    assert [event.quality for event in metered.events] == ["exact"] * 6
    assert pg.health()["calls_in_flight"] == 0


def test_callback__of_a_batch_with_a_refused_prompt__books_and_holds_nothing(pg: Paygent) -> None:
    """LangChain sends no prompt of the batch then, and reports no end of those that began."""
    limits: Any = {"gpt-4o": 60}
    pg.configure_plan("small", PlanConfig(model_limits=limits, contention_wait_s=0))
    pg.assign_plan("u1", "small")
    metered = Metered(pg)
    prompts: Any = [[HumanMessage("a")], [HumanMessage("b")], [HumanMessage("c")]]
    with pytest.raises(PaygentLimitExceeded) as caught:
        OwnModel().generate(prompts, callbacks=[LangChainCallback(pg, "u1")])
    assert (who(), runs._runs, pg.health()["calls_in_flight"]) == (None, {}, 0)
    assert (caught.value.guard_result.retryable, metered.events) == (True, [])
    OwnModel().invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    assert metered.only.quality == "exact"


def test_callback__beside_another_of_another_user__restores_the_user(
    pg: Paygent, model: OpenAIModel
) -> None:
    """The call belongs to the first handler, whatever others there are."""
    metered = Metered(pg)
    callbacks: Any = [LangChainCallback(pg, "u1"), LangChainCallback(pg, "u2")]
    model.invoke("x", config={"callbacks": callbacks})
    assert (metered.only.user_id, who()) == ("u1", None)
    model.invoke("x", config={"callbacks": callbacks})
    assert not any(kind.startswith("unmetered") for kind in diagnostics.counts)


class Raises(BaseCallbackHandler):
    """An application's handler that refuses every call."""

    raise_error = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Refuse."""
        raise RuntimeError("not today")


@pytest.mark.parametrize("is_hooked", [True, False])
def test_callback__of_a_call_that_another_handler_refuses__leaves_nothing_behind(
    pg: Paygent, model: OpenAIModel, is_hooked: bool
) -> None:
    """LangChain reports no end then: the user and the hold end with the method."""
    used = model if is_hooked else OwnModel()
    config: Any = {"callbacks": [LangChainCallback(pg, "u1"), Raises()]}
    for _ in range(3):
        with pytest.raises(RuntimeError):
            used.invoke("x", config=config)
        assert who() is None
    gc.collect()
    pg.flush()
    assert pg.health()["calls_in_flight"] == 0


class TextModel(LLM):
    """A text model of the older kind, on OpenAI's SDK."""

    url: str

    @property
    def _llm_type(self) -> str:
        return "text"

    def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        with openai.OpenAI(api_key="k", base_url=self.url) as client:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        return "Hello."


async def test_callback__of_a_text_model__names_its_user_and_counts_once(
    pg: Paygent, fake: FakeProvider
) -> None:
    """Alone and in a batch, in which LangChain starts all prompts before the first call."""
    metered = Metered(pg)
    model, config = TextModel(url=fake.openai_url), {"callbacks": [LangChainCallback(pg, "u1")]}
    await asyncio.to_thread(model.invoke, "x", config)  # type: ignore[arg-type]
    await asyncio.to_thread(model.batch, ["x", "y"], config)  # type: ignore[arg-type]
    await asyncio.to_thread(model.generate, ["x", "y"], callbacks=config["callbacks"])  # type: ignore[arg-type]
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.user_id, event.quality) for event in events] == [("u1", "exact")] * 5
    assert (len(fake.requests), runs._runs) == (5, {})


async def test_callback__of_an_awaited_text_model__needs_a_context_for_its_user(
    pg: Paygent, fake: FakeProvider
) -> None:
    """LangChain reports its start from another task; inside `paygent_context` each counts once."""
    metered = Metered(pg)
    model = TextModel(url=fake.openai_url)
    with paygent_context("u1"):
        await model.ainvoke("x")
        await model.abatch(["x", "y"])
    # With the callback too, where hooks are known to see the model: no false alarm, no leak.
    model.invoke("x", {"callbacks": [LangChainCallback(pg, "u1")]})
    with paygent_context("u1"):
        await model.ainvoke("x", {"callbacks": [LangChainCallback(pg, "u2")]})
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.user_id, event.quality) for event in events] == [("u1", "exact")] * 5
    assert not any(kind.startswith("unmetered") for kind in diagnostics.counts)
    assert (who(), runs._runs) == (None, {})


def test_callback__beside_the_models_own_one__counts_each_call_once(pg: Paygent) -> None:
    """For a model without a hook too; the other handler's run is no sign of a hook."""
    metered = Metered(pg)
    own, other = LangChainCallback(pg, "service"), LangChainCallback(pg, "u1")
    model = OwnModel(callbacks=[own])
    for _ in range(2):
        model.invoke("x", config={"callbacks": [other]})
    model.invoke("x")
    assert [event.user_id for event in metered.events] == ["u1", "u1", "service"]


def test_callback__of_a_model_that_embeds_first__counts_both(
    pg: Paygent, fake: FakeProvider
) -> None:
    """A semantic cache makes a call of its own, which is not the model's."""

    class Embeds(OwnModel):
        url: str

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            with openai.OpenAI(api_key="k", base_url=self.url) as client:
                client.embeddings.create(model="text-embedding-3-small", input="x")
            return super()._generate(*args, **kwargs)

    metered = Metered(pg)
    model = Embeds(url=fake.openai_url)
    for _ in range(2):
        model.invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    models = [event.model for event in metered.events]
    assert models == ["text-embedding-3-small", "gpt-4o"] * 2


def test_callback__of_a_class_whose_calls_are_hooked_at_times__loses_none(
    pg: Paygent, fake: FakeProvider
) -> None:
    """A class is no longer taken for hooked once a hook misses a call."""

    class Routes(OpenAIModel):
        calls: int = 0

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            self.calls += 1
            if self.calls == 1:
                return super()._generate(*args, **kwargs)
            metadata = {"model_name": "gpt-4o"}
            return _result(AIMessage("x", usage_metadata=USAGE, response_metadata=metadata))

    metered = Metered(pg)
    model = Routes(url=fake.openai_url)
    for _ in range(3):
        model.invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    assert [event.quality for event in metered.events] == ["exact"] * 3


def test_callback__of_a_model_with_a_block_of_its_own__leaves_the_call_to_that(
    pg: Paygent, fake: FakeProvider
) -> None:
    """A block inside the model's method is nearer to the call than the run."""

    class Names(OpenAIModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            with paygent_context("inner"):
                return super()._generate(*args, **kwargs)

    metered = Metered(pg)
    with paygent_context("outer"):
        config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
        Names(url=fake.openai_url).invoke("x", config=config)
    assert metered.only.user_id == "inner"


def test_callback__of_a_stream_that_calls_again__names_the_user_of_the_first_call(
    pg: Paygent, fake: FakeProvider
) -> None:
    """From the first token on the stream runs as its reader."""

    class Continues(OpenAIModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            yield from super()._stream(*args, **kwargs)
            yield from super()._stream(*args, **kwargs)

    metered = Metered(pg)
    with paygent_context("reader"):
        model = Continues(url=fake.openai_url)
        for _ in model.stream("x", config={"callbacks": [LangChainCallback(pg, "u1")]}):
            assert who() == "reader"
    assert [event.user_id for event in metered.events] == ["u1", "reader"]


async def test_callback__of_many_calls_in_one_task__keeps_nothing_of_them(pg: Paygent) -> None:
    """The task of a worker may live for long: its context keeps at most the last run."""
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
    task: Any = asyncio.current_task()
    before = len(getattr(task, "_callbacks", None) or ())
    for _ in range(3):
        await OwnModel().ainvoke("x", config)
    assert len(getattr(task, "_callbacks", None) or ()) == before
    last: Any = current.get()
    assert (last.has_ended, last.outer, runs._runs) == (True, None, {})


async def test_callback__of_a_task_that_is_cancelled__leaves_nothing_behind(pg: Paygent) -> None:
    """A request that may have been sent is booked as estimated; the user's scope ends."""

    class Slow(OwnModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            await asyncio.sleep(60)
            raise AssertionError

    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}

    def call_twice() -> None:
        """Call in a loop of its own, twice: the last loop keeps the traceback of its error."""

        async def cancelled() -> None:
            task = asyncio.create_task(Slow().ainvoke("x", config=config))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert who() is None

        for _ in range(2):
            asyncio.run(cancelled())

    await asyncio.to_thread(call_twice)
    gc.collect()
    await asyncio.to_thread(pg.flush)
    assert (pg.health()["calls_in_flight"], runs._runs) == (0, {})


async def test_callback__of_a_cancelled_task__ends_though_its_id_is_kept(pg: Paygent) -> None:
    """Tracers keep the id of a run until LangChain reports its end."""

    class Slow(OwnModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            await asyncio.sleep(60)
            raise AssertionError

    run_id = uuid4()
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")], "run_id": run_id}
    task = asyncio.create_task(Slow().ainvoke("x", config=config))
    await asyncio.sleep(0.05)
    assert list(runs._runs) == [run_id.int]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(pg.flush)
    assert (pg.health()["calls_in_flight"], runs._runs) == (0, {})


def test_callback__of_a_large_batch__resolves_and_keeps_no_chain(pg: Paygent) -> None:
    """LangChain starts all prompts of a batch before it calls the model."""
    prompts: Any = [[HumanMessage("x")]] * 1_200
    OwnModel().generate(prompts, callbacks=[LangChainCallback(pg, "u1")])
    assert (who(), current.get(), runs._runs) == (None, None, {})


def test_callback__of_a_stream_that_is_left_and_kept__is_its_users_alone(
    pg: Paygent, model: OpenAIModel
) -> None:
    """Calls and threads between two pieces belong to the reader."""
    stream = model.stream("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    next(stream)
    with ThreadPoolExecutor(1) as executor:
        assert (who(), executor.submit(who).result(30)) == (None, None)


def test_callback__of_a_model_that_calls_on_a_thread__names_the_user_there(
    pg: Paygent, fake: FakeProvider
) -> None:
    """A thread that the model starts runs as its user, and the call counts once."""

    class Threaded(OpenAIModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            with ThreadPoolExecutor(1) as executor:
                return executor.submit(super()._generate, *args, **kwargs).result(30)

    metered = Metered(pg)
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
    Threaded(url=fake.openai_url).invoke("x", config=config)
    assert (metered.only.user_id, who()) == ("u1", None)


def test_callback__of_a_model_that_leaves_a_thread_running__names_no_user_there_afterwards(
    pg: Paygent,
) -> None:
    """What the model started resolves to the surrounding user once the run has ended."""
    has_begun, is_over, seen = threading.Event(), threading.Event(), list[str | None]()

    class Threaded(OwnModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            thread.start()
            has_begun.wait(30)
            return super()._generate(*args, **kwargs)

    def work() -> None:
        seen.append(who())
        has_begun.set()
        is_over.wait(30)
        seen.append(who())

    thread = threading.Thread(target=work)
    with paygent_context("outer"):
        Threaded().invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    is_over.set()
    thread.join(30)
    assert seen == ["u1", "outer"]


@pytest.mark.parametrize("report", ["on_llm_new_token", "on_stream_event"])
def test_callback__at_the_first_piece_of_an_answer__ends_the_scope_and_not_the_call(
    pg: Paygent, report: str
) -> None:
    """LangChain reports pieces as tokens or as events, depending on the version of its protocol."""
    run_id, callback = uuid4(), LangChainCallback(pg, "u1")
    callback.on_llm_start({"id": ["own"]}, ["x"], run_id=run_id)
    assert (who(), pg.health()["calls_in_flight"]) == ("u1", 1)
    getattr(callback, report)("x", run_id=run_id)
    assert (who(), pg.health()["calls_in_flight"]) == (None, 1)
    callback.on_llm_end(None, run_id=run_id)
    assert pg.health()["calls_in_flight"] == 0


def test_callback__while_a_run_is_open__calls_on_other_threads_walk_no_stack(
    pg: Paygent, fake: FakeProvider, model: OpenAIModel
) -> None:
    """An open run costs other threads nothing, however deep their stacks are."""
    stream = model.stream("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    next(stream)
    begun: Any = LangChainCallback(pg, "u1")
    begun.on_llm_start({"id": ["own"]}, ["x"], run_id=(run_id := uuid4()))
    walked: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        is_walk = event == "c_call" and argument in (sys._getframe, sys._current_frames)
        # A finalizer that the collector happens to run here may walk the stack for its own reasons.
        if is_walk and module.startswith("paygent.") and not module.endswith("streams.ending"):
            walked.append(module)

    def call() -> None:
        sys.setprofile(profile)
        try:
            with (
                openai.OpenAI(api_key="k", base_url=fake.openai_url) as client,
                paygent_context("u2"),
            ):
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        finally:
            sys.setprofile(None)

    assert len(runs._runs) == 2
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(30)
    begun.on_llm_error(ValueError(), run_id=run_id)
    list(stream)
    assert (walked, runs._runs) == ([], {})


def test_callback__whose_reader_makes_a_call_of_its_own__counts_both(
    pg: Paygent, fake: FakeProvider
) -> None:
    """A call between two pieces of a stream is the reader's, and does not void the stream's."""

    class Streams(OwnModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            for number in range(2):
                message = AIMessageChunk(content="x", usage_metadata=USAGE if number else None)
                yield ChatGenerationChunk(message=message)

    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client, paygent_context("reader"):
        stream = Streams().stream("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
        next(stream)
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        list(stream)
    assert sorted(event.user_id for event in metered.events) == ["reader", "u1"]


def test_callback__of_a_model_that_calls_another__counts_the_inner_one(pg: Paygent) -> None:
    """A model around a model makes no request of its own."""

    class Delegates(OwnModel):
        def _generate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            inner = OwnModel().invoke("x", config={"callbacks": run_manager.handlers})
            return _result(inner)

    metered = Metered(pg)
    Delegates().invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
    assert (metered.only.user_id, pg.health()["calls_in_flight"]) == ("u1", 0)


# -- models that no hook sees


async def test_callback__of_a_model_without_a_hook_awaited__meters_a_first_call_ungated(
    pg: Paygent,
) -> None:
    """An unknown user cannot be queried on an event loop; the next call is gated."""
    metered = Metered(pg)
    pg.reset_user("poor")
    config: Any = {"callbacks": [LangChainCallback(pg, "poor")]}
    await OwnModel().ainvoke("x", config=config)
    await asyncio.to_thread(pg.flush)
    with pytest.raises(PaygentLimitExceeded):
        await OwnModel().ainvoke("x", config=config)
    assert len(await asyncio.to_thread(lambda: metered.events)) == 1


def test_callback__of_any_other_model__gates_and_meters_it(pg: Paygent) -> None:
    """By the usage that LangChain reports: 70 and 30 cached in, 20 out, by gpt-4o."""
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
    """An error of the model's code costs nothing, a time-out its hold."""
    metered = Metered(pg)
    for error in (ValueError("bad"), TimeoutError("late")):
        with pytest.raises(type(error)):
            OwnModel(error=error).invoke("x", config={"callbacks": [LangChainCallback(pg, "u1")]})
        assert who() is None
    assert metered.only.quality == "estimated"
    assert pg.health()["calls_in_flight"] == 0


def test_callback__of_a_stream_that_is_left__is_booked_and_holds_nothing(pg: Paygent) -> None:
    """LangChain reports it; a text model that reports no usage and no name has no price."""
    metered = Metered(pg)
    config: Any = {"callbacks": [LangChainCallback(pg, "u1")]}
    stream = GenericFakeChatModel(messages=iter([AIMessage("Hello there.")])).stream("x", config)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    FakeListLLM(responses=["Hello."]).invoke("x", config=config)
    assert [event.quality for event in metered.events] == ["unpriced"] * 2
    assert pg.health()["calls_in_flight"] == 0


def test_callback__of_a_stream_closed_inside_one_of_our_locks__ends_where_none_is_held(
    pg: Paygent,
) -> None:
    """The garbage collector may close it, while a tracer keeps its run id alive."""
    kept: list[Any] = []

    class Tracer(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            kept.append(kwargs["run_id"])

    metered = Metered(pg)
    config: Any = {"callbacks": [LangChainCallback(pg, "u1"), Tracer()]}
    model = GenericFakeChatModel(messages=iter([AIMessage("Hello there.")]))
    stream: Any = model.stream("x", config)
    next(stream)
    assert run_inside_lock(pg, "u1", stream.close) > 0
    assert (len(kept), len(metered.events), pg.health()["calls_in_flight"]) == (1, 1, 0)


def test_callback__without_paygent__changes_nothing(pg: Paygent, model: OpenAIModel) -> None:
    """After `shutdown` calls pass."""
    callback = LangChainCallback(pg, "u1")
    pg.shutdown()
    assert model.invoke("x", config={"callbacks": [callback]}).content == "Hello."


def test_callback__reports_of_unknown_runs__are_ignored(pg: Paygent) -> None:
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
    """Usage that a model does not report is not made up."""
    assert read_result(result, False) == expected


def test_read_result__with_tools__names_what_the_message_calls() -> None:
    """A plan may price them."""
    message = {
        "usage_metadata": {"input_tokens": 3},
        "tool_calls": [{"name": "search"}, {"name": None}, "odd"],
    }
    usage: Any = read_result(_message(**message), True)
    assert (usage.input_tokens, usage.tool_calls) == (3, ("search",))
    output = SimpleNamespace(llm_output={"token_usage": {"prompt_tokens": 3}})
    assert read_result(output, True) == Usage(3, 0)
