"""The user of LangChain's model calls: a callback handler.

    chain.invoke(question, config={"callbacks": [LangChainCallback(pg, user_id="user_123")]})

Theory of operation
-------------------
LangChain tells a handler that a model is about to be called, and in most cases that it has ended:
not of a task that is cancelled, a stream that is left, another handler that raises. So nothing is
put anywhere that would have to be taken back. While a model's own methods run they have a *run
manager* among their arguments, which has the id of the run; whoever makes a call below them is
found by looking up the stack, on whatever thread LangChain has gone to.

Where a hook sees the call (OpenAI, Anthropic, LiteLLM), the hook gates and meters it. Any other
model is gated and metered here, from what LangChain says it has used. Which of the two a model is,
is known of the packages that are built on an SDK with a hook, and learned of the others: a hooked
call inside has this one give up. Embeddings run no callbacks: put them into a `paygent_context`.

Read from langchain-core 1.8 (2026-11).
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from paygent.client.context.identity import (
    Identity,
    IdentitySource,
    add_resolver,
    innermost_open_scope,
)
from paygent.client.instrument.callables.run import end_raised, prepare
from paygent.client.instrument.http_sdks.wrapper import meter_or_say
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.client.runtime.event_loops import caller, runs_loop
from paygent.failopen import attempt, diagnostics
from paygent.integrations.langchain.usage import is_cached, read_result

try:
    from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
    from langchain_core.language_models import BaseLanguageModel
except ImportError as error:
    raise ImportError("LangChainCallback needs langchain-core; install it") from error

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from paygent.client.api.paygent import Paygent

_ROUTE = "langchain"
_PROVIDERS = {
    "amazon_bedrock": "aws",
    "google_genai": "google",
    "google_vertexai": "google",
    "mistralai": "mistral",
    "xai": "x-ai",
}
"""LangChain's names of providers that have another one here."""

_HOOKED = ("langchain_openai.", "langchain_anthropic.", "langchain_litellm.")
"""Packages whose models, and models derived from them, call an SDK that has a hook."""

_HOOKED_IDS = ("openai", "azure_openai", "anthropic", "litellm")
"""The same by LangChain's id of a model (`langchain.llms.openai.OpenAI`), its third part."""

_seen_by_hooks: set[Any] = set()
"""Kinds of models of which a hook was seen to meter a call."""


class LangChainCallback(BaseCallbackHandler):
    """Say whose the model calls of a chain, agent or graph are; one handler may serve many at once.

    Args:
        pg: The process's `Paygent`.
        user_id: The application's id of the user.
        session_id: The application's id of a session; None for the user's open one.
        metadata: Up to 16 keys and 1 kB, carried by every event.

    A refused call raises `PaygentLimitExceeded` out of the chain. Where several handlers are told
    of one call, the first has it; a batch of a text model is one call, the first prompt's. A model
    without a hook that is awaited cannot wait here, as a handler runs on its event loop: it is
    refused at once where calls in flight hold what is left, and its user's first call in a process
    passes.
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
        self.pg = pg
        self._identity = Identity(user_id, session_id, None, metadata)

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
        attempt("langchain", self._start, run_id, serialized, texts, kwargs)

    def on_llm_start(
        self, serialized: Any, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Begin a call of a text model; see `on_chat_model_start`."""
        attempt("langchain", self._start, run_id, serialized, prompts, kwargs)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that was answered."""
        run = self._own(run_id)
        if run is not None:
            attempt("settle", run.answered, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that raised, or whose stream was left."""
        run = self._own(run_id)
        if run is not None:
            attempt("settle", run.raised, error)

    # -- parts

    def _start(
        self, run_id: UUID, serialized: Any, texts: list[Any], told: Mapping[str, Any]
    ) -> None:
        if run_id in _runs:
            return  # another handler has it
        method, manager = _caller()
        model = method.f_locals.get("self") if method is not None else None
        run = _Run(self, self._identity, _kind_of(model, serialized))
        meter = meter_or_say()
        if meter is not None and not run.is_hooked:
            run.begin(meter, _request_of(run.resolve(), texts, told))
        if manager is not None:
            run.lives_with(manager, run_id)
        _runs[run_id] = run
        if method is not None and not method.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
            run.ends_with(caller(), run_id)

    def _own(self, run_id: UUID) -> _Run | None:
        """Take a run that this handler has begun."""
        run = _runs.get(run_id)
        if run is None or run.handler is not self:
            return None
        attempt("langchain", run.let_go)
        return _runs.pop(run_id, None)


