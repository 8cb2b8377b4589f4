"""What OpenAI's answers, streams and requests tell of their use, also where they are odd."""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paygent.client.instrument.openai.answers import (
    ChatStream,
    FinalEvents,
    ResponseStream,
    read_batch,
    read_chat,
    read_images,
    read_response,
    read_speech,
    read_transcription,
)
from paygent.client.instrument.openai.usage import usage_of_audio, usage_of_speech
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage

ESTIMATE = Estimate(50, 60)
USED = {"input_tokens": 3, "output_tokens": 4}


def response(**fields: Any) -> dict[str, Any]:
    """A response in the background."""
    return {"id": "resp_1", "background": True, "model": "gpt-5", "status": "completed", **fields}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            response(usage=USED),
            JobStatus("response:resp_1", (Usage(3, 4, model="gpt-5"),), "gpt-5"),
        ),
        (response(usage=None, status="queued"), JobStatus("response:resp_1", None, "gpt-5")),
        (response(usage=USED, status="in_progress"), JobStatus("response:resp_1", None, "gpt-5")),
        (response(usage=None, status="failed"), JobStatus("response:resp_1", (), "gpt-5")),
        (response(usage=None, status="cancelled"), JobStatus("response:resp_1", None, "gpt-5")),
        (response(usage=USED, status="incomplete", model=None),
         JobStatus("response:resp_1", (Usage(3, 4),), None)),
        (response(usage=USED, id=None), Usage(3, 4, model="gpt-5")),
        (response(usage=USED, background=False), Usage(3, 4, model="gpt-5")),
        (response(usage=None, background=None), None),
        ({}, None),
    ],
)  # fmt: skip
def test_read_response__in_the_background__tells_its_use_when_it_is_over(
    document: Any, expected: Any
) -> None:
    """Only what runs in the background, and has a name to ask for, is told later."""
    assert read_response(document, False) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"id": "b", "status": "validating", "usage": USED},
         JobStatus("batch:b", None, None, "batch")),
        ({"id": "b", "status": "failed"}, JobStatus("batch:b", (), None, "batch")),
        ({"id": "b", "status": "completed"}, JobStatus("batch:b", None, None, "batch")),
        ({"id": "b", "status": "cancelled", "usage": USED, "model": "gpt-5"},
         JobStatus("batch:b", (Usage(3, 4, model="gpt-5", tier="batch", largest_input_tokens=0),),
                  "gpt-5", "batch")),
        ({"id": "b", "status": "completed", "usage": USED, "request_counts": {"completed": 1}},
         JobStatus("batch:b", (Usage(3, 4, tier="batch"),), None, "batch")),
        ({"status": "completed", "usage": USED}, None),
        (None, None),
    ],
)  # fmt: skip
def test_read_batch__a_status__decides_whether_its_use_is_known(
    document: Any, expected: Any
) -> None:
    """A batch of one request is one call; of several nobody knows how large each was."""
    assert read_batch(document, False) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"usage": {**USED, "input_tokens_details": {"image_tokens": 2}}},
         Usage(3, 4, image_input_tokens=2, image_output_tokens=4)),
        ({"usage": {**USED, "output_tokens_details": {"image_tokens": 1, "text_tokens": 3}}},
         Usage(3, 4, image_output_tokens=1)),
        ({"usage": None, "data": [{}, {}]}, Usage(unlisted_units=2)),
        ({"data": []}, None),
        ({}, None),
        ({"usage": USED, "svg_usage": {"model": "gpt-5", "input_tokens": 9, "output_tokens": 8,
                                       "reasoning_tokens": 5, "total_tokens": 17}},
         Usage(3, 4, image_output_tokens=4,
               others=(Usage(9, 8, reasoning_tokens=5, model="gpt-5"),))),
        ({"usage": USED, "svg_usage": {"model": "gpt-5"}}, Usage(3, 4, image_output_tokens=4)),
    ],
)  # fmt: skip
def test_read_images__an_answer__tells_tokens_or_images(document: Any, expected: Any) -> None:
    """What counts no tokens is billed by the image; what writes SVG is another model."""
    assert read_images(document, False) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"text": "x", "usage": {"type": "duration", "seconds": 2}}, Usage(audio_ms=2_000)),
        ({"text": "x", "duration": 2.5}, Usage(audio_ms=2_500)),
        ({"text": "x"}, None),
        ("plain text", None),
    ],
)
def test_read_transcription__an_answer__tells_tokens_a_duration_or_nothing(
    document: Any, expected: Any
) -> None:
    """A verbose answer says how long the audio was."""
    assert read_transcription(document, False) == expected


