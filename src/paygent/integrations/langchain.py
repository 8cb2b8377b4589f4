"""The user of LangChain's model calls: a callback handler.

    chain.invoke(question, config={"callbacks": [LangChainCallback(pg, user_id="user_123")]})

Theory of operation
-------------------
LangChain runs such a handler before and after each model call, where the call is made: below the
method of the model (`generate`, `astream`, …) that makes it. The handler says whose calls are made
*in that method*, and of nothing else: LangChain does not tell of every end (a cancelled task, a
stream that is left, another handler that raises), so what it would put back might stay for ever.

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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from paygent import enclosing
from paygent.call import Call, Request
from paygent.context import Identity, Says, current
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, failures
from paygent.instrument.funnel import meter_or_say
from paygent.instrument.run import end_raised, prepare
from paygent.integrations.langchain_usage import is_cached, read_result
from paygent.loops import caller, runs_loop
from paygent.meter import Meter

try:
    from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
except ImportError as error:
    raise ImportError("LangChainCallback needs langchain-core; install it") from error

if TYPE_CHECKING:
    from types import FrameType

    from paygent.client import Paygent

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

_CALLBACKS = ("langchain_core.callbacks.", "paygent.")

_LAZY = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

_seen_by_hooks: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes of models of which a hook was seen to meter a call."""


class LangChainCallback(BaseCallbackHandler):
    """Say whose the model calls of a chain, agent or graph are; one handler may serve many at once.

    Args:
        pg: The process's `Paygent`.
        user_id: The application's id of the user.
        session_id: The application's id of a session; None for the user's open one.
        metadata: Up to 16 keys and 1 kB, carried by every event.

    A refused call raises `PaygentLimitExceeded` out of the chain. A model without a hook that is
    awaited cannot wait here, as a handler runs on its event loop: it is refused at once where
    calls in flight hold what is left, and its user's first call in a process passes.
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
        attempt("langchain", self._start, run_id, texts, kwargs, sys._getframe(1))

    def on_llm_start(
        self, serialized: Any, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Begin a call of a text model; see `on_chat_model_start`."""
        attempt("langchain", self._start, run_id, prompts, kwargs, sys._getframe(1))

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Leave the place to its own user: the call has been made, and what reads it comes next."""
        run = self._runs.get(run_id)
        if run is not None:
            attempt("langchain", run.block.pause)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that was answered."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            attempt("langchain", run.block.close, run)
            attempt("settle", run.answered, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that raised, or whose stream was left."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            attempt("langchain", run.block.close, run)
            attempt("settle", run.raised, error)

    # -- parts

    def _start(
        self, run_id: UUID, texts: list[Any], told: Mapping[str, Any], frame: FrameType | None
    ) -> None:
        method, manager = _method_above(frame)
        block = _Block.around_here(self._identity, method)
        run = _Run(block, type(method.f_locals.get("self")) if method is not None else type(None))
        block.runs.append(run)
        try:
            meter = meter_or_say()
            if meter is not None and not run.is_hooked:
                request = _request_of(self._identity, texts, told)
                block.begin(lambda: run.begin(meter, request))
        except PaygentLimitExceeded:
            block.close(run)
            raise
        if manager is not None:
            run.lives_with(manager, lambda: self._runs.pop(run_id, None))
        self._runs[run_id] = run


def _method_above(frame: FrameType | None) -> tuple[FrameType | None, Any]:
    """Return the method of a model below which a handler runs, and the manager of callbacks that it
    has made for this; None for what is not there.
    """
    manager = None
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(_CALLBACKS):
        found = frame.f_locals.get("self")
        if isinstance(found, BaseCallbackManager):
            manager = found
        frame = frame.f_back
    return frame, manager


def _where() -> int:
    """Return which task runs here, else which thread, by identity."""
    found = caller()
    return found if isinstance(found, int) else id(found)


class _Block:
    """The method of a model in which calls are made, as whose they are; see `context.Says`.

    Attributes:
        runs: The calls under way.
    """

    def __init__(self, identity: Identity, method: FrameType | None) -> None:
        self.runs: list[_Run] = []
        self._before = _standing(current.get())
        before = self._before.now() if self._before is not None else None
        if before is not None and before.user_id == identity.user_id:
            identity = identity.over(before)
        self._identity = identity
        # By identity: the frame lives as long as a run does.
        self._method = id(method) if method is not None else 0
        self._is_lazy = method is not None and bool(method.f_code.co_flags & _LAZY)
        self._where = _where()
        self._outer = _standing_around(enclosing.around())

    @classmethod
    def around_here(cls, identity: Identity, method: FrameType | None) -> _Block:
        """Return the block that a method's calls are made in, entered if it is not yet."""
        here = current.get()
        if isinstance(here, cls) and here._is_of(identity, method):
            return here
        block = cls(identity, method)
        current.set(block)
        enclosing.enter(block._give_up)
        return block

    def _is_of(self, identity: Identity, method: FrameType | None) -> bool:
        is_same = method is not None and self._method == id(method) and bool(self.runs)
        return is_same and self._identity.user_id == identity.user_id

    def now(self) -> Identity | None:
        """Return whose calls are made here: the block's, where this is inside the method."""
        if self._is_around_here():
            return self._identity
        return self._before.now() if self._before is not None else None

    def _is_around_here(self) -> bool:
        """Tell whether what asks runs in the method: below it on the stack, or in a thread or task
        that was started there.
        """
        if not self.runs:
            return False
        if not self._method or self._where != _where():
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if id(frame) == self._method:
                return True
            frame = frame.f_back
        return False

    def begin(self, action: Callable[[], None]) -> None:
        """Begin a call of this block, around which its siblings are not."""
        token = enclosing.enter(self._outer)
        try:
            action()
        finally:
            enclosing.leave(token)

    def _give_up(self) -> None:
        """Have the calls of this block give up: one that is metered itself begins in it."""
        if self._is_around_here():
            for run in self.runs:
                run.give_up()
        if self._outer is not None:
            self._outer()  # of another handler, which holds nothing, or of a wrapped callable

    def close(self, run: _Run) -> None:
        """Note that a run has ended; the last one leaves the place."""
        if run in self.runs:
            self.runs.remove(run)
        if not self.runs:
            self.leave()

    def pause(self) -> None:
        """Leave the place of a method that yields: what is started next is its reader's."""
        if self._is_lazy:
            self.leave()

    def leave(self) -> None:
        """Leave the place as it was before, if nothing has been put there since."""
        if current.get() is self:
            current.set(_standing(self._before))
        if enclosing.around() == self._give_up:
            enclosing.enter(_standing_around(self._outer))