def _caller() -> tuple[FrameType | None, Any]:
    """Return the method of a model that has told a handler, and the manager of callbacks that it
    has made for this; None for what is not on the stack.
    """
    manager = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, BaseLanguageModel):
            return frame, manager
        if manager is None and isinstance(found, BaseCallbackManager):
            manager = found
        frame = frame.f_back
    return None, manager


def _kind_of(model: Any, serialized: Any) -> Any:
    """Return what is learned of: a model's class, else LangChain's id of it."""
    if model is not None:
        return type(model)
    told = serialized.get("id") if isinstance(serialized, Mapping) else None
    return tuple(map(str, told)) if isinstance(told, (list, tuple)) else None


def _is_known(kind: Any) -> bool:
    """Tell whether a kind of models is built on an SDK that has a hook."""
    if isinstance(kind, type):
        return any(f"{base.__module__}.".startswith(_HOOKED) for base in kind.__mro__)
    return isinstance(kind, tuple) and (
        f"{kind[0]}.".startswith(_HOOKED)
        or (kind[0] == "langchain" and len(kind) > 3 and kind[2] in _HOOKED_IDS)
    )


# -- calls under way


class _Run:
    """A model call under way.

    Attributes:
        handler: Who is told of its end.
        is_hooked: Whether a hook sees what it sends; then nothing is held here.
    """

    def __init__(self, handler: LangChainCallback, identity: Identity, kind: Any) -> None:
        self.handler = handler
        self._kind = kind
        self._is_known = _is_known(kind)
        self.is_hooked = self._is_known or kind in _seen_by_hooks
        self._is_metered_inside = False
        self._meter: Meter | None = None
        self._request: Request | None = None
        self._call: Call | None = None
        self._manager: Any = None
        self._task: Any = None
        self._ended: Any = None
        self._before = innermost_open_scope()
        around = self._before.resolve() if self._before is not None else None
        is_same = around is not None and around.user_id == identity.user_id
        self._identity = identity.merged_with(around) if is_same else identity

    def resolve(self) -> Identity:
        """Return whose it is."""
        return self._identity

    def is_around(self, says: IdentitySource | None) -> bool:
        """Tell whether a block that says whose calls are made was entered before it, and not inside
        it.
        """
        return says is self._before or says is None

    def lives_with(self, manager: Any, run_id: UUID) -> None:
        """Have the run end with what the model's method keeps for it, if no other end is told.

        Args:
            manager: Of the method's callbacks; dies with the method.
            run_id: The run's.
        """
        # The call ends as estimated when nobody has it any more.
        self._manager = weakref.ref(manager, lambda _: _runs.pop(run_id, None))

    def ends_with(self, task: Any, run_id: UUID) -> None:
        """Have the run end with the task that it is made in, too: an exception may keep what the
        method has had alive for long.

        Args:
            task: The task; of a thread, nothing is done.
            run_id: The run's.
        """
        if not isinstance(task, int):
            self._task, self._ended = task, lambda _: _runs.pop(run_id, None)
            task.add_done_callback(self._ended)

    def let_go(self) -> None:
        """Leave the task alone: a task may make many calls."""
        task, self._task = self._task, None
        if task is not None:
            task.remove_done_callback(self._ended)

    def begin(self, meter: Meter, request: Request) -> None:
        """Gate a call that no hook may see."""
        found = attempt("begin", meter.begin, request)
        while found is not None and not isinstance(found, Call):
            if runs_loop():
                # Who is not known yet cannot be asked about here, where nothing may wait.
                request.has_run = True
            else:
                found.block()
            found = attempt("begin", meter.begin, request)
        self._meter, self._request, self._call = meter, request, found

    def give_up(self, request: Request | None) -> None:
        """Leave the call to one that is metered itself.

        Args:
            request: That one; None where that is not known.
        """
        if request is not None and not request.generates:
            return  # embeddings, for a cache: the model's own call is still to come
        self._is_metered_inside = True
        if request is not None and request.route != _ROUTE and self._kind is not None:
            _seen_by_hooks.add(self._kind)
        if self._meter is not None and self._call is not None:
            attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    def answered(self, response: Any) -> None:
        """End it with what LangChain says it has used."""
        cached = is_cached(response)
        if self.is_hooked and not self._is_metered_inside and not cached:
            self._unseen(response)
        meter, call = self._meter, self._call
        if meter is None or call is None or call.done:
            return
        if cached:
            meter.void(call, "answered from a cache")
        else:
            meter.settle(call, attempt("usage", read_result, response, call.wants_tools))

    def _unseen(self, response: Any) -> None:
        """Do with a call that a hook should have seen, and has not: say it of a model that is known
        to be hooked, whose answer may come out of a cache that older versions do not tell; book it
        of one that was taken for such.
        """
        usage = attempt("usage", read_result, response, False)
        meter = meter_or_say()
        if usage is None or meter is None:
            return
        if self._is_known:
            name = self._kind.__name__ if isinstance(self._kind, type) else self._kind[-1]
            diagnostics.warn_once(
                f"unmetered:langchain:{name}", "a call of %s was seen by no hook", name
            )
            return
        _seen_by_hooks.discard(self._kind)
        request = _request_of(self._identity, [], {"metadata": {"ls_model_name": usage.model}})
        request.has_run = True
        self.begin(meter, request)

    def raised(self, error: BaseException) -> None:
        """End it with what it has raised."""
        if self._meter is not None and self._call is not None and self._request is not None:
            prepared = prepare(self._request, _read_nothing)
            end_raised(self._meter, self._call, prepared, error)


