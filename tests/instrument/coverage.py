"""Every call shape of OpenAI's and Anthropic's SDKs, as a table: how an application makes the call,
and what is metered of it. `test_coverage.py` proves each row on the installed SDKs, on the newest
and on the oldest; `python -m tests.instrument.coverage` (`make docs`) writes the table into
docs/guide/coverage.md.

Prices are in dollars per million tokens, from the providers' price lists of 2026-11: gpt-4o
2.50/10.00, gpt-4o-mini 0.15/0.60 (batch 0.075/0.30), gpt-5 1.25/10.00, gpt-5-mini 0.25/2.00,
gpt-3.5-turbo-instruct 1.50/2.00, text-embedding-3-small 0.02, gpt-image-1 text 5.00, image 10.00,
output 40.00, tts-1 15.00 per million characters, gpt-4o-mini-tts 0.60/12.00, whisper-1 0.36 an
hour, gpt-4o-transcribe audio 6.00, text 10.00, claude-sonnet-5-5 2.00/10.00 (batch 1.00/5.00),
claude-sonnet-4-5 3.00/15.00 (in a region of AWS 3.30/16.50). Unless a row says otherwise the fake
answers 100 input and 20 output tokens.
"""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from paygent.testing import Answer, Tokens

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
AUDIO = b"\xff\xfb" + bytes(48_000 - 2)
"""Three seconds at the bit rate that is taken for granted."""

Sync = Callable[[Any], Any]
Async = Callable[[Any], Awaitable[Any]]


class Shape(NamedTuple):
    """One way to make a call.

    Attributes:
        sdk: "openai" or "anthropic".
        name: As the table shows it.
        sync, asynchronous: Make the call, read its answer, and return what the application saw.
        model: Model that the events name.
        cost_nano: What all events of the call cost together.
        tokens: Input and output of all events together.
        quality: Of what is booked in the end.
        reason: Why that is not exact; "" where it is.
        client: Which client makes it; see `CLIENTS` in the test.
        needs: Path of the method below the client, which a version may lack.
        in_oldest: Whether the oldest supported SDK has it.
        answers: How the fake answers, one request each; () is as it does by default.
        requests: How many requests the call makes.
        calls: How many calls are counted.
        is_gated: Whether a user at the cap is refused; what is free or only asks is not.
    """

    sdk: str
    name: str
    sync: Sync
    asynchronous: Async | None
    model: str
    cost_nano: int
    tokens: tuple[int, int] = (100, 20)
    quality: str = "exact"
    reason: str = ""
    client: str = "plain"
    needs: str = ""
    in_oldest: bool = True
    answers: tuple[Answer, ...] = ()
    requests: int = 1
    calls: int = 1
    is_gated: bool = True


# -- how answers are read


def seen(value: Any) -> Any:
    """Return what an application sees of an answer, without what differs from run to run."""
    if hasattr(value, "model_dump"):
        return type(value).__name__, re.sub(
            r"fake\d+", "fake#", str(value.model_dump(warnings=False))
        )
    if hasattr(value, "content") and isinstance(getattr(value, "content", None), bytes):
        return type(value).__name__, value.content
    return type(value).__name__, re.sub(r"fake\d+|127.0.0.1:\d+", "fake#", str(value))


class _Ways(NamedTuple):
    sync: Sync
    asynchronous: Async


def plain(call: Callable[[Any], Any]) -> _Ways:
    """A call that answers at once."""

    async def asynchronous(client: Any) -> Any:
        return seen(await call(client))

    return _Ways(lambda client: seen(call(client)), asynchronous)


def stream(call: Callable[[Any], Any]) -> _Ways:
    """A call that answers a stream, read to its end."""

    async def asynchronous(client: Any) -> Any:
        return [seen(chunk) async for chunk in await call(client)]

    return _Ways(lambda client: [seen(chunk) for chunk in call(client)], asynchronous)


def helper(call: Callable[[Any], Any]) -> _Ways:
    """A helper that is entered, and then read as a stream."""

    def sync(client: Any) -> Any:
        with call(client) as entered:
            return [seen(event) for event in entered]

    async def asynchronous(client: Any) -> Any:
        async with call(client) as entered:
            return [seen(event) async for event in entered]

    return _Ways(sync, asynchronous)


