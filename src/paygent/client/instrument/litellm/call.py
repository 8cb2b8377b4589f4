"""One call of a LiteLLM function: what surrounds it, and how its answer or exception ends it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from paygent.client.instrument.callables.run import Work, end_raised, prepare
from paygent.client.instrument.litellm.answers import (
    answered_by,
    is_from_cache,
    is_of_request_rule,
    provider_of,
    read_part,
    read_rejected,
    was_never_sent,
)
from paygent.client.instrument.litellm.callers import LiteLLMGateway, is_in_callback
from paygent.client.instrument.litellm.functions import Function
from paygent.client.instrument.litellm.streams import Reader, Tap, is_stream, tap
from paygent.client.instrument.patching.patches import Patches
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.notices import Notice
from paygent.core.usage import JobStatus, Usage
from paygent.failopen import attempt, diagnostics


class GatewayCall(Work):
    """One call of a LiteLLM function; see `run.Work`."""

    __slots__ = ("_function", "_gateway", "_handled", "_inside", "_patches")

    def __init__(
        self,
        meter: Meter | None,
        request: Request,
        scope: Any,
        function: Function,
        patches: Patches,
        gateway: LiteLLMGateway | None,
    ) -> None:
        """Create a call. Where LiteLLM makes up the answer there is no `gateway`: a fallback to a
        provider is a call of its own then.
        """
        self._inside: AbstractContextManager[None] = gateway or nullcontext()
        self._gateway = gateway = gateway or LiteLLMGateway()

        def read(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
            usage = function.read(answer, want_tools)
            return answered_by(provider_of(answer) or gateway.provider, usage)

        super().__init__(meter, prepare(request, read), scope)
        self._function = function
        self._patches = patches
        # LiteLLM's errors name no cause, so their contexts are searched, but not beyond this one.
        self._handled = sys.exc_info()[1]

    def __enter__(self) -> GatewayCall:
        super().__enter__()
        self._inside.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._inside.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def _yield_to_inner(self) -> None:
        # Only a provider of the application counts by its calls, and its callbacks are beside it.
        if not self._gateway.in_front and not is_in_callback():
            self.void_for_inner()

    def _meters(self) -> bool:
        # LiteLLM's own requests are no calls here; those of its callbacks are not in its price.
        return not self._gateway.in_front and not is_in_callback() and Work._meters(self)

    def end_with(self, meter: Meter, call: Call, answer: Any) -> None:
        """End a call with its answer; a stream ends it later."""
        if is_from_cache(answer):
            if self._gateway.embeds is None:
                meter.void(call, "answered from a cache")
            else:  # only the rest of the input was sent to the provider
                meter.settle(call, attempt("usage", self._usage_of_part, answer))
            return
        if not is_stream(answer):
            super().end_with(meter, call, answer)
            return
        reader = Reader(answer, self._function, call.wants_tools, self._gateway.provider)
        enclosing = nesting.Enclosing(self._yield_to_inner, self._meters)
        around = None if self._gateway.in_front else enclosing
        if tap(answer, Tap(StreamEnd(meter, call, reader), reader, around), self._patches):
            call.hand_over()
        else:  # no usage will be seen, and the hold must end
            kind = type(answer).__name__
            diagnostics.warn_once(Notice.UNREAD_STREAM, kind)
            meter.settle(call, None)

    def _usage_of_part(self, answer: Any) -> Usage | JobStatus | None:
        body = self._prepared.request.body or {}
        usage = self._prepared.route.read(answer, False)
        return read_part(usage, self._gateway.embeds, body.get("input"))

    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End a call that raised, by the class: LiteLLM invents a status where there is none."""
        names = {base.__name__ for base in type(error).__mro__}
        body = self._prepared.request.body or {}
        if "APITimeoutError" in names and body.get("mock_timeout") is True:
            meter.void(call, "a mocked time-out")  # LiteLLM sends nothing
        elif "APIResponseValidationError" in names and is_of_request_rule(error):
            meter.void(call, "rejected by a rule")
        elif "APIResponseValidationError" in names:
            # A rule or a schema of the application has rejected the answer, which was paid.
            answer = getattr(error, "raw_response", None)
            usage = attempt("usage", read_rejected, answer, call.estimate)
            meter.settle(call, answered_by(self._gateway.provider, usage))
        elif "APITimeoutError" in names or (
            "APIConnectionError" in names and not was_never_sent(error, self._handled)
        ):
            meter.settle(call, None)  # the provider may have billed it
        else:
            end_raised(meter, call, self._prepared, error)
