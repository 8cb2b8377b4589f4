"""The user of LangChain's model calls: a callback handler.

    chain.invoke(question, config={"callbacks": [LangChainCallback(pg, user_id="user_123")]})

LangChain runs such a handler right before and after each model call, where the call is made. It
says whose call that is. Where a hook sees the call (OpenAI, Anthropic, LiteLLM), the hook meters
it; any other model is gated and metered here, from what LangChain says it has used. Embeddings run
no callbacks: put them into a `paygent_context`.

Read from langchain-core 1.8 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from paygent import enclosing
from paygent.call import Call, Request
from paygent.context import Identity, current
from paygent.core.usage import Usage
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt
from paygent.instrument.funnel import meter_or_say
from paygent.instrument.run import end_raised, prepare
from paygent.meter import Meter

try:
    from langchain_core.callbacks import BaseCallbackHandler
except ImportError as error:
    raise ImportError("LangChainCallback needs langchain-core; install it") from error

if TYPE_CHECKING:
    from paygent.client import Paygent

_PROVIDERS = {
    "amazon_bedrock": "aws",
    "google_genai": "google",
    "google_vertexai": "google",
    "mistralai": "mistral",
    "xai": "x-ai",
}
"""LangChain's names of providers that have another one here."""


class _Run(NamedTuple):
    """A model call under way.

    Attributes:
        identity: Whose it is.
        before: Whose calls were made here before.
        meter: Ends the call.
        call: What holds for it, until a hook sees a call inside; None where nothing does.
        request: The call as the meter takes it.
        token: Takes it off the calls that stand around this place.
    """

    identity: Identity
    before: Identity | None
    meter: Meter | None
    call: Call | None
    request: Request | None
    token: Token[enclosing.GiveUp | None] | None


