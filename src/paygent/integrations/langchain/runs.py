"""Model calls of LangChain under way.

Theory of operation
-------------------
A run is a `Scope` in the context in which LangChain reports its start. Where a hook sees the call
(OpenAI, Anthropic, LiteLLM), the hook gates and meters it. Any other model is gated and metered
here, from the usage in LangChain's result. Packages built on an SDK with a hook are known; others
are learned: a hooked call inside a run voids what the run holds.

LangChain reports no end of a task that is cancelled, or of a call that another handler refuses.
Such a run ends with its task, or when the run's id is dropped: the methods under way keep it alive,
and so do tracers, which wait for the same report.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

from paygent.client.context.identity import Identity
from paygent.client.context.scopes import Scope, attach_identity, current, current_source
from paygent.client.instrument.callables.run import end_raised, prepare
from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.client.metering.wait import Wait
from paygent.client.runtime.event_loops import caller, runs_loop
from paygent.core.notices import Notice
from paygent.core.providers import canonical_provider
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt
from paygent.integrations.langchain.usage import is_cached, read_result, token_usage_of

_ROUTE = "langchain"
# Models that call an SDK with a hook: by the package, and by the third part of LangChain's own ids
# (`langchain.llms.openai.OpenAI`).
_HOOKED_PACKAGES = {"langchain_openai", "langchain_anthropic", "langchain_litellm"}
_HOOKED_PACKAGES |= {"langchain_deepseek", "langchain_xai"}  # derive from OpenAI's models
_HOOKED_IDS = ("openai", "azure_openai", "anthropic", "litellm")

_seen_by_hooks: set[tuple[str, ...]] = set()  # kinds of models of which a hook has metered a call
_runs: dict[int, Run] = {}  # open runs by the number of their id; the id itself would stay alive


class Run(Scope):
    """One model call, from LangChain's report of its start.

    Attributes:
        is_hooked: Whether a hook is expected to see its request; then nothing is held here.
        is_findable: Whether hooked calls inside find this run; not those of an awaited text model,
            which are made in another task than the one that reports its start.
    """

    def __init__(
        self, handler: object, identity: Identity, serialized: Any, options: Mapping[str, Any]
    ) -> None:
        super().__init__(identity, handler)
        self._kind = _kind_of(serialized)
        self._is_known = _is_known(self._kind)
        self.is_hooked = self._is_known or self._kind in _seen_by_hooks
        self.is_findable = True
        # LangChain starts all prompts of a batch before it calls the model, with one object.
        self._batch = options.get("invocation_params")
        self._is_metered_inside = False
        self._is_counted_in_batch = False  # another prompt's result had the usage of the batch
        self._meter: Meter | None = None
        self._call: Call | None = None
        self._task: Any = None

    def begin(self, meter: Meter, request: Request) -> None:
        """Gate a call that no hook may see; raise `PaygentLimitExceeded` if a limit refuses it."""
        outer = self.outer
        while isinstance(outer, Run) and outer._batch is self._batch is not None:
            outer = outer.outer  # runs of one batch are not inside one another
        with attach_identity(outer):
            answer = attempt("begin", meter.begin, request)
            while isinstance(answer, Wait):
                if runs_loop():
                    request.has_run = True  # nothing may wait here: meter it ungated
                else:
                    answer.block()
                answer = attempt("begin", meter.begin, request)
        self._meter, self._call = meter, answer

    def open(self, run_id: UUID) -> None:
        """Put the user into effect until the run ends, its task is cancelled or its id dropped."""
        self._number = number = run_id.int
        self._id_ref = weakref.ref(run_id, lambda _: _abandon(number))
        task: Any = caller()
        if not isinstance(task, int):  # not a thread
            self._task = task
            task.add_done_callback(self._end_with_task)
        _runs[number] = self
        self.enter()

    def _end_with_task(self, task: Any) -> None:
        # A step of a stream may have a task of its own, which ends before the stream does.
        if task.cancelled():
            _abandon(self._number)

    def close(self) -> None:
        """End the scope, and forget the task: it may make many more calls."""
        task, self._task = self._task, None
        if task is not None:
            task.remove_done_callback(self._end_with_task)
        self.end_scope()

    def end_scope(self) -> None:
        """End the user's scope, also for contexts that were copied meanwhile."""
        self.leave()
        self.has_ended = True
        current.set(current_source())  # without the runs of a batch that have ended before

    def yield_to(self, request: Request) -> None:
        """Void this run's call: `request` is made inside it and metered itself."""
        if not request.generates:
            return  # embeddings, for a cache: the model's own call is still to come
        self._is_metered_inside = True
        # An inner LangChain model has a run of its own, which is no evidence of a hook.
        if request.route != _ROUTE and self._kind:
            _seen_by_hooks.add(self._kind)
        if self._meter is not None and self._call is not None:
            attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    def others_of_batch(self) -> list[Run]:
        """Return the other open runs of the same batch, the latest first."""
        if self._batch is None:
            return []
        opened = reversed(list(_runs.values()))
        return [run for run in opened if run._batch is self._batch and run is not self]

    def withdraw_batch(self) -> None:
        """Void the other calls of a batch of which a limit refuses this one: LangChain sends none
        of them, and reports no end.
        """
        for run in self.others_of_batch():
            _runs.pop(run._number, None)
            run.close()
            if run._meter is not None and run._call is not None:
                attempt("settle", run._meter.void, run._call, "its batch was refused")

    def end_answered(self, response: Any) -> None:
        """End the call with the usage in LangChain's result."""
        cached = is_cached(response)
        # LangChain skips the model for a cached answer, so no hook can have seen a request.
        if self.is_hooked and self.is_findable and not self._is_metered_inside and not cached:
            self._end_unseen(response)
        meter, call = self._meter, self._call
        if meter is None or call is None or call.done:
            return
        if cached:
            meter.void(call, "answered from a cache")
            return
        usage = attempt("usage", read_result, response, call.wants_tools)
        reported = token_usage_of(response)
        if usage is None and self._is_counted_in_batch and reported == {}:
            meter.void(call, "counted with its batch")
            return
        if usage is not None and reported:
            for run in self.others_of_batch():
                run._is_counted_in_batch = True
        meter.settle(call, usage)

    def _end_unseen(self, response: Any) -> None:
        """Handle a call that a hook should have seen, and has not."""
        usage = attempt("usage", read_result, response, False)
        meter = meter_or_warn()
        if usage is None or meter is None:
            return
        if self._is_known:
            # Not booked: older versions do not mark an answer that comes out of a cache.
            name = self._kind[-1]
            operation = f"langchain:{name}"
            meter.unmetered.let_pass(
                Notice.UNMETERED_LANGCHAIN, name, operation=operation, model=usage.model
            )
            return
        _seen_by_hooks.discard(self._kind)
        request = _request_of(self.identity, [], {"metadata": {"ls_model_name": usage.model}})
        request.has_run = True
        self.begin(meter, request)

    def end_raised(self, error: BaseException) -> None:
        """End the call with the exception that it raised; safe in a finalizer."""
        meter, call = self._meter, self._call
        if meter is not None and call is not None:
            prepared = prepare(call.request, lambda *_: None)  # there is no answer to read
            end = partial(attempt, "settle", end_raised, meter, call, prepared, error)
            meter.deferred_ends.run_or_defer(end)  # perhaps a finalizer closes a stream


