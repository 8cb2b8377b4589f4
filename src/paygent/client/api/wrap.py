"""`wrap` and `awrap`: gate and meter any callable of the application's.

Only its result and what its caller says of it are known, so the estimate is the caller's, and usage
is read from whatever comes back. Nothing but a refusal and what can never run raises here: bad
estimates, models and providers are said once and ignored.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from paygent.client.context.scopes import paygent_context
from paygent.client.instrument.callables.run import UNSEEN, Work, prepare, run, run_async
from paygent.client.instrument.callables.usage import reader_for
from paygent.client.metering import nesting
from paygent.client.metering.call import Request
from paygent.client.metering.meter import Meter
from paygent.client.runtime.providers import ProviderRegistry
from paygent.core.request_size import BYTES_PER_TOKEN, Size
from paygent.core.validation import ValidationErrors
from paygent.failopen import attempt, diagnostics

_ROUTE = "wrap"
_SIZED_ROUTE = "wrap.sized"  # what such calls take is learned apart from the others
_NAME_CHARS_MAX = 255
_TOKENS_MAX = 10**9  # of an estimate; no model takes or gives as much


class CallableWrapper:
    """Runs the callables of one `Paygent`. Thread-safe: it keeps nothing."""

    def __init__(self, meter: Meter | None, registry: ProviderRegistry | None) -> None:
        """Take the parts.

        Args:
            meter: Gates and meters; None lets everything run (Paygent is switched off).
            registry: Whose extractors are asked about answers of unknown shape.
        """
        self._meter = meter
        self._registry = registry

    def stop(self) -> None:
        """Let callables run unmetered from now on, which is said once."""
        self._meter = None
        self._is_stopped = True

    _is_stopped = False

    def run(self, given: Mapping[str, Any]) -> Any:
        """Run the callable of `wrap`, which was given these arguments, by name."""
        action = given["fn"]
        if not callable(action):
            _refuse("wrap", action, "must be callable")
        return run(self._work(given), action)

    async def run_async(self, given: Mapping[str, Any]) -> Any:
        """Await the callable or awaitable of `awrap`, which was given these arguments, by name."""
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
            with nesting.enclosing_task(answer, work.void_for_inner):  # its context was copied
                return await answer

        try:
            return await run_async(work, action)
        except BaseException:
            if inspect.iscoroutine(fn):
                fn.close()  # refused or cancelled before it began; otherwise it has ended
            raise

    def _work(self, given: Mapping[str, Any]) -> Work:
        if self._is_stopped:
            diagnostics.warn_once("shut_down", "Paygent is shut down; calls pass unmetered")
        meter = self._meter
        prepared = attempt("prepare", self._prepare, given) if meter is not None else None
        if prepared is None:
            meter, prepared = None, prepare(Request("", _ROUTE, "", None), reader_for("", ()))
        scope = attempt(
            "prepare",
            paygent_context,
            given["user_id"],
            given["session_id"],
            None,
            given["metadata"],
        )
        return Work(meter, prepared, scope)

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
    findings = ValidationErrors(verb)
    findings.add("fn", fn, rule)
    findings.raise_if_any()


def _read_name(given: Mapping[str, Any], name: str) -> str:
    """Return a model's or provider's name; "" for none, and for one that cannot be used."""
    value = given[name]
    if value is None or (isinstance(value, str) and len(value) <= _NAME_CHARS_MAX):
        return value or ""
    diagnostics.warn_once(f"wrap_{name}", "the %s given to wrap is not usable; ignored", name)
    return ""


def _read_tokens(given: Mapping[str, Any], name: str) -> int | None:
    """Return an estimate of tokens; None for none, and for one that cannot be used."""
    value = given[name]
    if value is None or (type(value) is int and 0 <= value <= _TOKENS_MAX):
        return value
    diagnostics.warn_once(
        f"wrap_{name}", "the %s given to wrap is no number of tokens; ignored", name
    )
    return None
