"""The calls of one WebSocket: told by the events that go over it in both directions.

A response begins when the application sends `response.create`, or when the server makes one by
itself because somebody has stopped speaking; it ends with the event that tells its usage. What is
spoken by the user is written down by a model of its own, which tells its usage too. Nothing is sent
or received here; `sockets.py` does that.

Events were read from the type definitions of openai 3.57 (2026-11), realtime and responses.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paygent.call import Call, Request
from paygent.context import Identity, here
from paygent.core.usage import Usage, from_realtime, get
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt
from paygent.instrument.openai_usage import ResponseStream, read_transcription
from paygent.instrument.reading import StreamReader, field
from paygent.instrument.run import UNSEEN
from paygent.meter import Meter

_SPOKEN = "input_audio_buffer.append"
_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
_ENDS = ("response.done", "response.completed", "response.incomplete", "response.failed")
_TOLD = re.compile(
    rb'"(?:response\.(?:created|done|completed|incomplete|failed)|error|session\.(?:created|updated)'
    rb'|conversation\.item\.input_audio_transcription\.completed)"'
)
"""What of a server's events is read; most of the others are pieces of audio, and large."""

_BEGINS = re.compile(rb'"(?:response\.create|input_audio_buffer\.append|session\.update)"')
_DELTA_BYTES_MAX = 16_384  # of an event of text; longer ones are audio or images


class Outgoing(NamedTuple):
    """A message of the application that a limit may refuse.

    Attributes:
        request: As the meter takes it.
        event: The message.
        begins: Whether it begins a response; otherwise it is only looked whether it may be sent.
    """

    request: Request
    event: Any
    begins: bool


class Refusal(NamedTuple):
    """A response that the server began by itself and a limit refuses.

    Attributes:
        error: What the application gets.
        cancel: The event that ends the response.
    """

    error: PaygentLimitExceeded
    cancel: str


class _Running(NamedTuple):
    """A response under way.

    Attributes:
        call: What holds for it.
        meter: Ends it.
        reader: Reads the text of its events.
        event_id: The application's id of the event that began it, or None.
    """

    call: Call
    meter: Meter
    reader: StreamReader
    event_id: Any


