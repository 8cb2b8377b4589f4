"""LiteLLM's streams: read as the application reads them, by taps in their classes.

The application gets the very object, and LiteLLM's own code checks its class, so the methods of the
class are wrapped, once a call has returned a stream of it. A stream of no call has no tap, and
passes. Only a loop over a stream gets an iterator of its own: when that is dropped, the loop was
left.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from paygent.client.instrument.http_sdks.layers import current_gateway
from paygent.client.instrument.litellm.answers import answered_by, provider_of, read_completion
from paygent.client.instrument.litellm.callers import LiteLLMGateway
from paygent.client.instrument.litellm.functions import Function
from paygent.client.instrument.openai.answers import ChatStream
from paygent.client.instrument.patching.patches import Patches
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.instrument.streams.iterator_tap import AsyncLoop, SyncLoop
from paygent.client.instrument.streams.reader import EndAwareReader
from paygent.client.metering import nesting
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage, get
from paygent.failopen import attempt

_NEXT = ("__next__", "__anext__")
_CLOSE = ("close", "aclose")
_ASYNC = ("__anext__", "aclose")
_LOOPS = {"__iter__": ("__next__", SyncLoop), "__aiter__": ("__anext__", AsyncLoop)}
"""The methods that return an iterator: the method of a step, and the class of the loop."""
_METHODS = (*_NEXT, *_CLOSE, *_LOOPS)
_TAP = "_paygent_tap"
_NO_FIELDS: Mapping[str, Any] = {}
# The class of streams that keep their chunks, which other streams wrap.
_KEEPS = ("litellm.litellm_core_utils.streaming_handler", "CustomStreamWrapper")


def is_stream(answer: Any) -> bool:
    """Return whether an answer is a LiteLLM stream: the class has a step written in Python, as no
    generator's has.
    """
    return any(_method(type(answer), name)[1] is not None for name in _NEXT)


def tap(answer: Any, stream_tap: Tap, patches: Patches) -> bool:
    """Attach a tap to a stream; false for an object without attributes."""
    own = getattr(answer, "__dict__", None)
    if own is None:
        stream_tap.is_busy = True  # so that dropping the tap does not end the call
        return False
    kinds = [type(answer)]
    # Another kind of stream reads one of these, which then has the usage.
    keeps = getattr(sys.modules.get(_KEEPS[0]), _KEEPS[1], None)
    if isinstance(keeps, type):
        kinds.append(keeps)
    # The lock may be held for as long as an import takes, and this may be an event loop.
    if not all(_is_tapped(kind, patches) for kind in kinds):
        with patches.lock:
            for kind in kinds:
                for name in _METHODS:
                    _tap_method(kind, name, patches)
    own[_TAP] = stream_tap  # in the stream itself, so that both are collected together
    return True


class Reader(EndAwareReader):
    """Reads a LiteLLM stream. The usage is in the chunks that the stream keeps, or that the stream
    keeps which it wraps; the application sees it only on request.
    """

    def __init__(self, stream: Any, function: Function, want_tools: bool, provider: str) -> None:
        """Create a reader of a stream that a function returned; `provider` is the request's, where
        the stream names none.
        """
        self._kept: Any = getattr(stream, "chunks", None)
        self._provider = provider_of(stream) or provider
        self._inner = function.reader(want_tools, False)
        self._is_chat = function.reader is ChatStream
        self._is_whole = False

    def add_inner(self, stream: Any) -> None:
        """Use the chunks of a stream that is read below this one."""
        if self._kept is None:
            self._kept = getattr(stream, "chunks", None)

    def end(self, *, has_gaps: bool = False) -> None:
        """Record the stream's own end; see `EndAwareReader.end`."""
        self._is_whole = True

    def feed(self, chunk: Any) -> None:
        """Read one chunk; see `StreamReader.feed`. None is withheld from the application."""
        self._inner.feed(chunk)

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return the usage; see `StreamReader.usage`."""
        return answered_by(self._provider, self._usage(estimate))

    def _usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        seen = self._inner.usage(estimate)
        is_certain = isinstance(seen, JobStatus) or (seen and seen.quality == "exact")
        if is_certain and not self._is_chat:
            return seen
        last = next((chunk for chunk in reversed(self._kept or ()) if get(chunk, "usage")), None)
        usage = read_completion(last, False) if last is not None else None
        if not isinstance(usage, Usage):
            return seen._replace(billed_nano=None) if isinstance(seen, Usage) else seen
        if self._is_whole or not isinstance(seen, Usage):
            return usage._replace(tool_calls=seen.tool_calls if isinstance(seen, Usage) else ())
        # Anthropic reports its input at once, and the output as it goes.
        output_tokens = max(usage.output_tokens, seen.output_tokens)
        return usage._replace(output_tokens=output_tokens, quality="partial")


# -- taps


class Tap:
    """Attached to a LiteLLM stream, which enters it for each step; collected with the stream.

    Attributes:
        ending: Ends the call.
        reader: Reads the chunks.
        is_busy: A step is under way; a further one that the stream takes then is a part of it.
    """

    __slots__ = ("_enclosing", "ending", "is_busy", "reader")

    def __init__(
        self, ending: StreamEnd, reader: Reader, enclosing: nesting.Enclosing | None = None
    ) -> None:
        """Create a tap. `enclosing` is the call where calls below the stream count instead of it;
        None if they are parts of it.
        """
        self.ending = ending
        self.reader = reader
        self.is_busy = False
        # Some streams send their request when they are read.
        self._enclosing: AbstractContextManager[None] = (
            _Reading(reader) if enclosing is None else nesting.EnclosingCall(enclosing)
        )

    def __enter__(self) -> None:
        self.is_busy = True
        self._enclosing.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._enclosing.__exit__(None, None, None)
        self.is_busy = False
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self.ending.end_exhausted()
        elif error is not None:  # also an interruption; a finalizer may close an async step
            self.ending.end_from_finalizer()

    def take(self, answer: Any, *, ends: bool) -> None:
        """Read what a step has returned: a chunk, or the end of a `close`."""
        if ends:
            self.ending()
        else:
            attempt("stream", self.reader.feed, answer)

    def __del__(self) -> None:
        if not self.is_busy:
            self.ending.end_from_finalizer()


class _Reading(LiteLLMGateway):
    """One step of a stream, in front of what LiteLLM sends during it."""

    __slots__ = ("reader",)

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader


def _method(kind: type, name: str) -> tuple[type, Any]:
    """Return the class that defines a method, and the method if it is written in Python."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), kind)
    method = vars(owner).get(name)
    return owner, method if inspect.isfunction(method) else None