class LangChainCallback(BaseCallbackHandler):
    """Say whose the model calls of a chain, agent or graph are; one handler may serve many at once.

    Args:
        pg: The process's `Paygent`.
        user_id: The application's id of the user.
        session_id: The application's id of a session; None for the user's open one.
        metadata: Up to 16 keys and 1 kB, carried by every event.

    A refused call raises `PaygentLimitExceeded` out of the chain.
    """

    raise_error = True  # a refusal must reach the application
    run_inline = True  # where the call is made, and not in a thread of its own

    def __init__(
        self,
        pg: Paygent,
        user_id: Any,
        session_id: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._pg = pg
        self._identity = Identity(user_id, session_id, None, metadata)
        self._runs: dict[UUID, _Run] = {}

    @property
    def user_id(self) -> str | None:
        """Whose calls they are; None for an id that cannot be used."""
        return self._identity.user_id

    # -- what LangChain calls

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[Any]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Begin a call of a chat model.

        Raises:
            PaygentLimitExceeded: if a limit refuses it.
        """
        texts = [getattr(each, "content", None) for batch in messages for each in batch]
        self._start(run_id, texts, kwargs)

    def on_llm_start(
        self, serialized: Any, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Begin a call of a text model; see `on_chat_model_start`."""
        self._start(run_id, prompts, kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Leave the place to its own user: the call has been made, and its reader comes next."""
        run = self._runs.get(run_id)
        if run is not None:
            attempt("langchain", _leave, run)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that was answered."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            attempt("langchain", _leave, run)
            if run.meter is not None and run.call is not None and not run.call.done:
                usage = attempt("usage", read_result, response)
                attempt("settle", run.meter.settle, run.call, usage)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that raised, or whose stream was left."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            attempt("langchain", _leave, run)
            if run.meter is not None and run.call is not None and run.request is not None:
                prepared = prepare(run.request, _read_nothing)
                attempt("settle", end_raised, run.meter, run.call, prepared, error)

    # -- parts

    def _start(self, run_id: UUID, texts: list[Any], told: Mapping[str, Any]) -> None:
        before = current.get()
        identity = self._identity
        if before is not None and before.user_id == identity.user_id:
            identity = identity.over(before)
        current.set(identity)
        run = _Run(identity, before, None, None, None, None)
        try:
            meter = meter_or_say()
            request = attempt("prepare", _request_of, texts, told) if meter is not None else None
            if meter is not None and request is not None:
                run = self._begin(run, meter, request)
        except PaygentLimitExceeded:
            _leave(run)
            raise
        self._runs[run_id] = run

    def _begin(self, run: _Run, meter: Meter, request: Request) -> _Run:
        """Gate a call that no hook may see; where one does, this one gives up its hold."""
        call = attempt("begin", meter.begin, request)
        while call is not None and not isinstance(call, Call):
            call.block()
            call = attempt("begin", meter.begin, request)
        if call is None:
            return run
        token = enclosing.enter(
            lambda: attempt("settle", meter.void, call, "its calls are metered themselves")
        )
        return run._replace(meter=meter, call=call, request=request, token=token)


def _leave(run: _Run) -> None:
    """Leave the place as it was before the call."""
    if current.get() is run.identity:
        current.set(run.before)
    if run.token is not None:
        try:
            enclosing.leave(run.token)
        except RuntimeError:
            pass  # left already


def _request_of(texts: list[Any], told: Mapping[str, Any]) -> Request:
    """Read a call as LangChain tells it."""
    asked: Mapping[str, Any] = told.get("invocation_params") or {}
    named: Mapping[str, Any] = told.get("metadata") or {}
    provider = str(named.get("ls_provider") or "")
    model = named.get("ls_model_name") or asked.get("model") or asked.get("model_name")
    most = named.get("ls_max_tokens") or asked.get("max_tokens")
    return Request(
        _PROVIDERS.get(provider, provider),
        "langchain",
        model if isinstance(model, str) else "",
        {"messages": [{"content": text} for text in texts]},
        max_tokens=most if type(most) is int and most > 0 else None,
    )


def _read_nothing(answer: Any, want_tools: bool) -> None:
    """Read nothing: a call that raised has no answer."""


# -- what it has used


def read_result(result: Any) -> Usage | None:
    """Read the usage of LangChain's `LLMResult`, which is one call's: what its message says, or the
    model's own output; None where neither does.
    """
    for alternatives in getattr(result, "generations", None) or ():
        message = getattr(alternatives[0], "message", None) if alternatives else None
        usage = _of_message(getattr(message, "usage_metadata", None))
        if usage is not None:
            told: Mapping[str, Any] = getattr(message, "response_metadata", None) or {}
            model = told.get("model_name") or told.get("model")
            return usage._replace(model=model if isinstance(model, str) else None)
    return _of_output(getattr(result, "llm_output", None))


def _of_message(told: Any) -> Usage | None:
    """Read `usage_metadata`, whose totals include what its details name."""
    if not isinstance(told, Mapping):
        return None
    inputs: Mapping[str, Any] = told.get("input_token_details") or {}
    outputs: Mapping[str, Any] = told.get("output_token_details") or {}
    input_tokens, output_tokens = _count(told, "input_tokens"), _count(told, "output_tokens")
    if not input_tokens and not output_tokens:
        return None
    cached = min(_count(inputs, "cache_read"), input_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        cached,
        min(_count(inputs, "cache_creation"), input_tokens - cached),
        reasoning_tokens=min(_count(outputs, "reasoning"), output_tokens),
        audio_input_tokens=min(_count(inputs, "audio"), input_tokens - cached),
        audio_output_tokens=min(_count(outputs, "audio"), output_tokens),
    )


def _of_output(told: Any) -> Usage | None:
    """Read the `token_usage` that older models put into their output."""
    usage = told.get("token_usage") if isinstance(told, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    input_tokens, output_tokens = (
        _count(usage, name) for name in ("prompt_tokens", "completion_tokens")
    )
    if not input_tokens and not output_tokens:
        return None
    return Usage(input_tokens, output_tokens)


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if type(value) is int and value > 0 else 0