def speech(content_type: str, text: str) -> Any:
    """Speech as the SDK gives it."""
    return SimpleNamespace(
        response=SimpleNamespace(headers={"content-type": content_type}, text=text)
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (speech("text/event-stream", 'data: {"audio": ""}\n\ndata: {"usage": {"input_tokens": 3,'
                ' "output_tokens": 4}}\n'), Usage(3, 4)),
        (speech("text/event-stream", 'data: {"audio": ""}\n'), None),
        (speech("audio/mpeg", ""), None),
        (object(), None),
    ],
)  # fmt: skip
def test_read_speech__events__tell_its_use_at_the_end(answer: Any, expected: Any) -> None:
    """Plain audio tells nothing."""
    assert read_speech(answer, False) == expected


def test_read_chat__a_router__tells_what_it_has_billed() -> None:
    """The figure is kept beside the tokens; who may name one is decided elsewhere."""
    answer = {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.5}}
    assert read_chat(answer, True) == Usage(3, 4, model="m", billed_nano=500_000_000)


@pytest.mark.parametrize(
    ("model", "searches"),
    [("gpt-4o-search-preview", 1), ("gpt-5-search-api", 1), ("gpt-4o", 0), (None, 0)],
)
def test_read_chat__a_model_that_always_searches__has_searched_once(
    model: str | None, searches: int
) -> None:
    """Its usage does not tell, in an answer or in a stream; its price list does."""
    told = {"model": model, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert read_chat(told, False) == Usage(3, 4, model=model, web_searches=searches)
    reader = ChatStream(False, False)
    reader.feed({**told, "choices": []})
    assert reader.usage(ESTIMATE) == Usage(3, 4, model=model, web_searches=searches)


# -- streams


def chat_chunk(**delta: Any) -> dict[str, Any]:
    """A chunk of a chat."""
    return {"model": "gpt-5", "choices": [{"delta": delta}]}


@pytest.mark.parametrize(
    ("delta", "tokens"),
    [
        ({"content": "12345678"}, 2),
        ({"refusal": "12345678"}, 2),
        ({"reasoning_content": "12345678"}, 2),
        ({"reasoning": "12345678"}, 2),
        ({"function_call": {"arguments": "12345678"}}, 2),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "12345678"}}]}, 2),
        ({"role": "assistant"}, 0),
    ],
)
def test_chat_stream__left_early__counts_all_text_that_came(
    delta: dict[str, Any], tokens: int
) -> None:
    """Answers, refusals, thinking and arguments were all generated."""
    reader = ChatStream(False, False)
    reader.feed(chat_chunk(**delta))
    assert reader.usage(ESTIMATE) == Usage(50, tokens, model="gpt-5", quality="estimated")


def test_chat_stream__that_showed_nothing__is_unknown() -> None:
    """What has no chunk of any known kind may have cost all that was held."""
    reader = ChatStream(False, False)
    assert reader.usage(ESTIMATE) is None
    reader.feed("odd")
    reader.feed({"other": 1})
    assert reader.usage(ESTIMATE) is None


