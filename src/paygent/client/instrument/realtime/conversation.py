"""The calls of one WebSocket, derived from the events that pass over it in both directions.

A response begins when the application sends `response.create`, or when the server starts one by
itself because the user has stopped speaking; it ends with the event that reports its usage.
Transcriptions and Live sessions report their own usage; translations are measured by the audio that
is sent. What runs already (the server began it, or its beginning was not seen) is booked and never
refused: only the taps (`connection.py`) can stop it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paygent.client.context.identity import Identity
from paygent.client.context.scopes import current_identity
from paygent.client.instrument.callables.run import UNSEEN
from paygent.client.instrument.openai.answers import ResponseStream
from paygent.client.instrument.openai.usage import from_realtime
from paygent.client.instrument.realtime import messages
from paygent.client.instrument.realtime.dedup import CountedResponses, counted_of
from paygent.client.instrument.realtime.messages import Sent
from paygent.client.instrument.realtime.pending import PendingResponse, Responses, body_of, lane_of
from paygent.client.instrument.realtime.session import Destination, Session
from paygent.client.instrument.realtime.side_usage import SideUsage
from paygent.client.instrument.streams.reader import field
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.notices import Notice
from paygent.core.usage import JobStatus, Usage, get
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics

Refused = tuple[PaygentLimitExceeded, str | None]


class Outgoing(NamedTuple):
    """A message of the application that a limit may refuse.

    Attributes:
        request: As the meter takes it.
        sent: The message.
        begins: Whether it begins a response; otherwise limits are checked and nothing is held.
    """

    request: Request
    sent: Sent
    begins: bool


class Conversation:
    """The calls of one connection. Its two directions may be used by two threads."""

    def __init__(
        self, destination: Destination, identity: Identity | None, meter: Callable[[], Meter | None]
    ) -> None:
        """Begin a conversation of the identity that has opened the connection; `meter` returns the
        meter that calls go through now, or None where they pass.
        """
        self._destination = destination
        self._session = Session(destination.model)
        self._identity = identity
        self._meter = meter
        self._is_provider = destination.is_provider
        shared = destination.conversation_id
        self._counted = counted_of(shared) if shared else CountedResponses()
        self._side = SideUsage(destination, self._session, identity, self._counted, meter)
        # Each connection of a Live session reads for itself what the session delegates.
        is_realtime = destination.route == "realtime"
        self.responses = self._counted.responses if is_realtime else Responses()
        self.responses.join(self)

    # -- what the application sends

    def connect_request(self) -> Request:
        """Return the request by which limits are checked when the connection is made."""
        return self._request({}, self._identity)

    def read_outgoing(self, message: Any) -> Outgoing | None:
        """Read a message of the application; None for one that no limit applies to."""
        sent = messages.read_sent(message)
        if sent is None or not (self._is_provider or self._speaks_like_provider(sent)):
            return None
        sender = current_identity()
        identity = sender.merged_with(self._identity) if sender is not None else self._identity
        if sent.kind != messages.CREATE or self._destination.route not in ("realtime", "responses"):
            return Outgoing(self._request({}, identity), sent, begins=False)
        body = body_of(sent.event, self._destination.route)
        return Outgoing(self._request(body, identity), sent, begins=True)

    def _speaks_like_provider(self, sent: Sent) -> bool:
        """Return whether a message shows that an unknown host speaks the provider's protocol; the
        connection is metered from then on.
        """
        route = self._destination.route
        if not messages.asks_for_response(sent, route):
            return False
        self._is_provider = True
        diagnostics.warn_once(Notice.UNKNOWN_SOCKET_HOST, route, subject=route)
        return True

    def record_begin(self, call: Call, meter: Meter, sent: Sent) -> None:
        """Record a response as its `response.create` is being written: in the order of the wire."""
        response = self._pending(call, meter, lane_of(sent.event))
        response.event_id, response.connection = get(sent.event, "event_id"), self
        self.responses.add(response)

    def record_audio(self, sent: Sent) -> None:
        """Record audio that was sent to a translation, which is billed by it."""
        if self._destination.route == "translations" and sent.kind != messages.CREATE:
            audio = get(sent.event, "audio")
            self._side.book_sent(len(audio) if isinstance(audio, str) else sent.characters)

    def _request(
        self, body: Mapping[str, Any], identity: Identity | None, *, has_run: bool = False
    ) -> Request:
        route, model = self._destination.route, body.get("model")
        if not (isinstance(model, str) and model):
            model = self._session.model
        seen = body if route == "responses" else None  # elsewhere the input is earlier speech
        if has_run and route == "live":
            route = "responses"  # a Live session delegates to it
        request = Request(self._destination.provider, route, model, seen, identity=identity)
        request.has_run, request.size = has_run, None if seen else UNSEEN
        max_tokens = body.get("max_output_tokens", self._session.max_tokens)
        if type(max_tokens) is int and max_tokens > 0:
            request.max_tokens = max_tokens
        return request

    # -- what the server sends

    def read_incoming(self, data: bytes) -> Refused | None:
        """Read a message of the server; return the refusal and the id (or None) of a response that
        the server has begun by itself, usually None.
        """
        may_be_session = self._destination.route == "realtime" and b"session." in data
        if not (self._is_provider or may_be_session):
            return None  # of an unknown host only the session is read, which may matter later
        event = messages.read_received(data, has_text=self._destination.route == "responses")
        if event is None or not (self._is_provider or get(event, "type") in messages.SESSIONS):
            return None
        return self._read(event, lane_of(event))

    def _read(self, event: Any, lane: Any) -> Refused | None:
        kind = get(event, "type")
        if kind == messages.CREATED:
            return self._created(event, lane)
        if kind in messages.ENDS:
            self._ended(event, lane)
        elif kind == "error":
            self._failed(event, lane)
        elif kind == messages.TRANSCRIBED:
            self._side.book_transcription(event)
        elif kind in messages.SESSIONS:
            self._read_session(get(event, "session"))
        elif kind in messages.LIVE_USAGE:
            self._side.book_seconds(event)
        elif kind == messages.LIVE_RESPONSE:
            self._read(get(event, "event"), str(get(event, "delegation_id")))
        elif kind == messages.LIVE_DECISION:
            self._side.book_decision(field(event, "event", "decision"))
        else:
            self._feed(event, lane)
        return None

    def _read_session(self, session: Any) -> None:
        self._session.read(session)
        session_id = get(session, "id")
        if self._destination.route == "live" and isinstance(session_id, str):
            self._counted = self._side.counted = counted_of(session_id)

    def _created(self, event: Any, lane: Any) -> Refused | None:
        """Match a response with the `response.create` that requested it, over any connection of the
        conversation. One that was not requested was begun by the server, and is refused where a
        request for it would have been.
        """
        response_id = _id_of(event)
        if response_id is not None and not self._counted.claim(response_id, self):
            return None  # another connection received the event first, and has matched it
        response = self.responses.take_waiting(lane, or_any=lane is None)
        refusal = None
        if response is None:
            # While another request waits to begin, this may be its response: it is not cancelled.
            is_ambiguous = self._destination.route != "realtime" or self.responses.has_waiting()
            refusal = None if is_ambiguous else self._refusal()
            response = self._begin_unrequested(event, lane)
        if response is not None:
            response.lane = lane
            self.responses.begin(response_id, response)
            if response.reader is not None:
                response.reader.feed(event)
        return (refusal, response_id) if refusal is not None else None

    def _refusal(self) -> PaygentLimitExceeded | None:
        """Return the refusal of what the server begins by itself, or None."""
        meter = self._meter()
        if meter is not None:
            try:
                meter.check(self.connect_request())
            except PaygentLimitExceeded as error:
                return error
        return None

    def _begin_unrequested(self, event: Any, lane: Any) -> PendingResponse | None:
        """Begin the call of a response that runs already; None where calls pass."""
        meter = self._meter()
        if meter is None:
            return None
        body = {"model": field(event, "response", "model")}
        call = meter.begin(self._request(body, self._identity, has_run=True))
        return self._pending(call, meter, lane) if isinstance(call, Call) else None

    def _pending(self, call: Call, meter: Meter, lane: Any) -> PendingResponse:
        is_text = self._destination.route in ("responses", "live")
        reader = ResponseStream(call.wants_tools, False) if is_text else None
        return PendingResponse(call, meter, reader, lane)

    def _feed(self, event: Any, lane: Any) -> None:
        """Read a piece of text, which belongs to the response under way in its lane."""
        running = self.responses.in_lane(lane)
        if running is not None and running[1].reader is not None:
            running[1].reader.feed(event)

    def _ended(self, event: Any, lane: Any) -> None:
        response_id = _id_of(event)
        response = self.responses.end(response_id, lane)
        if response is None:
            # Its beginning was on another connection, or before this one was made.
            if response_id is not None and not self._counted.claim_new(response_id, self):
                return  # it has ended, or another connection counts it
            # A gateway may not report the beginning.
            response = self.responses.take_waiting(lane, or_any=lane is None)
            response = response or self._begin_unrequested(event, lane)
            if response is None:
                return
        usage = attempt("usage", self._usage, response, event)
        is_failure = field(event, "response", "status") == "failed" and response.reader is None
        # A failure with a reader has the text that was received, which counts.
        if usage is None and is_failure:
            response.meter.void(response.call, "the provider failed")
        else:
            response.meter.settle(response.call, usage)

    def _usage(self, ended: PendingResponse, event: Any) -> Usage | JobStatus | None:
        call = ended.call
        if ended.reader is not None:
            ended.reader.feed(event)
            return ended.reader.usage(call.estimate)
        response = get(event, "response")
        model = get(response, "model") or self._session.model or None
        usage = from_realtime(get(response, "usage"), model=model)
        if usage is not None and call.wants_tools:
            items = get(response, "output")
            items = items if isinstance(items, (list, tuple)) else ()
            names = [get(item, "name") for item in items if get(item, "type") == "function_call"]
            called = tuple(name for name in names if isinstance(name, str) and name)
            usage = usage._replace(tool_calls=called)
        return usage

    def _failed(self, event: Any, lane: Any) -> None:
        """End the response that an error refers to; see `Responses.take_refused`.

        Over a lane nothing but responses is requested: an error there refers to the one under way.
        Where none is, or the request itself was wrong, it refers to the next.
        """
        if self._destination.route != "responses":
            refused = self.responses.take_refused(get(event, "error"), self)
        else:
            running = self.responses.in_lane(lane)
            is_in_stream = get(event, "sequence_number") is not None
            if running is not None and (is_in_stream or not self.responses.waits_in(lane)):
                broken = self.responses.end(running[0])
                if broken is not None:
                    self._break_off(broken)
                return
            refused = self.responses.take_waiting(lane)
        if refused is not None:
            refused.meter.void(refused.call, "the provider refused it")

    # -- the end

    def end(self) -> None:
        """End what is under way, with what was received: the connection is gone. While another
        connection of the conversation is left, which may receive the rest, it goes on.
        """
        if self.responses.leave(self):
            for response in self.responses.take_all():
                self._break_off(response)
        if self._destination.route == "translations":
            self._side.book_audio("estimated")

    def _break_off(self, response: PendingResponse) -> None:
        reader, call = response.reader, response.call
        usage = attempt("usage", reader.usage, call.estimate) if reader is not None else None
        attempt("settle", response.meter.settle, call, usage)


def _id_of(event: Any) -> str | None:
    """Return the id of an event's response; None where a gateway names none."""
    response_id = field(event, "response", "id")
    return str(response_id) if response_id not in (None, "") else None