def start_run(run: Run, run_id: UUID, texts: list[Any], options: Mapping[str, Any]) -> None:
    """Gate a run if no hook will, and open it; see `LangChainCallback.on_chat_model_start`."""
    if run_id.int in _runs:
        return  # another handler has it: a call counts once, on the first handler's user
    meter = meter_or_warn()
    if meter is not None and not run.is_hooked:
        try:
            run.begin(meter, _request_of(run.identity, texts, options))
        except PaygentLimitExceeded:
            attempt("langchain", run.withdraw_batch)
            raise
    run.open(run_id)


def find_run(handler: object, run_id: UUID) -> Run | None:
    """Return an open run that this handler began."""
    run = _runs.get(run_id.int)
    return run if run is not None and run.owner is handler else None


def take_run(handler: object, run_id: UUID) -> Run | None:
    """Close a run that this handler began, and return it."""
    run = find_run(handler, run_id)
    if run is not None:
        _runs.pop(run_id.int, None)
        run.close()
    return run


def _abandon(number: int) -> None:
    """End a run of which LangChain reports no end. Called by a finalizer: takes no lock."""
    run = _runs.pop(number, None)
    if run is not None:
        run.has_ended = True
        run._call = None  # its finalizer settles the estimate


def _yield_enclosing(request: Request) -> None:
    """Void the runs around the current context; see `nesting.yield_hooks`."""
    source = current_source()
    while isinstance(source, Scope):
        if isinstance(source, Run) and not source.has_ended:
            source.yield_to(request)
        source = source.outer


nesting.yield_hooks.append(_yield_enclosing)


def _kind_of(serialized: Any) -> tuple[str, ...]:
    """Return LangChain's id of a model's class, by which is learned whether a hook sees it."""
    parts = serialized.get("id") if isinstance(serialized, Mapping) else None
    return tuple(map(str, parts)) if isinstance(parts, (list, tuple)) else ()


def _is_known(kind: tuple[str, ...]) -> bool:
    """Return whether a kind of models is built on an SDK that has a hook."""
    has_own_id = kind[:1] == ("langchain",) and len(kind) > 3
    return not _HOOKED_PACKAGES.isdisjoint(kind[:1]) or (has_own_id and kind[2] in _HOOKED_IDS)


def _request_of(identity: Identity, texts: list[Any], options: Mapping[str, Any]) -> Request:
    """Return the request that LangChain reports."""
    parameters: Mapping[str, Any] = options.get("invocation_params") or {}
    metadata: Mapping[str, Any] = options.get("metadata") or {}
    provider = str(metadata.get("ls_provider") or "")
    # Models report these fields at will; the standard `ls_…` metadata is the most reliable.
    model = metadata.get("ls_model_name") or parameters.get("model") or parameters.get("model_name")
    max_tokens = metadata.get("ls_max_tokens") or parameters.get("max_tokens")
    return Request(
        canonical_provider(provider),
        _ROUTE,
        model if isinstance(model, str) else "",
        {"messages": [{"content": text} for text in texts]},
        max_tokens=max_tokens if type(max_tokens) is int and max_tokens > 0 else None,
        identity=identity,
    )
