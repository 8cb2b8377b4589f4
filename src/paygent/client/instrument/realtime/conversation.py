"""The calls of one WebSocket: told by the events that go over it in both directions.

A response begins when the application sends `response.create`, or when the server makes one by
itself because somebody has stopped speaking; it ends with the event that tells its usage. What is
spoken by the user is written down by a model of its own, which tells its usage too. Live sessions
tell how many seconds they have taken, and translations take what is sent to them. Nothing is sent
or received here; `taps.py` does that.

What runs already (the server began it, or its start was not seen) is booked and never refused; only
the taps can stop it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paygent.client.context.identity import Identity
from paygent.client.context.scopes import current_identity
from paygent.client.instrument.callables.run import UNSEEN
from paygent.client.instrument.openai.answers import ResponseStream, read_chat, read_transcription
from paygent.client.instrument.realtime import messages
from paygent.client.instrument.realtime.dedup import CountedResponses, counted_of
from paygent.client.instrument.realtime.messages import Sent
from paygent.client.instrument.realtime.pending import PendingResponse, Responses, body_of, lane_of
from paygent.client.instrument.realtime.session import Destination, Session
from paygent.client.instrument.streams.reader import field
from paygent.client.metering.call import Call, Request, Wait
from paygent.client.metering.meter import Meter
from paygent.core.usage import JobStatus, Usage, from_realtime, from_seconds, get
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics

_AUDIO_BYTES_PER_S = 48_000  # PCM16, mono, 24 kHz: the only format of a translation
_BASE64 = 4 / 3  # characters for each byte
_TRANSLATED_MS = 10_000  # so much is lost at most of what was translated if the process is killed

Refused = tuple[PaygentLimitExceeded, str | None]


class Outgoing(NamedTuple):
    """A message of the application that a limit may refuse.

    Attributes:
        request: As the meter takes it.
        sent: The message.
        begins: Whether it begins a response; otherwise it is only looked whether it may be sent.
    """

    request: Request
    sent: Sent
    begins: bool


class Conversation:
    """The calls of one connection. Its two directions may be used by two threads."""

    def __init__(
        self, destination: Destination, identity: Identity | None, meter: Callable[[], Meter | None]
    ) -> None:
        """Begin a conversation.

        Args:
            destination: What is known of the connection.
            identity: Whose it is: of the moment in which it was first opened.
            meter: Returns the meter that calls go through now, or None where they pass.
        """
        self._destination = destination
        self._session = Session(destination.model)
        self._identity = identity
        self._meter = meter
        self._is_ours = destination.is_ours
        shared = destination.conversation_id
        self._counted = counted_of(shared) if shared else CountedResponses()
        # What a Live session delegates is read by each of its connections for itself.
        is_realtime = destination.route == "realtime"
        self._responses = self._counted.responses if is_realtime else Responses()
        self._responses.join(self)

    # -- what the application sends

    def entry(self) -> Request:
        """Return what stands for the conversation as a whole where limits are looked at."""
        return self._request({}, self._identity)

    def outgoing(self, message: Any) -> Outgoing | None:
        """Return what a message of the application means, or None where it is none of ours."""
        sent = messages.read_sent(message)
        if sent is None or not (self._is_ours or self._is_now_ours(sent)):
            return None
        sender = current_identity()
        identity = sender.merged_with(self._identity) if sender is not None else self._identity
        if sent.kind != messages.CREATE or self._destination.route not in ("realtime", "responses"):
            return Outgoing(self._request({}, identity), sent, begins=False)
        body = body_of(sent.event, self._destination.route)
        return Outgoing(self._request(body, identity), sent, begins=True)

    def _is_now_ours(self, sent: Sent) -> bool:
        """Tell whether a message shows that an unknown place speaks as the provider does."""
        is_shaped = messages.asks_for_response(sent, self._destination.route)
        if is_shaped:
            self._is_ours = True
            diagnostics.warn_once(
                f"socket_like_openai:{self._destination.route}",
                "a socket to an unknown host asks for a response as OpenAI's do; it is gated and "
                "metered like them (%s)",
                self._destination.route,
            )
        return is_shaped

    def begun(self, call: Call, meter: Meter, sent: Sent) -> None:
        """Note a response whose `response.create` is being written: in the order of the wire."""
        event_id, lane = get(sent.event, "event_id"), lane_of(sent.event)
        running = self._running(call, meter, lane, event_id)
        running.connection = self
        self._responses.add(running)

    def not_sent(self, call: Call) -> None:
        """Forget a response that could not be written."""
        self._responses.withdraw(call)

    def spoken(self, sent: Sent) -> None:
        """Note audio that was sent to a translation, which is what that is billed by."""
        if self._destination.route == "translations" and sent.kind != messages.CREATE:
            audio = get(sent.event, "audio")
            length = len(audio) if isinstance(audio, str) else sent.characters
            self._counted.add(int(length / _BASE64 * 1000 / _AUDIO_BYTES_PER_S))
            self._book_audio("estimated", at_least_ms=_TRANSLATED_MS)

    def _request(
        self, body: Mapping[str, Any], identity: Identity | None, *, has_run: bool = False
    ) -> Request:
        model, most = body.get("model"), body.get("max_output_tokens", self._session.max_tokens)
        is_seen = self._destination.route == "responses"  # speech goes on from what was said
        return Request(
            self._destination.provider,
            # What a Live session delegates is answered by Responses.
            "responses"
            if has_run and self._destination.route == "live"
            else self._destination.route,
            model if isinstance(model, str) and model else self._session.model,
            body if is_seen else None,
            max_tokens=most if type(most) is int and most > 0 else None,
            identity=identity,
            size=None if is_seen and body else UNSEEN,
            has_run=has_run,
        )

    # -- what the server sends

    def incoming(self, data: bytes) -> Refused | None:
        """Read a message of the server.

        Returns:
            Why a response that the server has begun by itself is refused, and its id (None where
            it has none), for who can stop it; None as a rule.
        """
        if not self._is_ours:
            self._read_strange(data)
            return None
        event = messages.read_received(data, has_text=self._destination.route == "responses")
        return self._read(event, lane_of(event)) if event is not None else None

    def _read_strange(self, data: bytes) -> None:
        """Note what a place that may be a provider's says of its session, if it does."""
        if self._destination.route == "realtime" and messages.is_of_session(data):
            event = messages.read_received(data, has_text=False)
            if get(event, "type") in messages.SESSIONS:
                self._read_session(get(event, "session"))

    def _read(self, event: Any, lane: Any) -> Refused | None:
        kind = get(event, "type")
        if kind == messages.CREATED:
            return self._created(event, lane)
        if kind in messages.ENDS:
            self._ended(event, lane)
        elif kind == "error":
            self._failed(event, lane)
        elif kind == messages.TRANSCRIBED:
            self._transcribed(event)
        elif kind in messages.SESSIONS:
            self._read_session(get(event, "session"))
        elif kind in messages.LIVE_USAGE:
            self._read_seconds(event)
        elif kind == messages.LIVE_RESPONSE:
            self._read(get(event, "event"), str(get(event, "delegation_id")))
        elif kind == messages.LIVE_DECISION:
            self._decided(field(event, "event", "decision"))
        else:
            self._feed(event, lane)
        return None

    def _read_session(self, session: Any) -> None:
        self._session.read(session)
        session_id = get(session, "id")
        if self._destination.route == "live" and isinstance(session_id, str):
            self._counted = counted_of(session_id)

    def _created(self, event: Any, lane: Any) -> Refused | None:
        """Match a response with the `response.create` that asked for it, over whichever connection
        of the conversation; one that nobody asked for was begun by the server, and is refused where
        it would have been.
        """
        response_id = _id_of(event)
        if response_id is not None and not self._counted.claim(response_id, self):
            return None  # another connection was told first, and has matched it
        running = self._responses.take_waiting(lane, or_any=lane is None)
        refusal = None
        if running is None:
            # While something waits to begin, this may be that: it is not cancelled.
            is_maybe_asked = self._destination.route != "realtime" or self._responses.has_waiting()
            refusal = None if is_maybe_asked else self._refusal()
            running = self._begin_unasked(event, lane)
        if running is not None:
            running.lane = lane
            self._responses.begin(response_id, running)
            if running.reader is not None:
                running.reader.feed(event)
        return (refusal, response_id) if refusal is not None else None

    def _refusal(self) -> PaygentLimitExceeded | None:
        """Return why what the server begins by itself would be refused, or None."""
        meter = self._meter()
        if meter is not None:
            try:
                meter.check(self.entry())
            except PaygentLimitExceeded as error:
                return error
        return None

    def _begin_unasked(self, event: Any, lane: Any) -> PendingResponse | None:
        """Begin to count a response that runs already; None where calls pass."""
        meter = self._meter()
        if meter is None:
            return None
        body = {"model": field(event, "response", "model")}
        call = meter.begin(self._request(body, self._identity, has_run=True))
        return self._running(call, meter, lane, None) if isinstance(call, Call) else None

    def _running(self, call: Call, meter: Meter, lane: Any, event_id: Any) -> PendingResponse:
        is_text = self._destination.route in ("responses", "live")
        reader = ResponseStream(call.wants_tools, False) if is_text else None
        return PendingResponse(call, meter, reader, event_id=event_id, lane=lane)

    def _feed(self, event: Any, lane: Any) -> None:
        """Read a piece of text, which belongs to the response under way in its lane."""
        found = self._responses.in_lane(lane)
        if found is not None and found[1].reader is not None:
            found[1].reader.feed(event)

    def _ended(self, event: Any, lane: Any) -> None:
        response_id = _id_of(event)
        running = self._responses.end(response_id, lane)
        if running is None:
            if response_id is not None and (
                self._counted.knows(response_id) or not self._counted.claim(response_id, self)
            ):
                return  # it has ended, or another connection counts it
            running = self._responses.take_waiting(lane, or_any=lane is None)
            if running is None:
                running = self._begin_unasked(event, lane)
            if running is None:
                return
        usage = attempt("usage", self._usage, running, event)
        is_failure = field(event, "response", "status") == "failed" and running.reader is None
        if usage is None and is_failure:
            running.meter.void(running.call, "the provider failed")
        else:
            running.meter.settle(running.call, usage)

    def _usage(self, running: PendingResponse, event: Any) -> Usage | JobStatus | None:
        """Return what a response that has ended has used."""
        call = running.call
        if running.reader is not None:
            running.reader.feed(event)
            return running.reader.usage(call.estimate)
        response = get(event, "response")
        model = get(response, "model") or self._session.model or None
        usage = from_realtime(get(response, "usage"), model=model)
        if usage is not None and call.wants_tools:
            items = get(response, "output")
            items = items if isinstance(items, (list, tuple)) else ()
            names = [get(each, "name") for each in items if get(each, "type") == "function_call"]
            called = tuple(name for name in names if isinstance(name, str) and name)
            usage = usage._replace(tool_calls=called)
        return usage

    def _failed(self, event: Any, lane: Any) -> None:
        """End the response that an error is about; see `Responses.take_refused`.

        Over a lane nothing but responses is asked for: an error there is about the one under way,
        or where none is, or the request itself was wrong, about the next.
        """
        if self._destination.route != "responses":
            refused = self._responses.take_refused(get(event, "error"), self)
        else:
            found = self._responses.in_lane(lane)
            is_in_stream = get(event, "sequence_number") is not None
            if found is not None and (is_in_stream or not self._responses.waits_in(lane)):
                running = self._responses.end(found[0])
                if running is not None:
                    self._break_off(running)
                return
            refused = self._responses.take_waiting(lane)
        if refused is not None:
            refused.meter.void(refused.call, "the provider refused it")

    # -- what runs beside the responses

    def _transcribed(self, event: Any) -> None:
        """Book what writing down the user's speech has used."""
        item_id = get(event, "item_id")
        what = f"{item_id}/{get(event, 'content_index')}"
        if item_id is None or self._counted.claim(what, self):
            model = self._session.transcribes or self._session.model
            self._book("realtime.transcription", model, read_transcription(event, False))

    def _read_seconds(self, event: Any) -> None:
        """Book the seconds of a Live session since the last ones that were told."""
        told = from_seconds(field(event, "usage", "seconds"))
        if told is not None:
            self._counted.tell_total(told.audio_ms)
            self._book_audio("exact")

    def _book_audio(self, quality: Any, at_least_ms: int = 1) -> None:
        audio_ms = self._counted.take(at_least_ms)
        if audio_ms:
            usage = Usage(audio_ms=audio_ms, quality=quality)
            self._book(self._destination.route, self._session.model, usage)

    def _decided(self, decision: Any) -> None:
        """Book a decision that was made for a Live session."""
        usage = read_chat(decision, False)
        model = usage.model if usage is not None else None
        self._book("decisions", model or "", usage)

    def _book(self, route: str, model: str, usage: Usage | None) -> None:
        """Book what has run beside the responses, whoever it is."""
        meter = self._meter()
        if meter is None:
            return
        asked = Request(
            self._destination.provider,
            route,
            model,
            None,
            generates=False,
            identity=self._identity,
            size=UNSEEN,
            has_run=True,
        )
        call: Call | Wait | None = meter.begin(asked)
        if isinstance(call, Call):
            meter.settle(call, usage)

    # -- the end

    def ended(self) -> None:
        """End what is under way as far as it was received: the connection is gone. What another one
        of the conversation may still be told of goes on.
        """
        if self._responses.leave(self):
            for running in self._responses.take_all():
                self._break_off(running)
        if self._destination.route == "translations":
            self._book_audio("estimated")

    def _break_off(self, running: PendingResponse) -> None:
        usage = None
        if running.reader is not None:
            usage = attempt("usage", running.reader.usage, running.call.estimate)
        attempt("settle", running.meter.settle, running.call, usage)


def _id_of(event: Any) -> str | None:
    """Return the id of an event's response; None where a gateway names none."""
    response_id = field(event, "response", "id")
    return str(response_id) if response_id not in (None, "") else None