def _is_tapped(kind: type, patches: Patches) -> bool:
    methods = (_method(kind, name)[1] for name in _METHODS)
    return all(method is None or patches.is_ours(method) for method in methods)


def _tap_method(kind: type, name: str, patches: Patches) -> None:
    owner, original = _method(kind, name)
    if original is None or patches.is_ours(original):
        return
    if name in _LOOPS:
        wrapper = _wrap_loop(original, *_LOOPS[name])
    else:
        wrap = _wrap_async if name in _ASYNC else _wrap_sync
        wrapper = wrap(original, ends=name in _CLOSE)
    patches.put(owner, name, wrapper)


def _wrap_loop(original: Callable[..., Any], step: str, loop: Any) -> Any:
    @functools.wraps(original)
    def method(stream: Any) -> Any:
        iterator = original(stream)
        stream_tap = _tap_of(stream)
        if stream_tap is None or iterator is not stream:  # a generator sees its own end
            return iterator
        watched = attempt("stream", loop, stream, stream_tap.ending, getattr(stream, step))
        return iterator if watched is None else watched

    return method


def _wrap_sync(original: Callable[..., Any], *, ends: bool) -> Any:
    @functools.wraps(original)
    def method(stream: Any, *args: Any, **kwargs: Any) -> Any:
        stream_tap = _tap_of(stream)
        if stream_tap is None:
            return original(stream, *args, **kwargs)
        with stream_tap:
            answer = original(stream, *args, **kwargs)
        stream_tap.take(answer, ends=ends)
        return answer

    return method


def _wrap_async(original: Callable[..., Any], *, ends: bool) -> Any:
    @functools.wraps(original)
    async def method(stream: Any, *args: Any, **kwargs: Any) -> Any:
        stream_tap = _tap_of(stream)
        if stream_tap is None:
            return await original(stream, *args, **kwargs)
        with stream_tap:
            answer = await original(stream, *args, **kwargs)
        stream_tap.take(answer, ends=ends)
        return answer

    return method


def _tap_of(stream: Any) -> Tap | None:
    """Return the tap of a stream that takes a step; None for an inner step, and without a tap."""
    # From the object itself: some streams answer any attribute.
    stream_tap: Tap | None = getattr(stream, "__dict__", _NO_FIELDS).get(_TAP)
    if stream_tap is None:
        gateway = current_gateway()
        if isinstance(gateway, _Reading):
            gateway.reader.add_inner(stream)
        return None
    return None if stream_tap.is_busy else stream_tap