async def _awaited(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def raw(call: Callable[[Any], Any]) -> _Ways:
    """A raw response, opened by its `parse`."""

    async def asynchronous(client: Any) -> Any:
        answer = await call(client)
        return answer.status_code, seen(await _awaited(answer.parse()))

    def sync(client: Any) -> Any:
        answer = call(client)
        return answer.status_code, seen(answer.parse())

    return _Ways(sync, asynchronous)


def raw_stream(call: Callable[[Any], Any]) -> _Ways:
    """A raw response whose `parse` gives a stream."""

    async def asynchronous(client: Any) -> Any:
        answer = await call(client)
        return [seen(chunk) async for chunk in await _awaited(answer.parse())]

    return _Ways(lambda client: [seen(each) for each in call(client).parse()], asynchronous)


def streaming(call: Callable[[Any], Any]) -> _Ways:
    """A response that is read as bytes while it comes."""

    async def asynchronous(client: Any) -> Any:
        async with call(client) as answer:
            return b"".join([data async for data in answer.iter_bytes()])

    def sync(client: Any) -> Any:
        with call(client) as answer:
            return b"".join(answer.iter_bytes())

    return _Ways(sync, asynchronous)


def steps(*calls: Callable[[Any, Any], Any]) -> _Ways:
    """Several calls, each given the answer of the one before."""

    async def asynchronous(client: Any) -> Any:
        answer = None
        for call in calls:
            answer = await call(client, answer)
        return seen(answer)

    def sync(client: Any) -> Any:
        answer = None
        for call in calls:
            answer = call(client, answer)
        return seen(answer)

    return _Ways(sync, asynchronous)


# -- OpenAI

CHAT = {"model": "gpt-4o", "messages": MESSAGES}
RESPONSE = {"model": "gpt-4o-mini", "input": "hi"}
EMBEDDING = {"model": "text-embedding-3-small", "input": ["hi"]}
LEGACY = {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}
IMAGE = {"model": "gpt-image-1", "prompt": "a cat"}
SPEECH = {"voice": "alloy", "input": "Hello there."}
DRAWN = Answer(tokens=Tokens(image_output=20))
BATCH = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}


def audio(model: str, **others: Any) -> dict[str, Any]:
    """The arguments of a transcription; the file is made anew for each call."""
    return {"model": model, "file": ("a.mp3", io.BytesIO(AUDIO)), **others}


def picture(**others: Any) -> dict[str, Any]:
    """The arguments of a change to an image."""
    return {**IMAGE, "image": ("a.png", io.BytesIO(b"png")), **others}


def _reply_type() -> Any:
    from pydantic import BaseModel

    class Reply(BaseModel):
        answer: str

    return Reply


def _completions(client: Any, name: str) -> Any:
    """The chat completions that have a method: in old SDKs those of `beta`."""
    own = client.chat.completions
    return own if hasattr(own, name) else client.beta.chat.completions


def _stream_type(client: Any) -> Any:
    import openai

    is_async = isinstance(client, openai.AsyncOpenAI)
    kind: Any = openai.AsyncStream if is_async else openai.Stream
    from openai.types.chat import ChatCompletionChunk

    return kind[ChatCompletionChunk]


IN_BACKGROUND = {**RESPONSE, "background": True}
NO_USAGE = "the answer contains no usage; "
UNPRICED = "it is in no price list"

