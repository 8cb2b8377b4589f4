"""What the events of a socket mean, where a provider or an application does odd things."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.instrument.shapes import Metered

from paygent import Paygent, PlanConfig, paygent_context
from paygent.client.context.scopes import current_identity
from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.instrument.realtime.conversation import Conversation
from paygent.client.instrument.realtime.session import Destination
from paygent.client.instrument.realtime.side_usage import SideUsage
from paygent.core.usage import Usage

Init = Callable[..., Paygent]


@pytest.fixture
def pg(init: Init) -> Iterator[Paygent]:
    """A Paygent, inside a block of a user."""
    made = init()
    with paygent_context("u1"):
        yield made


def talk(route: str = "realtime", meter: Any = meter_or_warn) -> Conversation:
    """A conversation."""
    return Conversation(Destination("openai", route, "gpt-realtime"), current_identity(), meter)


def begin(conversation: Conversation, **fields: Any) -> Any:
    """Ask for a response, as the taps do."""
    outgoing = conversation.read_outgoing(json.dumps({"type": "response.create", **fields}))
    meter = meter_or_warn()
    assert outgoing is not None
    assert meter is not None
    call: Any = meter.begin(outgoing.request)
    while hasattr(call, "block"):
        call.block()
        call = meter.begin(outgoing.request)
    conversation.record_begin(call, meter, outgoing.sent)
    return call


def hear(conversation: Conversation, kind: str, **fields: Any) -> Any:
    """Receive an event."""
    return conversation.read_incoming(json.dumps({"type": kind, **fields}).encode())


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
    """Others go on; an error about an unknown event changes nothing."""
    conversation = talk()
    first, second = begin(conversation, event_id="a"), begin(conversation, event_id="b")
    hear(conversation, "error", error={"event_id": "b"})
    assert (first.done, second.done) == (False, True)
    hear(conversation, "error", error={"event_id": "c"})
    assert first.done is False
    hear(conversation, "error", error={"param": "response.audio", "event_id": None})
    assert first.done is True
    hear(conversation, "error", error={"param": "response"})  # of none that we know


@pytest.mark.parametrize(
    "error",
    [
        {"type": "server_error", "code": "rate_limit_exceeded", "event_id": None},
        {"type": "tokens", "code": "rate_limit_exceeded"},
        {"type": "server_error", "code": None},
        {"type": "invalid_request_error", "code": "invalid_value"},
        {"param": "session.voice"},
    ],
)
def test_conversation__an_error_that_names_no_event__voids_the_only_one_that_waits(
    error: Any, pg: Paygent
) -> None:
    """Later responses are not booked on the user of that one."""
    metered = Metered(pg)
    conversation = talk()
    with paygent_context("ada"):
        assert begin(conversation).done is False
    hear(conversation, "error", error=error)
    for user_id in ("bob", "eve"):
        with paygent_context(user_id):
            begin(conversation)
        response = {"id": user_id, "usage": ANSWERED}
        hear(conversation, "response.created", response=response)
        hear(conversation, "response.done", response=response)
    conversation.end()
    assert [event.user_id for event in metered.events] == ["bob", "eve"]


def test_conversation__an_error_that_names_no_event_while_several_wait__voids_none(
    pg: Paygent,
) -> None:
    """It may be about any of them: what was never answered is settled at the disconnect."""
    metered = Metered(pg)
    conversation = talk()
    for user_id in ("ada", "bob", "eve"):
        with paygent_context(user_id):
            begin(conversation)
    hear(conversation, "error", error={"code": "invalid_value", "message": "odd"})
    for number in range(2):
        response = {"id": str(number), "usage": ANSWERED}
        hear(conversation, "response.created", response=response)
        hear(conversation, "response.done", response=response)
    conversation.end()
    booked = [(event.user_id, event.quality) for event in metered.events]
    assert booked == [("ada", "exact"), ("bob", "exact"), ("eve", "estimated")]
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__the_models_of_a_session__are_those_it_was_last_told(pg: Paygent) -> None:
    """By the server, in today's shape or the beta's: what the application wants may be refused."""
    metered = Metered(pg)
    conversation = talk()
    session: dict[str, Any] = {"model": "gpt-realtime-2"}
    assert (
        conversation.read_outgoing(json.dumps({"type": "session.update", "session": session}))
        is None
    )
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
    assert conversation.read_outgoing(iter(["a"])) is None
    assert conversation.read_outgoing(b'{"type": "x", "of": "response.create"}') is None
    hear(conversation, "response.output_text.delta", delta="nobody's")
    conversation.end()


def test_conversation__that_ends__books_what_was_asked_for(pg: Paygent) -> None:
    """Also what had not begun yet: it was sent."""
    metered = Metered(pg)
    conversation = talk()
    begin(conversation)
    conversation.end()
    conversation.end()
    assert metered.only.quality == "estimated"


# -- lanes and errors


ANSWERED = {"input_tokens": 100, "output_tokens": 20}


def answer(conversation: Conversation, number: str, usage: Any = None, **fields: Any) -> None:
    """Receive a whole response."""
    response = {"id": number, "model": fields.pop("model", "gpt-4o"), "status": "in_progress"}
    hear(conversation, "response.created", response=response, **fields)
    response = {**response, "status": "completed", "usage": usage or ANSWERED}
    hear(conversation, "response.completed", response=response, **fields)


def test_conversation__lanes__are_matched_by_their_name(pg: Paygent) -> None:
    """Whichever begins first."""
    metered = Metered(pg)
    conversation = talk("responses")
    for user_id, model in (("ada", "gpt-4o"), ("bob", "gpt-4o-mini")):
        with paygent_context(user_id):
            begin(conversation, model=model, input="hi", stream_id=user_id)
    answer(conversation, "r1", {"input_tokens": 10, "output_tokens": 1}, stream_id="bob", model="x")
    answer(conversation, "r2", stream_id="ada")
    assert {(event.user_id, event.input_tokens) for event in metered.events} == {
        ("bob", 10),
        ("ada", 100),
    }


def test_conversation__a_gateway_that_names_no_lane__is_matched_in_order(pg: Paygent) -> None:
    """There is nothing else to go by."""
    metered = Metered(pg)
    conversation = talk("responses")
    with paygent_context("ada"):
        begin(conversation, model="gpt-4o", input="hi", stream_id="a")
    answer(conversation, "r1")
    assert (metered.only.user_id, pg.health()["calls_in_flight"]) == ("ada", 0)


def test_conversation__an_error_in_a_lane__is_about_that_lane(pg: Paygent) -> None:
    """The one that waits there is void; the others go on."""
    conversation = talk("responses")
    ada = begin(conversation, model="gpt-4o", stream_id="ada")
    bob = begin(conversation, model="gpt-4o", stream_id="bob")
    hear(conversation, "error", stream_id="bob", status=400, error={"code": "x"})
    assert (ada.done, bob.done) == (False, True)
    hear(conversation, "error", status=400, error={"code": "x"})
    assert ada.done is False
    conversation.end()


def test_conversation__an_error_in_a_response__ends_it(pg: Paygent) -> None:
    """What was received of it counts, and nothing is held until the connection closes."""
    metered = Metered(pg)
    conversation = talk("responses")
    running = begin(conversation, model="gpt-4o", input="hi")
    hear(conversation, "response.created", response={"id": "r1", "model": "gpt-4o"})
    hear(conversation, "response.output_text.delta", delta="Hello hello.")
    waiting = begin(conversation, model="gpt-4o", input="hi")
    hear(conversation, "error", status=400, error={"code": "the next one is wrong"})
    assert (running.done, waiting.done) == (False, True)
    next_one = begin(conversation, model="gpt-4o", input="hi")
    hear(conversation, "error", sequence_number=2, error={"code": "server_error"})
    assert (running.done, next_one.done) == (True, False)
    hear(conversation, "error", status=400, error={"code": "x"})
    assert (metered.only.quality, metered.only.output_tokens) == ("estimated", 3)
    hear(conversation, "response.completed", response={"id": "r1", "usage": ANSWERED})
    assert len(metered.events) == 1


# -- starts that were not seen, and seen twice


def test_conversation__a_response_whose_start_was_not_seen__is_booked(pg: Paygent) -> None:
    """It was under way when we connected."""
    metered = Metered(pg)
    conversation = talk()
    for _ in range(2):
        hear(conversation, "response.done", response={"id": "r0", "usage": ANSWERED})
    assert (metered.only.user_id, metered.only.quality) == ("u1", "exact")
    assert hear(talk(meter=lambda: None), "response.done", response={"id": "r1"}) is None


@pytest.mark.parametrize("route", ["realtime", "responses"])
def test_conversation__a_response_that_only_ends__counts_on_who_asked_for_it(
    route: str, pg: Paygent
) -> None:
    """Once: a gateway may not say that it has begun."""
    metered = Metered(pg)
    conversation = talk(route)
    with paygent_context("ada"):
        begin(conversation, model="gpt-4o")
    response = {"id": "r1", "model": "gpt-4o", "usage": ANSWERED}
    hear(conversation, "response.completed", response=response)
    conversation.end()
    assert (metered.only.user_id, metered.only.quality) == ("ada", "exact")


def test_conversation__responses_without_ids__are_matched_in_order(pg: Paygent) -> None:
    """A gateway may leave them out: at either end, or everywhere."""
    metered = Metered(pg)
    conversation = talk()
    for began, ended in (({}, {}), ({"id": "r"}, {}), ({}, {"id": "s"})):
        for user_id in ("ada", "bob"):
            with paygent_context(user_id):
                begin(conversation)
        for number in range(2):
            response = {key: f"{value}{number}" for key, value in began.items()}
            hear(conversation, "response.created", response=response)
        for number in range(2):
            response = {key: f"{value}{number}" for key, value in ended.items()}
            hear(conversation, "response.done", response={**response, "usage": ANSWERED})
    assert [event.user_id for event in metered.events] == ["ada", "bob"] * 3
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__two_users_without_ids__do_not_share_a_response(pg: Paygent) -> None:
    """A second connection to a conversation does not take all of it for counted already."""
    metered = Metered(pg)
    destination = Destination("openai", "realtime", "gpt-realtime", True, "rtc_unnamed")
    for user_id in ("ada", "bob"):
        with paygent_context(user_id):
            conversation = Conversation(destination, current_identity(), meter_or_warn)
            begin(conversation)
        hear(conversation, "response.created", response={})
        hear(conversation, "response.done", response={"usage": ANSWERED})
        conversation.end()
    found = [(event.user_id, event.quality) for event in metered.events]
    assert found == [("ada", "exact"), ("bob", "exact")]


def test_conversation__two_connections_to_one_call__count_it_once(pg: Paygent) -> None:
    """Both receive each response and each transcript."""
    metered = Metered(pg)
    destination = Destination("openai", "realtime", "gpt-realtime", True, "rtc_twice")
    both = [Conversation(destination, current_identity(), meter_or_warn) for _ in range(2)]
    asked = begin(both[1])
    kind = "conversation.item.input_audio_transcription.completed"
    told = {"usage": {"type": "duration", "seconds": 3.0}, "item_id": "i", "content_index": 0}
    for conversation in both:
        hear(conversation, "response.created", response={"id": "r1"})
    for conversation in both:
        hear(conversation, "response.done", response={"id": "r1", "usage": ANSWERED})
        hear(conversation, kind, **told)
    assert asked.done is True
    assert len(metered.events) == 2
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__a_response_of_another_connection__is_of_who_asked_for_it(
    pg: Paygent,
) -> None:
    """Whichever connection receives it first; nor does the cap of the other user cancel it."""
    metered = Metered(pg)
    pg.configure_plan("none", PlanConfig(max_spend_per_period=0))
    pg.assign_plan("broke", "none")
    destination = Destination("openai", "realtime", "gpt-realtime", True, "rtc_others")
    with paygent_context("broke"):
        monitor = Conversation(destination, current_identity(), meter_or_warn)
    with paygent_context("ada"):
        asking = Conversation(destination, current_identity(), meter_or_warn)
        for number in "12":
            begin(asking)
            for conversation in (monitor, asking):
                told = hear(conversation, "response.created", response={"id": number})
                assert told is None
            done = {"id": number, "usage": ANSWERED}
            for conversation in (asking, monitor):
                hear(conversation, "response.done", response=done)
    found = [(event.user_id, event.quality) for event in metered.events]
    assert found == [("ada", "exact"), ("ada", "exact")]
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__what_a_connection_leaves_to_another__is_booked_once(pg: Paygent) -> None:
    """It is gone before its answer; when the last one goes, nothing stays held."""
    metered = Metered(pg)
    destination = Destination("openai", "realtime", "gpt-realtime", True, "rtc_leaves")
    asking, staying = (
        Conversation(destination, current_identity(), meter_or_warn) for _ in range(2)
    )
    with paygent_context("ada"):
        begin(asking)
        begin(asking)
    asking.end()
    hear(staying, "response.created", response={"id": "r1"})
    hear(staying, "response.done", response={"id": "r1", "usage": ANSWERED})
    staying.end()
    found = [(event.user_id, event.quality) for event in metered.events]
    assert found == [("ada", "exact"), ("ada", "estimated")]
    assert pg.health()["calls_in_flight"] == 0


def test_conversation__an_odd_output__loses_no_usage(pg: Paygent) -> None:
    """A plan that prices tools reads the output; the tokens count whatever that is."""
    metered = Metered(pg)
    pg.configure_plan("tools", PlanConfig(tool_costs={"weather": 0.5}))
    pg.assign_plan("u1", "tools")
    conversation = talk()
    begin(conversation)
    hear(conversation, "response.created", response={"id": "r1"})
    hear(conversation, "response.done", response={"id": "r1", "usage": ANSWERED, "output": 5})
    assert (metered.only.quality, metered.only.input_tokens) == ("exact", 100)


def test_conversation__a_very_large_answer__is_read_whole(pg: Paygent) -> None:
    """Its usage is exact, however many parts it has."""
    metered = Metered(pg)
    conversation = talk("responses")
    begin(conversation, model="gpt-4o")
    response = {"id": "r1", "model": "gpt-4o", "output": [{"a": "b"}] * 90_000, "usage": ANSWERED}
    hear(conversation, "response.created", response={"id": "r1", "model": "gpt-4o"})
    hear(conversation, "response.completed", response=response)
    assert (metered.only.quality, metered.only.input_tokens) == ("exact", 100)


def test_conversation__the_bound_of_a_session__bounds_its_responses(pg: Paygent) -> None:
    """As the server has accepted it, in today's name or the beta's; a response's own wins."""
    conversation = talk()

    def bound(**fields: Any) -> Any:
        outgoing = conversation.read_outgoing(json.dumps({"type": "response.create", **fields}))
        assert outgoing is not None
        return outgoing.request.max_tokens

    assert bound() is None
    hear(conversation, "session.created", session={"max_output_tokens": 50})
    assert bound() == 50
    assert bound(response={"max_output_tokens": 20}) == 20
    assert bound(response={"max_output_tokens": "inf"}) is None
    hear(conversation, "session.updated", session={"max_response_output_tokens": "inf"})
    assert bound() is None