def _standing(says: Says | None) -> Says | None:
    """Return what says whose calls they are, without blocks that have ended."""
    while isinstance(says, _Block) and not says.runs:
        says = says._before
    return says


def _standing_around(give_up: enclosing.GiveUp | None) -> enclosing.GiveUp | None:
    """Return what stands around a place, without blocks that have ended."""
    block = getattr(give_up, "__self__", None)
    while isinstance(block, _Block) and not block.runs:
        give_up = block._outer
        block = getattr(give_up, "__self__", None)
    return give_up


class _Run:
    """A model call under way.

    Attributes:
        block: Where it is made.
        is_hooked: Whether a hook sees what it sends; then nothing is held here.
    """

    def __init__(self, block: _Block, model: type) -> None:
        self.block = block
        self._model = model
        self.is_hooked = model in _seen_by_hooks or any(
            f"{base.__module__}.".startswith(_HOOKED) for base in model.__mro__
        )
        self._is_metered_inside = False
        self._meter: Meter | None = None
        self._request: Request | None = None
        self._call: Call | None = None
        self._manager: Any = None

    def lives_with(self, manager: Any, forget: Callable[[], object]) -> None:
        """Have the run end with what the model's method keeps for it, if no other end is told.

        Args:
            manager: Of the method's callbacks; dies with the method.
            forget: Called then.
        """

        def left(_: Any) -> None:
            self._call = None  # which ends as estimated when nobody has it any more
            self.block.runs.clear()
            self.block.leave()
            forget()

        self._manager = weakref.ref(manager, left)

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

    def give_up(self) -> None:
        """Leave the call to the hook that sees it."""
        self._is_metered_inside = True
        if self._model is not type(None):
            _seen_by_hooks.add(self._model)
        if self._meter is not None and self._call is not None:
            attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    def answered(self, response: Any) -> None:
        """End it with what LangChain says it has used."""
        meter, call = self._meter, self._call
        if self.is_hooked and not (self._is_metered_inside or is_cached(response)):
            usage = attempt("usage", read_result, response, False)
            if usage is not None and meter_or_say() is not None:
                kind = self._model.__name__
                failures.say(
                    f"unmetered:langchain:{kind}", "a call of %s was seen by no hook", kind
                )
        if meter is None or call is None or call.done:
            return
        if is_cached(response):
            meter.void(call, "answered from a cache")
        else:
            meter.settle(call, attempt("usage", read_result, response, call.wants_tools))

    def raised(self, error: BaseException) -> None:
        """End it with what it has raised."""
        if self._meter is not None and self._call is not None and self._request is not None:
            prepared = prepare(self._request, _read_nothing)
            end_raised(self._meter, self._call, prepared, error)


def _request_of(identity: Identity, texts: list[Any], told: Mapping[str, Any]) -> Request:
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
        identity=identity,
    )


def _read_nothing(answer: Any, want_tools: bool) -> None:
    """Read nothing: a call that raised has no answer."""