def test_chat_stream__an_odd_usage_at_the_end__does_not_undo_a_good_one() -> None:
    """The last readable word counts."""
    reader = ChatStream(False, False)
    reader.feed({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    reader.feed({"choices": [], "usage": {"other": 1}})
    assert reader.usage(ESTIMATE) == Usage(3, 4)


def test_chat_stream__of_a_router__has_what_was_billed() -> None:
    """The bill comes with the usage."""
    reader = ChatStream(False, False)
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.001}
    reader.feed({"choices": [], "usage": usage})
    assert reader.usage(ESTIMATE) == Usage(3, 4, billed_nano=1_000_000)


def test_response_stream__in_the_background__is_told_later_where_it_was_left() -> None:
    """The work goes on, so text that came says nothing about what it costs."""
    reader = ResponseStream(False, False)
    begun = response(status="queued", usage=None)
    reader.feed({"type": "response.queued", "response": begun})
    reader.feed({"type": "response.output_text.delta", "delta": "12345678"})
    assert reader.usage(ESTIMATE) == JobStatus("response:resp_1", None, "gpt-5")
    reader.feed({"type": "response.completed", "response": response(usage=USED)})
    expected = JobStatus("response:resp_1", (Usage(3, 4, model="gpt-5"),), "gpt-5")
    assert reader.usage(ESTIMATE) == expected


def test_response_stream__seen_without_text__has_its_input() -> None:
    """Something began; what had come by then counts."""
    reader = ResponseStream(False, False)
    reader.feed({"type": "response.created", "response": {"model": "gpt-5"}})
    assert reader.usage(ESTIMATE) == Usage(50, 0, model="gpt-5", quality="estimated")


def test_final_events__of_several_images__add_up() -> None:
    """Each image of a call ends with an event of its own."""
    reader = FinalEvents(False, False)
    reader.feed({"type": "image_generation.partial_image"})
    assert reader.usage(ESTIMATE) is None
    for _ in range(2):
        reader.feed({"type": "image_generation.completed", "usage": USED})
    reader.feed({"type": "image_generation.completed", "usage": {"odd": 1}})
    assert reader.usage(ESTIMATE) == Usage(6, 8, image_output_tokens=8)


def test_final_events__of_a_transcription__have_its_usage() -> None:
    """Text before the last event says little of what the audio costs."""
    reader = FinalEvents(False, False)
    reader.feed({"type": "transcript.text.delta", "delta": "x"})
    reader.feed({"type": "transcript.text.done", "usage": {"type": "duration", "seconds": 2}})
    assert reader.usage(ESTIMATE) == Usage(audio_ms=2_000)


# -- requests


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "Hello there."}, Usage(3, 17, characters=12)),
        ({"input": "é" * 10}, Usage(5, 14, characters=10)),
        ({"input": ""}, Usage()),
        ({"input": 5}, None),
        ({}, None),
    ],
)
def test_usage_of_speech__a_text__has_characters_and_tokens(body: Any, expected: Any) -> None:
    """Characters are those of the text; seven audio tokens are spoken for five of them."""
    assert usage_of_speech(body, None) == expected


def wav(seconds: int, bytes_per_s: int) -> bytes:
    """A WAV file of silence."""
    data = bytes(seconds * bytes_per_s - 44)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", len(data) + 36, b"WAVE", b"fmt ", 16, 1, 1,
                       bytes_per_s // 2, bytes_per_s, 2, 16, b"data", len(data))  # fmt: skip
    return head + data


MINUTE = Usage(1_000, 200, audio_input_tokens=1_000, audio_ms=60_000)


def test_usage_of_audio__a_file__has_a_duration_and_tokens(tmp_path: Path) -> None:
    """By its bit rate, which a WAV file names; whichever way the file is given."""
    minute = bytes(60 * 16_000)
    path = tmp_path / "a.mp3"
    path.write_bytes(minute)
    with path.open("rb") as opened:
        for files in (
            [("file", ("a.mp3", minute))],
            [("file", ("a.mp3", minute, "audio/mpeg"))],
            {"file": ("a.mp3", io.BytesIO(minute))},
            {"file": opened},
            [("file", bytearray(minute))],
            [("file", ("a.wav", wav(60, 88_200)))],
        ):
            assert usage_of_audio({}, files) == MINUTE
        assert opened.tell() == 0  # nothing was read


def test_usage_of_audio__a_spooled_file__is_left_in_memory() -> None:
    """Upload handlers keep small files there; asking for their size must not write them out."""
    with tempfile.SpooledTemporaryFile(max_size=10_000) as spooled:
        spooled.write(bytes(100))
        assert usage_of_audio({}, [("file", ("a.mp3", spooled))]) is None
        assert spooled._rolled is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("files", [None, [], {}, [("file", object())], [("file", ("a", b""))]])
def test_usage_of_audio__a_file_of_unknown_size__tells_nothing(files: Any) -> None:
    """Then what is held is what such calls took before."""
    assert usage_of_audio({}, files) is None