def test_conversation__a_large_response__is_gated_by_all_of_it(pg: Paygent) -> None:
    """Its model, bound and input."""
    event = {
        "type": "response.create",
        "model": "gpt-4o",
        "max_output_tokens": 9,
        "input": "a " * 99999,
    }
    outgoing = talk("responses").read_outgoing(json.dumps(event))
    assert outgoing is not None
    request = outgoing.request
    assert (request.model, request.max_tokens, outgoing.begins) == ("gpt-4o", 9, True)
    assert request.body == event
    assert request.size is None


# -- places that are not known


def test_conversation__at_an_unknown_place__begins_when_a_response_is_asked_for(
    pg: Paygent,
) -> None:
    """In the shape of the provider's; what went before is not ours."""
    for route, asks in (("realtime", {}), ("responses", {"model": "gpt-4o", "input": "hi"})):
        metered = Metered(pg)
        destination = Destination("openai", route, "", is_provider=False)
        conversation = Conversation(destination, current_identity(), meter_or_warn)
        hear(conversation, "session.created", session={"model": "gpt-4o"})
        hear(conversation, "session.pinged")
        answer(conversation, "theirs")
        assert conversation.read_outgoing(json.dumps({"type": "input_audio_buffer.append"})) is None
        for other in ({"of": "a survey"}, {"response": 5}):
            assert (
                conversation.read_outgoing(json.dumps({"type": "response.create", **other})) is None
            )
        begin(conversation, **asks)
        answer(conversation, "r1")
        assert (metered.only.model, metered.only.quality) == ("gpt-4o", "exact")
        assert pg.health()["counts"][f"socket_like_openai:{route}"] == 1