_runs: dict[UUID, _Run] = {}
"""Those that have begun and not ended."""


def _runs_above() -> Iterator[_Run]:
    """Find the runs in whose model's methods this place is, the nearest first."""
    frame: FrameType | None = sys._getframe(1) if _runs else None
    while frame is not None:
        for each in _managers_in(frame):
            run = _runs.get(getattr(each, "run_id", None))  # type: ignore[arg-type]
            if run is not None:
                yield run
        frame = frame.f_back


_METHODS = ("_generate", "_agenerate", "_stream", "_astream", "_call", "_acall")
"""Methods of a model that are given a run manager, by whatever name."""


def _managers_in(frame: FrameType) -> Iterator[Any]:
    """Return what may be a run manager among the arguments of a function that runs."""
    names = _telling_names(frame.f_code)
    if not names:
        return
    told = frame.f_locals
    for name in names:
        found = told.get(name)
        if isinstance(found, Mapping):
            yield found.get("run_manager")
        elif isinstance(found, (list, tuple)):
            yield from found
        else:
            yield found


@lru_cache(maxsize=8192)
def _telling_names(code: CodeType) -> tuple[str, ...]:
    """Return which arguments of a function may have a run manager."""
    wanted = ["run_manager", "run_managers"]
    if "langchain_core" in code.co_filename or code.co_name in _METHODS:
        wanted += ["args", "kwargs"]
    there = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    return tuple(name for name in wanted if name in there)


def _look(says: IdentitySource | None) -> Identity | None:
    """Tell whose the calls of this place are; see `context.Look`."""
    run = next(_runs_above(), None)
    return run.resolve() if run is not None and run.is_around(says) else None


class _OnStack:
    """See `enclosing.OnStack`."""

    def give_up(self, request: Request) -> None:
        """Have the runs around this place give up."""
        for run in list(_runs_above()):
            run.give_up(request)

    def around(self) -> nesting.GiveUp | None:
        """Return what has them give up, or None."""
        runs = list(_runs_above())
        if not runs:
            return None

        def give_up() -> None:
            for run in runs:
                run.give_up(None)

        return give_up


add_resolver(_look)
nesting.on_stack.append(_OnStack())


def _request_of(identity: Identity, texts: list[Any], told: Mapping[str, Any]) -> Request:
    """Read a call as LangChain tells it."""
    asked: Mapping[str, Any] = told.get("invocation_params") or {}
    named: Mapping[str, Any] = told.get("metadata") or {}
    provider = str(named.get("ls_provider") or "")
    model = named.get("ls_model_name") or asked.get("model") or asked.get("model_name")
    most = named.get("ls_max_tokens") or asked.get("max_tokens")
    return Request(
        _PROVIDERS.get(provider, provider),
        _ROUTE,
        model if isinstance(model, str) else "",
        {"messages": [{"content": text} for text in texts]},
        max_tokens=most if type(most) is int and most > 0 else None,
        identity=identity,
    )


def _read_nothing(answer: Any, want_tools: bool) -> None:
    """Read nothing: a call that raised has no answer."""
