"""LiteLLM's streams: read as the application reads them, by taps in their classes.

The application gets the very object, and some of LiteLLM's own code looks at its class, so the taps
stand in the class that has `__next__` or `__anext__`, from the first stream of it that a call gave.
A stream that no call gave has no tap, and passes. Only a loop over a stream gets an iterator of its
own, whose end shows that the loop was left.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from paygent.client.instrument.http_sdks.wrapper import behind_gateway, gateway_here
from paygent.client.instrument.litellm.answers import answered_by, provider_of, read_completion
from paygent.client.instrument.litellm.callers import LiteLLMGateway
from paygent.client.instrument.litellm.functions import Function
from paygent.client.instrument.openai.answers import ChatStream
from paygent.client.instrument.patching.patches import Patches
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.instrument.streams.iterator_tap import AsyncLoop, SyncLoop
from paygent.client.metering import nesting
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage, get
from paygent.failopen import attempt

_NEXT = ("__next__", "__anext__")
_CLOSE = ("close", "aclose")
_ASYNC = ("__anext__", "aclose")
_LOOPS: Mapping[str, tuple[str, Any]] = {
    "__iter__": ("__next__", SyncLoop),
    "__aiter__": ("__anext__", AsyncLoop),
}
"""What gives a loop its iterator: the method of a step, and what stands for the loop."""
_METHODS = (*_NEXT, *_CLOSE, *_LOOPS)
_TAP = "_paygent_tap"
_NO_FIELDS: Mapping[str, Any] = {}
_KEEPS = ("litellm.litellm_core_utils.streaming_handler", "CustomStreamWrapper")
"""The class of streams that keep their chunks, which others stand around."""


def is_stream(answer: Any) -> bool:
    """Tell whether an answer is a stream object of LiteLLM's: its class says in Python how it goes
    on, as no generator's does.
    """
    return any(_method(type(answer), name)[1] is not None for name in _NEXT)


def tap(answer: Any, made: Tap, patches: Patches) -> bool:
    """Put a tap on a stream; false for an object that takes none, whose tap is never asked."""
    own = getattr(answer, "__dict__", None)
    if own is None:
        made.is_busy = True
        return False
    kinds = [type(answer)]
    keeps = getattr(sys.modules.get(_KEEPS[0]), _KEEPS[1], None)
    if isinstance(keeps, type):
        kinds.append(keeps)
    # The lock may be held for as long as an import takes, and this may be an event loop.
    if not all(_is_tapped(kind, patches) for kind in kinds):
        with patches.lock:
            for kind in kinds:
                for name in _METHODS:
                    _tap_method(kind, name, patches)
    own[_TAP] = made
    return True


class Reader:
    """Reads a stream of LiteLLM's: what it keeps of the chunks has the usage, which the application
    sees only if it asked for it. A stream of another kind stands around one that keeps them.
    """

    def __init__(self, stream: Any, function: Function, want_tools: bool, provider: str) -> None:
        """Look at a stream.

        Args:
            stream: As the application got it.
            function: What gave it.
            want_tools: As in `Call`.
            provider: Who was asked, where the stream does not tell who answers; "" as in `Usage`.
        """
        self._kept: Any = getattr(stream, "chunks", None)
        self._provider = provider_of(stream) or provider
        self._inner = function.reader(want_tools, False)
        self._is_chat = function.reader is ChatStream
        self._is_whole = False

    def stands_around(self, stream: Any) -> None:
        """Note a stream that is read below this one."""
        if self._kept is None:
            self._kept = getattr(stream, "chunks", None)

    def end(self) -> None:
        """Note that the stream has come to its own end."""
        self._is_whole = True

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`. None is ever kept from the application."""
        self._inner.feed(chunk)
        return None

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return what was used; see `StreamReader.usage`."""
        return answered_by(self._provider, self._usage(estimate))

    def _usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        seen = self._inner.usage(estimate)
        if not self._is_chat and (
            isinstance(seen, JobStatus) or (seen and seen.quality == "exact")
        ):
            return seen
        told = next((each for each in reversed(self._kept or ()) if get(each, "usage")), None)
        usage = read_completion(told, False) if told is not None else None
        if not isinstance(usage, Usage):
            return seen._replace(billed_nano=None) if isinstance(seen, Usage) else seen
        if self._is_whole or not isinstance(seen, Usage):
            return usage._replace(tool_calls=seen.tool_calls if isinstance(seen, Usage) else ())
        output_tokens = max(usage.output_tokens, seen.output_tokens)
        return usage._replace(output_tokens=output_tokens, quality="partial")


# -- taps


class Tap:
    """What a stream of LiteLLM's carries, and enters for each of its steps; goes with the stream.

    Attributes:
        ending: Ends the call.
        reader: Reads the chunks.
        is_busy: A step is under way; one that the stream takes on itself then is a part of it.
    """

    __slots__ = ("_around", "ending", "is_busy", "reader")

    def __init__(
        self, ending: StreamEnd, reader: Reader, give_up: Callable[[], None] | None = None
    ) -> None:
        """Take the parts.

        Args:
            ending: Ends the call.
            reader: Reads the chunks.
            give_up: Voids the call for what is called below the stream, which counts instead; None
                where that is a part of the call. Some streams are sent for when they are read.
        """
        self.ending = ending
        self.reader = reader
        self.is_busy = False
        self._around: AbstractContextManager[None] = (
            behind_gateway(_Reading(reader)) if give_up is None else nesting.Around(give_up)
        )

    def __enter__(self) -> None:
        self.is_busy = True
        self._around.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._around.__exit__(None, None, None)
        self.is_busy = False
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self.ending.at_its_end()
        elif error is not None:  # an error, an interruption: each ends the call
            self.ending()

    def __del__(self) -> None:
        if not self.is_busy:
            self.ending.from_anywhere()


class _Reading(LiteLLMGateway):
    """One step of a stream, as a call of LiteLLM's."""

    __slots__ = ("reader",)

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader


