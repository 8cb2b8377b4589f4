"""`wrap` and `awrap`: gate and meter any callable of the application.

Only the caller's estimates and the result are known, so the hold is the caller's estimate, and the
usage is read from the result. Only a refusal, and an argument that is not callable, raises: invalid
estimates, models and providers are logged once and ignored.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from paygent.client.api.arguments import is_name
from paygent.client.context.scopes import paygent_context
from paygent.client.instrument.callables.run import UNSEEN, Work, prepare, run, run_async
from paygent.client.instrument.callables.usage import reader_for
from paygent.client.metering import nesting
from paygent.client.metering.call import Request
from paygent.client.metering.meter import Meter
from paygent.client.runtime.providers import ProviderRegistry
from paygent.core.notices import Notice
from paygent.core.request_size import BYTES_PER_TOKEN, Size
from paygent.core.validation import ValidationErrors
from paygent.failopen import attempt, diagnostics

_ROUTE = "wrap"
_SIZED_ROUTE = "wrap.sized"  # the usage of such calls is learned separately
_TOKENS_MAX = 10**9  # of an estimate; beyond any model's limits


class CallableWrapper:
    """Runs the callables of one `Paygent`. Thread-safe: it keeps nothing."""

    def __init__(self, meter: Meter | None, registry: ProviderRegistry | None) -> None:
        self._meter = meter  # None lets everything run (Paygent is disabled)
        self._registry = registry  # of extractors for answers of unknown format
        self._is_stopped = False

    def stop(self) -> None:
        """Let callables run unmetered from now on, which is logged once."""
        self._meter = None
        self._is_stopped = True

    def run(self, given: Mapping[str, Any]) -> Any:
        """Run the callable of `wrap`, given its arguments by name."""
        action = given["fn"]
        if not callable(action):
            _refuse("wrap", action, "must be callable")
        return run(self._work(given), action)

    async def run_async(self, given: Mapping[str, Any]) -> Any:
        """Await the callable or awaitable of `awrap`, given its arguments by name."""
        fn = given["fn"]
        is_given = inspect.isawaitable(fn)
        if not is_given and not callable(fn):
            _refuse("awrap", fn, "must be callable or awaitable")
        work = self._work(given)

        async def action() -> Any:
            answer = fn if is_given else fn()
            if not inspect.isawaitable(answer):
                return answer
            if not hasattr(answer, "get_coro"):
                return await answer
            with nesting.enclosing_task(answer, work.as_enclosing()):  # its context was copied
                return await answer

        try:
            return await run_async(work, action)
        finally:
            if inspect.iscoroutine(fn):
                fn.close()  # refused or cancelled before it began: avoids Python's warning

    def _work(self, given: Mapping[str, Any]) -> Work:
        if self._is_stopped:
            diagnostics.warn_once(Notice.SHUT_DOWN)
        meter = self._meter  # read once: a shutdown may come in between
        prepared = attempt("prepare", self._prepare, given) if meter is not None else None
        if prepared is None:
            meter, prepared = None, prepare(Request("", _ROUTE, "", None), reader_for("", ()))
        whom = (given["user_id"], given["session_id"], None, given["metadata"])
        return Work(meter, prepared, attempt("prepare", paygent_context, *whom))

    def _prepare(self, given: Mapping[str, Any]) -> Any:
        provider = _read_name(given, "provider")
        registered = self._registry.all() if self._registry is not None else []
        input_tokens = _read_tokens(given, "estimated_input_tokens")
        request = Request(
            provider,
            _ROUTE if input_tokens is None else _SIZED_ROUTE,
            _read_name(given, "model"),
            None,
            max_tokens=_read_tokens(given, "estimated_max_tokens"),
            size=UNSEEN if input_tokens is None else Size(input_tokens * BYTES_PER_TOKEN),
            input_tokens=input_tokens,
        )
        return prepare(request, reader_for(provider, registered))


def _refuse(verb: str, fn: Any, rule: str) -> None:
    errors = ValidationErrors(verb)
    errors.add("fn", fn, rule)
    errors.raise_if_any()


def _read_name(given: Mapping[str, Any], name: str) -> str:
    """Return a model's or provider's name; "" for none, and for an invalid one."""
    value = given[name]
    is_empty = value is None or (isinstance(value, str) and not value)
    if is_empty or is_name(value):
        return value or ""
    _warn_invalid(name)
    return ""


def _read_tokens(given: Mapping[str, Any], name: str) -> int | None:
    """Return an estimate of tokens; None for none, and for an invalid one."""
    value = given[name]
    if value is None or (type(value) is int and 0 <= value <= _TOKENS_MAX):
        return value
    _warn_invalid(name)
    return None


def _warn_invalid(name: str) -> None:
    diagnostics.warn_once(Notice.BAD_WRAP_VALUE, name, subject=name)