class Conversation:
    """The calls of one connection. Its two directions may be used by two threads."""

    def __init__(
        self, provider: str, route: str, model: str, meter: Callable[[], Meter | None]
    ) -> None:
        """Begin a conversation of the user of this moment.

        Args:
            provider: Who is called.
            route: "realtime" or "responses"; another one is gated when it connects, and that is
                all.
            model: As the connection's address names it; "" where its events do.
            meter: Returns the meter that calls go through now, or None where they pass.
        """
        self._provider = provider
        self._route = route
        self._model = model
        self._meter = meter
        self._identity = here()
        self._transcribes = ""
        self._sent: deque[_Running] = deque()
        self._running: dict[str, _Running] = {}

    @property
    def is_metered(self) -> bool:
        """Whether its events tell its use."""
        return self._route in ("realtime", "responses")

    # -- what the application sends

    def entry(self) -> Request:
        """Return what stands for the conversation as a whole where limits are looked at."""
        return self._request({}, self._identity)

    def outgoing(self, message: Any) -> Outgoing | None:
        """Return what a message of the application means, or None where it is none of ours."""
        data = _bytes_of(message)
        if data is None or _BEGINS.search(data) is None:
            return None
        event = json.loads(data)
        kind = get(event, "type")
        sender = here()
        identity = sender.over(self._identity) if sender is not None else self._identity
        if kind == "response.create":
            body = get(event, "response") if self._route == "realtime" else event
            body = body if isinstance(body, Mapping) else {}
            return Outgoing(self._request(body, identity), event, begins=True)
        if kind == _SPOKEN:
            return Outgoing(self._request({}, identity), event, begins=False)
        if kind == "session.update":
            self._read_session(get(event, "session"))
        return None

    def begun(self, call: Call, meter: Meter, event: Any) -> None:
        """Note a response whose `response.create` is about to be sent."""
        self._sent.append(self._running_of(call, meter, get(event, "event_id")))

    def not_sent(self, call: Call) -> None:
        """Forget a response that could not be sent."""
        for each in list(self._sent):
            if each.call is call:
                self._sent.remove(each)

    def _request(
        self, body: Mapping[str, Any], identity: Identity | None, *, has_run: bool = False
    ) -> Request:
        model, most = body.get("model"), body.get("max_output_tokens")
        is_seen = self._route == "responses"  # a spoken conversation goes on from what was said
        return Request(
            self._provider,
            self._route,
            model if isinstance(model, str) and model else self._model,
            body if is_seen else None,
            max_tokens=most if type(most) is int and most > 0 else None,
            identity=identity,
            size=None if is_seen and body else UNSEEN,
            has_run=has_run,
        )

    # -- what the server sends

    def incoming(self, message: Any) -> Refusal | None:
        """Read a message of the server.

        Returns:
            What to do about a response that is refused; None as a rule.
        """
        data = _bytes_of(message)
        if data is None:
            return None
        if _TOLD.search(data) is None:
            if self._route == "responses" and len(data) < _DELTA_BYTES_MAX:
                self._feed(json.loads(data))
            return None
        event = json.loads(data)
        kind = get(event, "type")
        if kind == "response.created":
            return self._created(event)
        if kind in _ENDS:
            self._ended(event)
        elif kind == "error":
            self._failed(event)
        elif kind == _TRANSCRIBED:
            self._transcribed(event)
        elif kind in ("session.created", "session.updated"):
            self._read_session(get(event, "session"))
        return None

    def _read_session(self, session: Any) -> None:
        """Note which models the session uses."""
        model = get(session, "model")
        if isinstance(model, str) and model:
            self._model = model
        for asked in (
            field(session, "audio", "input", "transcription", "model"),
            field(session, "input_audio_transcription", "model"),  # of the beta
        ):
            if isinstance(asked, str) and asked:
                self._transcribes = asked

    def _created(self, event: Any) -> Refusal | None:
        """Match a response with the `response.create` that asked for it; one that nobody asked for
        was begun by the server, and is stopped where it would have been refused.
        """
        response_id = str(field(event, "response", "id"))
        refusal = None
        if self._sent:
            running = self._sent.popleft()
        else:
            meter = self._meter()
            if meter is None:
                return None
            refusal = self._look(meter, response_id)
            call = meter.begin(self._request({}, self._identity, has_run=True))
            if not isinstance(call, Call):
                return refusal
            running = self._running_of(call, meter, None)
        self._running[response_id] = running
        running.reader.feed(event)
        return refusal

    def _look(self, meter: Meter, response_id: str) -> Refusal | None:
        try:
            meter.look(self.entry())
        except PaygentLimitExceeded as error:
            cancel = {"type": "response.cancel", "response_id": response_id}
            return Refusal(error, json.dumps(cancel))
        return None

    def _running_of(self, call: Call, meter: Meter, event_id: Any) -> _Running:
        kind = ResponseStream if self._route == "responses" else _Silent
        return _Running(call, meter, kind(call.wants_tools, False), event_id)

    def _feed(self, event: Any) -> None:
        """Read a piece of text, which belongs to the only response under way."""
        for running in list(self._running.values())[-1:]:
            running.reader.feed(event)

    def _ended(self, event: Any) -> None:
        response = get(event, "response")
        running = self._running.pop(str(get(response, "id")), None)
        if running is None:
            return
        call, meter = running.call, running.meter
        if self._route == "responses":
            running.reader.feed(event)
            meter.settle(call, running.reader.usage(call.estimate))
            return
        model = get(response, "model")
        usage = from_realtime(get(response, "usage"), model=model)
        if usage is None and get(response, "status") == "failed":
            meter.void(call, "the provider failed")
            return
        if usage is not None and call.wants_tools:
            items = get(response, "output") or ()
            names = [get(each, "name") for each in items if get(each, "type") == "function_call"]
            called = tuple(name for name in names if isinstance(name, str) and name)
            usage = usage._replace(tool_calls=called)
        meter.settle(call, usage)

    def _failed(self, event: Any) -> None:
        """Void the response that an error is about: the one whose event it names, or the oldest
        that was asked for and has not begun.
        """
        about = field(event, "error", "event_id")
        for running in list(self._sent):
            if about is None or running.event_id == about:
                self._sent.remove(running)
                running.meter.void(running.call, "the provider refused it")
                return

    def _transcribed(self, event: Any) -> None:
        """Book what writing down the user's speech has used: it has run, whoever it is."""
        meter, usage = self._meter(), read_transcription(event, False)
        if meter is None:
            return
        model = self._transcribes or self._model
        asked = Request(
            self._provider,
            "realtime.transcription",
            model,
            None,
            identity=self._identity,
            size=UNSEEN,
            has_run=True,
        )
        call = meter.begin(asked)
        if isinstance(call, Call):
            meter.settle(call, usage)

    # -- the end

    def ended(self) -> None:
        """End what is under way as estimated: the connection is gone."""
        running = [*self._sent, *self._running.values()]
        self._sent.clear()
        self._running.clear()
        for each in running:
            usage = attempt("usage", each.reader.usage, each.call.estimate)
            attempt("settle", each.meter.settle, each.call, usage)


class _Silent:
    """Stands for a reader where a response that breaks off tells nothing of what it has used."""

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        pass

    def feed(self, chunk: Any) -> bool | None:
        """See nothing; see `StreamReader.feed`."""
        return None

    def usage(self, estimate: Any) -> Usage | None:
        """Know nothing; see `StreamReader.usage`."""
        return None


def _bytes_of(message: Any) -> bytes | None:
    """Return a message's bytes; None for one that comes in pieces."""
    if isinstance(message, str):
        return message.encode("utf-8", "surrogatepass")
    return bytes(message) if isinstance(message, (bytes, bytearray, memoryview)) else None