def _method(kind: type, name: str) -> tuple[type, Any]:
    """Return the class that a method comes from, and the method where it is one in Python."""
    owner = next((each for each in kind.__mro__ if name in vars(each)), kind)
    found = vars(owner).get(name)
    return owner, found if inspect.isfunction(found) else None


def _is_tapped(kind: type, patches: Patches) -> bool:
    found = (_method(kind, name)[1] for name in _METHODS)
    return all(each is None or patches.is_ours(each) for each in found)


def _tap_method(kind: type, name: str, patches: Patches) -> None:
    owner, original = _method(kind, name)
    if original is not None and not patches.is_ours(original):
        if name in _LOOPS:
            wrapper = _wrap_loop(original, *_LOOPS[name])
        else:
            wrap = _wrap_async if name in _ASYNC else _wrap_sync
            wrapper = wrap(original, _close if name in _CLOSE else _feed)
        patches.put(owner, name, wrapper)


def _wrap_loop(original: Callable[..., Any], step: str, loop: Any) -> Any:
    @functools.wraps(original)
    def method(stream: Any) -> Any:
        found = original(stream)
        tapped = _tap_of(stream)
        if tapped is None or found is not stream:
            return found
        begun = attempt("stream", loop, stream, tapped.ending, getattr(stream, step))
        return found if begun is None else begun

    return method


def _wrap_sync(original: Callable[..., Any], then: Callable[[Tap, Any], None]) -> Any:
    @functools.wraps(original)
    def method(stream: Any, *args: Any, **kwargs: Any) -> Any:
        tapped = _tap_of(stream)
        if tapped is None:
            return original(stream, *args, **kwargs)
        with tapped:
            found = original(stream, *args, **kwargs)
        then(tapped, found)
        return found

    return method


def _wrap_async(original: Callable[..., Any], then: Callable[[Tap, Any], None]) -> Any:
    @functools.wraps(original)
    async def method(stream: Any, *args: Any, **kwargs: Any) -> Any:
        tapped = _tap_of(stream)
        if tapped is None:
            return await original(stream, *args, **kwargs)
        with tapped:
            found = await original(stream, *args, **kwargs)
        then(tapped, found)
        return found

    return method


def _feed(tapped: Tap, chunk: Any) -> None:
    attempt("stream", tapped.reader.feed, chunk)


def _close(tapped: Tap, found: Any) -> None:
    tapped.ending()


def _tap_of(stream: Any) -> Tap | None:
    """Return the tap of a stream that takes a step; None for a part of one, and without a tap."""
    tapped: Tap | None = getattr(stream, "__dict__", _NO_FIELDS).get(_TAP)
    if tapped is None:
        gateway = gateway_here()
        if isinstance(gateway, _Reading):
            gateway.reader.stands_around(stream)
        return None
    return None if tapped.is_busy else tapped
