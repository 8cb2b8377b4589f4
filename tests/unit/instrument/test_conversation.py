"""What the events of a socket mean, where a provider or an application does odd things."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.instrument.shapes import Metered

from paygent import Paygent, paygent_context
from paygent.context import current
from paygent.instrument.conversation import Conversation, Place
from paygent.instrument.funnel import meter_or_say

Init = Callable[..., Paygent]


@pytest.fixture
def pg(init: Init) -> Iterator[Paygent]:
    """A Paygent, inside a block of a user."""
    made = init()
    with paygent_context("u1"):
        yield made


def talk(route: str = "realtime", meter: Any = meter_or_say) -> Conversation:
    """A conversation."""
    return Conversation(Place("openai", route, "gpt-realtime"), current.get(), meter)


def begin(conversation: Conversation, **fields: Any) -> Any:
    """Ask for a response, as the taps do."""
    outgoing = conversation.outgoing(json.dumps({"type": "response.create", **fields}))
    meter = meter_or_say()
    assert outgoing is not None
    assert meter is not None
    call: Any = meter.begin(outgoing.request)
    while hasattr(call, "block"):
        call.block()
        call = meter.begin(outgoing.request)
    conversation.begun(call, meter, outgoing.sent)
    return call


def hear(conversation: Conversation, kind: str, **fields: Any) -> Any:
    """Receive an event."""
    return conversation.incoming(json.dumps({"type": kind, **fields}).encode())


def test_conversation__a_response_that_failed__costs_nothing(pg: Paygent) -> None:
    """One without usage that was not a failure is booked as it was held."""
    metered = Metered(pg)
    conversation = talk()
    for number, status in enumerate(("failed", "completed")):
        begin(conversation)
        response = {"id": str(number), "status": status, "usage": None}
        hear(conversation, "response.created", response=response)
        hear(conversation, "response.done", response=response)
        hear(conversation, "response.done", response=response)  # twice is once
    assert metered.only.quality == "estimated"
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__an_error__is_about_the_event_that_it_names(pg: Paygent) -> None:
    """Others go on; one about nothing of ours changes nothing."""
    conversation = talk()
    first, second = begin(conversation, event_id="a"), begin(conversation, event_id="b")
    hear(conversation, "error", error={"event_id": "b"})
    assert (first.done, second.done) == (False, True)
    hear(conversation, "error", error={"event_id": "c"})
    assert first.done is False
    for other in ({"message": "odd"}, {"param": "session.voice"}, {"code": "item_not_found"}):
        hear(conversation, "error", error=other)
    assert first.done is False
    hear(conversation, "error", error={"param": "response.audio", "event_id": None})
    assert first.done is True
    third = begin(conversation)
    hear(conversation, "error", error={"code": "conversation_already_has_active_response"})
    assert third.done is True
    hear(conversation, "error", error={"param": "response"})  # of none that we know


def test_conversation__the_models_of_a_session__are_those_it_was_last_told(pg: Paygent) -> None:
    """By the server, in today's shape or the beta's: what the application wants may be refused."""
    metered = Metered(pg)
    conversation = talk()
    session: dict[str, Any] = {"model": "gpt-realtime-2"}
    assert conversation.outgoing(json.dumps({"type": "session.update", "session": session})) is None
    hear(conversation, "session.updated", session={"model": "gpt-realtime-mini"})
    written = {"input_audio_transcription": {"model": "whisper-1"}}
    hear(conversation, "transcription_session.updated", session=written)
    begin(conversation, response={"max_output_tokens": 50})
    usage = {"input_tokens": 10, "output_tokens": 5}
    hear(conversation, "response.created", response={"id": "r"})
    hear(conversation, "response.done", response={"id": "r", "usage": usage})
    kind = "conversation.item.input_audio_transcription.completed"
    hear(conversation, kind, usage={"type": "duration", "seconds": 3.0})
    assert [event.model for event in metered.events] == ["gpt-realtime-mini", "whisper-1"]


def test_conversation__without_paygent__books_nothing(pg: Paygent) -> None:
    """After `shutdown`: what the server begins and writes down passes."""
    conversation = talk(meter=lambda: None)
    assert hear(conversation, "response.created", response={"id": "r"}) is None
    hear(conversation, "conversation.item.input_audio_transcription.completed", usage=None)
    hear(conversation, "session.updated", session=None)
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__messages_that_are_no_text__mean_nothing(pg: Paygent) -> None:
    """Pieces of a message, and events of no interest."""
    conversation = talk("responses")
    assert conversation.outgoing(iter(["a"])) is None
    assert conversation.outgoing(b'{"type": "x", "of": "response.create"}') is None
    hear(conversation, "response.output_text.delta", delta="nobody's")
    conversation.ended()


def test_conversation__that_ends__books_what_was_asked_for(pg: Paygent) -> None:
    """Also what had not begun yet: it was sent."""
    metered = Metered(pg)
    conversation = talk()
    begin(conversation)
    conversation.ended()
    conversation.ended()
    assert metered.only.quality == "estimated"