# -- by the second


def test_conversation__live_seconds__are_booked_once_as_they_are_told(pg: Paygent) -> None:
    """They are reported as sums, to a second connection too. gpt-live-1 costs 3 dollars an hour."""
    metered = Metered(pg)
    first = Conversation(Destination("openai", "live"), current_identity(), meter_or_warn)
    destination = Destination("openai", "live", conversation_id="sess_live")
    second = Conversation(destination, current_identity(), meter_or_warn)
    for conversation in (first, second):
        hear(conversation, "session.started", session={"id": "sess_live", "model": "gpt-live-1"})
    for conversation in (first, second):
        hear(conversation, "session.usage.updated", usage={"seconds": 12.0})
        hear(conversation, "session.usage.updated", usage={"seconds": "odd"})
    for conversation in (first, second):
        hear(conversation, "session.closed", usage={"seconds": 36.0})
        conversation.end()
    assert [event.cost_total_nano for event in metered.events] == [10_000_000, 20_000_000]
    assert {(event.model, event.quality) for event in metered.events} == {("gpt-live-1", "exact")}


def test_conversation__what_a_live_session_delegates__is_booked_by_its_own_model(
    pg: Paygent,
) -> None:
    """Responses and decisions tell their tokens inside of events of Live."""
    metered = Metered(pg)
    live = Conversation(Destination("openai", "live"), current_identity(), meter_or_warn)
    response: dict[str, Any] = {"id": "r1", "model": "gpt-4o"}
    for kind, usage in (("created", None), ("completed", ANSWERED)):
        event = {"type": f"response.{kind}", "response": {**response, "usage": usage}}
        hear(live, "response.event", delegation_id="d1", event=event)
    decision = {"model": "gpt-4o-mini", "usage": ANSWERED}
    hear(live, "decision.event", event={"type": "decision.completed", "decision": decision})
    hear(live, "decision.event", event=None)
    assert [event.model for event in metered.events][:2] == ["gpt-4o", "gpt-4o-mini"]
    assert [event.quality for event in metered.events][:2] == ["exact", "exact"]
    asked = live.read_outgoing(json.dumps({"type": "response.create"}))
    assert asked is not None
    assert asked.begins is False


def test_conversation__a_translation__is_booked_by_what_was_spoken(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events tell nothing: estimated, from 24,000 samples a second."""
    booked: list[Usage] = []
    monkeypatch.setattr(SideUsage, "_book", lambda own, route, model, usage: booked.append(usage))
    destination = Destination("openai", "translations", "gpt-realtime-translate")
    conversation = Conversation(destination, current_identity(), meter_or_warn)
    for seconds in (9, 3, 6):
        audio = "A" * (seconds * 64_000)
        message = json.dumps({"type": "session.input_audio_buffer.append", "audio": audio})
        outgoing = conversation.read_outgoing(message)
        assert outgoing is not None
        conversation.record_audio(outgoing.sent)
    conversation.end()
    assert [(usage.audio_ms, usage.quality) for usage in booked] == [
        (12_000, "estimated"),
        (6_000, "estimated"),
    ]