OPENAI = (
    Shape(
        "openai",
        "chat.completions.create",
        *plain(lambda c: c.chat.completions.create(**CHAT)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "chat.completions.create(stream=True)",
        *stream(lambda c: c.chat.completions.create(**CHAT, stream=True)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "chat.completions.parse",
        *plain(lambda c: _completions(c, "parse").parse(**CHAT, response_format=_reply_type())),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "chat.completions.stream",
        *helper(lambda c: _completions(c, "stream").stream(**CHAT)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "chat.completions.with_raw_response.create",
        *raw(lambda c: c.chat.completions.with_raw_response.create(**CHAT)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "chat.completions.with_raw_response.create(stream=True)",
        *raw_stream(lambda c: c.chat.completions.with_raw_response.create(**CHAT, stream=True)),
        "gpt-4o",
        92_500,
        tokens=(5, 8),
        quality="estimated",
        reason="usage is not requested for a raw stream, because its chunk could not be removed "
        "again; the text is counted",
    ),
    Shape(
        "openai",
        "chat.completions.with_raw_response.create(stream=True, include_usage)",
        *raw_stream(
            lambda c: c.chat.completions.with_raw_response.create(
                **CHAT, stream=True, stream_options={"include_usage": True}
            )
        ),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "chat.completions.with_streaming_response.create",
        *streaming(lambda c: c.chat.completions.with_streaming_response.create(**CHAT)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "with_options(...).chat.completions.create",
        *plain(lambda c: c.with_options(max_retries=1).chat.completions.create(**CHAT)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "openai.chat.completions.create (module)",
        *plain(lambda c: c.chat.completions.create(**CHAT))._replace(asynchronous=None),  # type: ignore[arg-type]
        "gpt-4o",
        450_000,
        client="module",
    ),
    Shape(
        "openai",
        'client.post("/chat/completions")',
        *plain(lambda c: c.post("/chat/completions", body=CHAT, cast_to=object)),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        'client.post("/chat/completions", stream=True)',
        *stream(
            lambda c: c.post(
                "/chat/completions",
                body={**CHAT, "stream": True},
                cast_to=object,
                stream=True,
                stream_cls=_stream_type(c),
            )
        ),
        "gpt-4o",
        450_000,
    ),
    Shape(
        "openai",
        "AzureOpenAI: chat.completions.create",
        *plain(lambda c: c.chat.completions.create(model="prod-chat", messages=MESSAGES)),
        "gpt-4o-2024-08-06",
        450_000,
        client="azure",
        answers=(Answer(model="gpt-4o-2024-08-06"),),
    ),
    Shape(
        "openai",
        "AzureOpenAI: chat.completions.create(stream=True)",
        *stream(
            lambda c: c.chat.completions.create(model="prod-chat", messages=MESSAGES, stream=True)
        ),
        "gpt-4o-2024-08-06",
        450_000,
        client="azure",
        answers=(Answer(model="gpt-4o-2024-08-06"),),
    ),
    Shape(
        "openai",
        "OpenRouter: chat.completions.create",
        *plain(lambda c: c.chat.completions.create(model="vendor/model", messages=MESSAGES)),
        "vendor/model",
        12_300_000,
        client="openrouter",
        answers=(Answer(tokens=Tokens(cost=0.0123)),),
    ),
    Shape(
        "openai",
        "OpenRouter: chat.completions.create(stream=True)",
        *stream(
            lambda c: c.chat.completions.create(
                model="vendor/model", messages=MESSAGES, stream=True
            )
        ),
        "vendor/model",
        12_300_000,
        client="openrouter",
        answers=(Answer(tokens=Tokens(cost=0.0123)),),
    ),
    Shape(
        "openai",
        "completions.create",
        *plain(lambda c: c.completions.create(**LEGACY)),
        "gpt-3.5-turbo-instruct",
        190_000,
    ),
    Shape(
        "openai",
        "completions.create(stream=True)",
        *stream(lambda c: c.completions.create(**LEGACY, stream=True)),
        "gpt-3.5-turbo-instruct",
        190_000,
    ),
    Shape(
        "openai",
        "embeddings.create",
        *plain(lambda c: c.embeddings.create(**EMBEDDING)),
        "text-embedding-3-small",
        2_000,
        tokens=(100, 0),
    ),
    Shape(
        "openai",
        "responses.create",
        *plain(lambda c: c.responses.create(**RESPONSE)),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.create(stream=True)",
        *stream(lambda c: c.responses.create(**RESPONSE, stream=True)),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.parse",
        *plain(lambda c: c.responses.parse(**RESPONSE, text_format=_reply_type())),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.stream",
        *helper(lambda c: c.responses.stream(**RESPONSE)),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.with_raw_response.create",
        *raw(lambda c: c.responses.with_raw_response.create(**RESPONSE)),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.with_streaming_response.create(stream=True)",
        *streaming(lambda c: c.responses.with_streaming_response.create(**RESPONSE, stream=True)),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.create(background=True), then retrieve",
        *steps(
            lambda c, _: c.responses.create(**IN_BACKGROUND),
            lambda c, begun: c.responses.retrieve(begun.id),
            lambda c, begun: c.responses.retrieve(begun.id),
        ),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
        requests=3,
    ),
    Shape(
        "openai",
        "responses.create(background=True, stream=True)",
        *stream(lambda c: c.responses.create(**IN_BACKGROUND, stream=True)),
        "gpt-4o-mini",
        27_000,
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.create(background=True), never retrieved",
        *plain(lambda c: c.responses.create(**IN_BACKGROUND, max_output_tokens=50)),
        "gpt-4o-mini",
        30_150,
        tokens=(1, 50),
        quality="estimated",
        reason="its usage becomes known when it is retrieved; until then its hold is booked",
        needs="responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.compact",
        *plain(lambda c: c.responses.compact(**RESPONSE)),
        "gpt-4o-mini",
        27_000,
        needs="responses.compact",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "responses.input_tokens.count",
        *plain(lambda c: c.responses.input_tokens.count(**RESPONSE)),
        "",
        0,
        tokens=(0, 0),
        needs="responses.input_tokens",
        in_oldest=False,
        calls=0,
        is_gated=False,
    ),
    Shape(
        "openai",
        "beta.responses.create",
        *plain(lambda c: c.beta.responses.create(**RESPONSE)),
        "gpt-4o-mini",
        27_000,
        needs="beta.responses",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "decisions.create",
        *plain(
            lambda c: c.decisions.create(
                model="gpt-5-mini",
                input="hi",
                questions=[{"type": "predicate", "name": "q", "instructions": "Is it?"}],
            )
        ),
        "gpt-5-mini",
        65_000,
        needs="decisions",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "images.generate",
        *plain(lambda c: c.images.generate(**IMAGE)),
        "gpt-image-1",
        1_300_000,
        answers=(DRAWN,),
    ),
    Shape(
        "openai",
        "images.generate(stream=True)",
        *stream(lambda c: c.images.generate(**IMAGE, stream=True)),
        "gpt-image-1",
        1_300_000,
        answers=(DRAWN,),
        needs="images.generate:stream",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "images.edit",
        *plain(lambda c: c.images.edit(**picture())),
        "gpt-image-1",
        1_500_000,
        answers=(Answer(tokens=Tokens(image_input=40)),),
    ),
    Shape(
        "openai",
        "images.edit(stream=True)",
        *stream(lambda c: c.images.edit(**picture(stream=True))),
        "gpt-image-1",
        1_500_000,
        answers=(Answer(tokens=Tokens(image_input=40)),),
        needs="images.edit:stream",
        in_oldest=False,
    ),
    Shape(
        "openai",
        "images.generate (dall-e-3)",
        *plain(lambda c: c.images.generate(model="dall-e-3", prompt="a cat")),
        "dall-e-3",
        0,
        tokens=(0, 0),
        quality="unpriced",
        reason=NO_USAGE + UNPRICED,
    ),
    Shape(
        "openai",
        "images.create_variation (dall-e-2)",
        *plain(lambda c: c.images.create_variation(image=("a.png", b"png"), model="dall-e-2")),
        "dall-e-2",
        0,
        tokens=(0, 0),
        quality="unpriced",
        reason=NO_USAGE + UNPRICED,
    ),
    Shape(
        "openai",
        "audio.speech.create (tts-1)",
        *plain(lambda c: c.audio.speech.create(model="tts-1", **SPEECH)),
        "tts-1",
        180_000,
        tokens=(0, 0),
        quality="estimated",
        reason=NO_USAGE + "the characters of the request are counted",
    ),
    Shape(
        "openai",
        "audio.speech.with_streaming_response.create (tts-1)",
        *streaming(
            lambda c: c.audio.speech.with_streaming_response.create(model="tts-1", **SPEECH)
        ),
        "tts-1",
        180_000,
        tokens=(0, 0),
        quality="estimated",
        reason=NO_USAGE + "the characters of the request are counted",
    ),
    Shape(
        "openai",
        "audio.speech.create (gpt-4o-mini-tts)",
        *plain(lambda c: c.audio.speech.create(model="gpt-4o-mini-tts", **SPEECH)),
        "gpt-4o-mini-tts",
        205_800,
        tokens=(3, 17),
        quality="estimated",
        reason=NO_USAGE + "audio tokens are derived from the characters",
    ),
    Shape(
        "openai",
        'audio.speech.create(stream_format="sse")',
        *plain(
            lambda c: c.audio.speech.create(
                model="gpt-4o-mini-tts", **SPEECH, extra_body={"stream_format": "sse"}
            )
        ),
        "gpt-4o-mini-tts",
        300_000,
    ),
    Shape(
        "openai",
        "audio.transcriptions.create (whisper-1)",
        *plain(lambda c: c.audio.transcriptions.create(**audio("whisper-1"))),
        "whisper-1",
        300_000,
        tokens=(0, 0),
    ),
    Shape(
        "openai",
        "audio.transcriptions.create (gpt-4o-transcribe)",
        *plain(lambda c: c.audio.transcriptions.create(**audio("gpt-4o-transcribe"))),
        "gpt-4o-transcribe",
        800_000,
        answers=(Answer(tokens=Tokens(audio_input=100)),),
    ),
    Shape(
        "openai",
        "audio.transcriptions.create(stream=True)",
        *stream(lambda c: c.audio.transcriptions.create(**audio("gpt-4o-transcribe", stream=True))),
        "gpt-4o-transcribe",
        800_000,
        answers=(Answer(tokens=Tokens(audio_input=100)),),
        needs="audio.transcriptions.create:stream",
        in_oldest=False,
    ),
    Shape(
        "openai",
        'audio.transcriptions.create(response_format="text")',
        *plain(
            lambda c: c.audio.transcriptions.create(**audio("whisper-1", response_format="text"))
        ),
        "whisper-1",
        300_000,
        tokens=(0, 0),
        quality="estimated",
        reason=NO_USAGE + "the duration is derived from the file size",
    ),
    Shape(
        "openai",
        "audio.translations.create",
        *plain(lambda c: c.audio.translations.create(**audio("whisper-1"))),
        "whisper-1",
        300_000,
        tokens=(0, 0),
        quality="estimated",
        reason=NO_USAGE + "the duration is derived from the file size",
    ),
    Shape(
        "openai",
        'audio.translations.create(response_format="verbose_json")',
        *plain(
            lambda c: c.audio.translations.create(
                **audio("whisper-1", response_format="verbose_json")
            )
        ),
        "whisper-1",
        300_000,
        tokens=(0, 0),
    ),
    Shape(
        "openai",
        "batches.create, then retrieve",
        *steps(
            lambda c, _: c.batches.create(**BATCH),
            lambda c, begun: c.batches.retrieve(begun.id),
            lambda c, begun: c.batches.retrieve(begun.id),
        ),
        "gpt-4o-mini",
        13_500,
        requests=3,
    ),
    Shape(
        "openai",
        "batches.create, never retrieved",
        *plain(lambda c: c.batches.create(**BATCH)),
        "",
        0,
        tokens=(0, 0),
        quality="estimated",
        reason="the contents of the file are unknown; usage becomes known when it is retrieved",
    ),
    Shape(
        "openai",
        "moderations.create",
        *plain(lambda c: c.moderations.create(input="x")),
        "",
        0,
        tokens=(0, 0),
        calls=0,
        is_gated=False,
    ),
    Shape(
        "openai",
        "files.create",
        *plain(lambda c: c.files.create(file=("a.jsonl", b"{}"), purpose="batch")),
        "",
        0,
        tokens=(0, 0),
        calls=0,
        is_gated=False,
    ),
)

# -- Anthropic

SONNET = "claude-sonnet-5-5"
MESSAGE: dict[str, Any] = {"model": SONNET, "max_tokens": 64, "messages": MESSAGES}
COST = 400_000
ON_BEDROCK: dict[str, Any] = {**MESSAGE, "model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0"}
ON_VERTEX: dict[str, Any] = {**MESSAGE, "model": "claude-sonnet-4-5@20250929"}


def batch_of(*ids: str) -> dict[str, Any]:
    """A batch of equal requests."""
    return {"requests": [{"custom_id": each, "params": MESSAGE} for each in ids]}


def run_tools() -> _Ways:
    """Two turns of a tool runner, which calls a tool of the application's between them."""

    def sync(client: Any) -> Any:
        from anthropic import beta_tool

        @beta_tool
        def weather(city: str) -> str:
            """Tell the weather.

            Args:
                city: Where.
            """
            return f"sunny in {city}"

        return [seen(each) for each in client.beta.messages.tool_runner(**MESSAGE, tools=[weather])]

    async def asynchronous(client: Any) -> Any:
        from anthropic import beta_async_tool

        @beta_async_tool
        async def weather(city: str) -> str:
            """Tell the weather.

            Args:
                city: Where.
            """
            return f"sunny in {city}"

        runner = client.beta.messages.tool_runner(**MESSAGE, tools=[weather])
        return [seen(each) async for each in runner]

    return _Ways(sync, asynchronous)


def read_results(
    ids: tuple[str, ...], of: Callable[[Any], Any] = lambda client: client.messages.batches
) -> _Ways:
    """A batch that is started, and whose results are read twice."""

    def sync(client: Any) -> Any:
        begun = of(client).create(**batch_of(*ids))
        list(of(client).results(begun.id))
        return [seen(line) for line in of(client).results(begun.id)]

    async def asynchronous(client: Any) -> Any:
        begun = await of(client).create(**batch_of(*ids))
        async for _ in await of(client).results(begun.id):
            pass
        return [seen(each) async for each in await of(client).results(begun.id)]

    return _Ways(sync, asynchronous)


ANTHROPIC = (
    Shape(
        "anthropic",
        "messages.create",
        *plain(lambda c: c.messages.create(**MESSAGE)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.create(stream=True)",
        *stream(lambda c: c.messages.create(**MESSAGE, stream=True)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.stream",
        *helper(lambda c: c.messages.stream(**MESSAGE)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.parse",
        *plain(lambda c: c.messages.parse(**MESSAGE, output_format=_reply_type())),
        SONNET,
        COST,
        needs="messages.parse",
        in_oldest=False,
    ),
    Shape(
        "anthropic",
        "messages.with_raw_response.create",
        *raw(lambda c: c.messages.with_raw_response.create(**MESSAGE)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.with_raw_response.create(stream=True)",
        *raw_stream(lambda c: c.messages.with_raw_response.create(**MESSAGE, stream=True)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.with_streaming_response.create",
        *streaming(lambda c: c.messages.with_streaming_response.create(**MESSAGE)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.with_streaming_response.create(stream=True)",
        *streaming(lambda c: c.messages.with_streaming_response.create(**MESSAGE, stream=True)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "with_options(...).messages.create",
        *plain(lambda c: c.with_options(max_retries=1).messages.create(**MESSAGE)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        'client.post("/v1/messages")',
        *plain(lambda c: c.post("/v1/messages", body=MESSAGE, cast_to=object)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "messages.count_tokens",
        *plain(lambda c: c.messages.count_tokens(model=SONNET, messages=MESSAGES)),
        "",
        0,
        tokens=(0, 0),
        needs="messages.count_tokens",
        in_oldest=False,
        calls=0,
        is_gated=False,
    ),
    Shape(
        "anthropic",
        "messages.batches.create, then results",
        *read_results(("a", "b", "bad")),
        SONNET,
        COST,
        tokens=(200, 40),
        needs="messages.batches",
        in_oldest=False,
        requests=5,
    ),
    Shape(
        "anthropic",
        "beta.messages.batches.create, then results",
        *read_results(("a", "b", "bad"), lambda c: c.beta.messages.batches),
        SONNET,
        COST,
        tokens=(200, 40),
        requests=5,
    ),
    Shape(
        "anthropic",
        "messages.batches.create, never read",
        *plain(lambda c: c.messages.batches.create(**batch_of("a", "b"))),
        SONNET,
        650_000,
        tokens=(10, 128),
        quality="estimated",
        reason="usage is in its results; until they are read its hold is booked",
        needs="messages.batches",
        in_oldest=False,
    ),
    Shape(
        "anthropic",
        "beta.messages.create",
        *plain(lambda c: c.beta.messages.create(**MESSAGE)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "beta.messages.create(stream=True)",
        *stream(lambda c: c.beta.messages.create(**MESSAGE, stream=True)),
        SONNET,
        COST,
    ),
    Shape(
        "anthropic",
        "beta.messages.stream",
        *helper(lambda c: c.beta.messages.stream(**MESSAGE)),
        SONNET,
        COST,
        needs="beta.messages.stream",
        in_oldest=False,
    ),
    Shape(
        "anthropic",
        "beta.messages.parse",
        *plain(lambda c: c.beta.messages.parse(**MESSAGE, output_format=_reply_type())),
        SONNET,
        COST,
        needs="beta.messages.parse",
        in_oldest=False,
    ),
    Shape(
        "anthropic",
        "beta.messages.tool_runner, two turns",
        *run_tools(),
        SONNET,
        2 * COST,
        tokens=(200, 40),
        answers=(Answer(tool_call=("weather", '{"city": "Rome"}')), Answer()),
        needs="beta.messages.tool_runner",
        in_oldest=False,
        requests=2,
        calls=2,
    ),
    Shape(
        "anthropic",
        "AnthropicBedrock: messages.create",
        *plain(lambda c: c.messages.create(**ON_BEDROCK)),
        ON_BEDROCK["model"],
        660_000,
        client="bedrock",
    ),
    Shape(
        "anthropic",
        "AnthropicBedrock: messages.create(stream=True)",
        *stream(lambda c: c.messages.create(**ON_BEDROCK, stream=True)),
        ON_BEDROCK["model"],
        660_000,
        client="bedrock",
    ),
    Shape(
        "anthropic",
        "AnthropicVertex: messages.create",
        *plain(lambda c: c.messages.create(**ON_VERTEX)),
        ON_VERTEX["model"],
        600_000,
        client="vertex",
    ),
    Shape(
        "anthropic",
        "AnthropicVertex: messages.create(stream=True)",
        *stream(lambda c: c.messages.create(**ON_VERTEX, stream=True)),
        ON_VERTEX["model"],
        600_000,
        client="vertex",
    ),
    Shape(
        "anthropic",
        "AnthropicFoundry: messages.create",
        *plain(lambda c: c.messages.create(**MESSAGE)),
        SONNET,
        COST,
        client="foundry",
        needs="AnthropicFoundry",
        in_oldest=False,
    ),
    Shape(
        "anthropic",
        "AnthropicFoundry: messages.stream",
        *helper(lambda c: c.messages.stream(**MESSAGE)),
        SONNET,
        COST,
        client="foundry",
        needs="AnthropicFoundry",
        in_oldest=False,
    ),
    Shape(
        "anthropic",
        "AnthropicAWS: messages.create",
        *plain(lambda c: c.messages.create(**MESSAGE)),
        SONNET,
        COST,
        client="aws",
        needs="AnthropicAWS",
        in_oldest=False,
    ),
)

SHAPES = OPENAI + ANTHROPIC


# -- the page

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "coverage.md"
_BEGIN, _END = "<!-- shapes -->\n", "<!-- /shapes -->"


def table() -> str:
    """Return the table of all shapes as Markdown."""
    lines = []
    for sdk, oldest in (("openai", "1.60"), ("anthropic", "0.40")):
        lines += [
            f"### {'OpenAI' if sdk == 'openai' else 'Anthropic'}",
            "",
            f"| call | async | gated | metered | cost | in {sdk} {oldest} |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(shape) for shape in SHAPES if shape.sdk == sdk]
        lines.append("")
    return "\n".join(lines)


def _row(shape: Shape) -> str:
    metered = {0: "free", 1: "once"}.get(shape.calls, f"{shape.calls} calls")
    gated = "yes" if shape.is_gated else "no: free of charge"
    cost = shape.quality if shape.calls else "none"
    if shape.reason:
        cost += f": {shape.reason}"
    cells = (
        f"`{shape.name}`",
        "yes" if shape.asynchronous is not None else "n/a",
        gated,
        metered,
        cost,
        "yes" if shape.in_oldest else "absent",
    )
    return f"| {' | '.join(cells)} |"


def page_with_table(page: str) -> str:
    """Return the page with its table as it should be."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}{table()}{_END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
