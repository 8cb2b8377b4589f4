"""What the fake provider answers: tokens, and how a request goes well or badly."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote


@dataclass(frozen=True)
class Tokens:
    """What an answer says was used: inclusive totals; Anthropic's answers subtract what they
    exclude.

    Attributes:
        input, output: Totals.
        cached, cache_write, cache_write_long: Parts of the input.
        reasoning: Part of the output.
        cached_audio: Part of `cached`; of the Realtime API.
        audio_input, image_input: Parts of the input.
        audio_output, image_output: Parts of the output.
        web_searches: Requests of the provider's search tool.
        seconds: Length of audio, for what is billed by its duration.
        service_tier: The answer's tier, or None for the standard one.
        speed, inference_geo: As Anthropic names them, or None.
        cost: Dollars that the answer says were billed, or None.
        extra: Fields that the usage has besides, as the provider writes them.
        tool_usage: Of a response, as the provider writes it, or None.
        items: Types of further output items of a response, such as "file_search_call".
    """

    input: int = 100
    output: int = 20
    cached: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    reasoning: int = 0
    cached_audio: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    web_searches: int = 0
    seconds: float = 3.0
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    cost: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    tool_usage: dict[str, Any] | None = None
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Attributes:
        status: HTTP status; 4xx and 5xx answer the provider's error.
        delay_s: Seconds before the first byte.
        chunk_delay_s: Seconds between events of a stream.
        cut_after: Cut the connection after so many events (a JSON answer: in the middle of its
            body).
        error_after: Send the provider's in-stream error after so many events.
        without_usage: Leave the usage out.
        text: What the model says.
        chunks: Number of text deltas in a stream; None is one per word.
        model: Model named in the answer; None is the one asked for.
        tool_call: (name, JSON arguments) of a tool that the answer calls.
        job: Status of a background response or a batch that is asked for.
        tokens: What was used.
    """

    status: int = 200
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    cut_after: int | None = None
    error_after: int | None = None
    without_usage: bool = False
    text: str = "Hello from the fake provider."
    chunks: int | None = None
    model: str | None = None
    tool_call: tuple[str, str] | None = None
    job: str = "completed"
    tokens: Tokens = Tokens()


Jobs = dict[str, dict[str, Any]]
"""Requests that were started and are asked for later, by the id they were given."""


class Asked:
    """A request as the makers of answers see it.

    Attributes:
        url: Address of the server.
        path: As sent, without its query.
        query: As sent, such as "stream=true"; "" where there is none.
        fields: The JSON body, or the fields of a form; empty where there is neither.
        jobs: What was started before.
        answer: How it is to be answered.
    """

    def __init__(
        self, url: str, target: SplitResult, raw: bytes, jobs: Jobs, answer: Answer
    ) -> None:
        self.url = url
        self.path = unquote(target.path)
        self.query = target.query
        self.fields = _fields_of(raw)
        self.jobs = jobs
        self.answer = answer

    @property
    def model(self) -> str:
        """The model that answers."""
        named = re.search(r"/models?/([^/:]+(?::\d+)?)[/:]", self.path)  # as on other clouds
        asked = self.fields.get("model") or (named[1] if named else "fake-model")
        return self.answer.model or str(asked)

    @property
    def id_in_path(self) -> str:
        """The id that the path names."""
        found = re.search(r"/(?:responses|batches)/([^/]+)", self.path)
        return found[1] if found else ""

    def start(self, prefix: str) -> str:
        """Remember the request as one that is asked for later; return the id of its work."""
        job_id = f"{prefix}{next(_numbers)}"
        self.jobs[job_id] = self.fields
        return job_id


_numbers = itertools.count(1)


class Reply(NamedTuple):
    """The bytes of an answer, whole or event by event.

    Attributes:
        body: Bytes, or the events of a stream.
        content_type: As sent.
        error: What is sent as the in-stream error.
    """

    body: bytes | Iterator[bytes]
    content_type: str
    error: bytes = b""


class Maker(Protocol):
    """Makes the answers of one route."""

    def reply(self, asked: Asked) -> Reply:
        """Answer a request that goes well."""


class JsonOrStream:
    """A route that answers a document, or a stream of events where the request asks for it."""

    stream_error = b""

    def reply(self, asked: Asked) -> Reply:
        """Answer a request that goes well."""
        if asked.fields.get("stream"):
            events = self.stream(asked)
            return Reply(events, "text/event-stream; charset=utf-8", self.stream_error)
        return json_reply(self.document(asked))

    def document(self, asked: Asked) -> Any:
        """Return the answer as a whole."""
        raise NotImplementedError

    def stream(self, asked: Asked) -> Iterator[bytes]:
        """Return the answer event by event."""
        yield event(self.document(asked))


class Plain(JsonOrStream):
    """An answer that is the same document always."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def document(self, asked: Asked) -> Any:
        """Return that document."""
        return self._document


def json_reply(document: Any) -> Reply:
    """Return a document as an answer."""
    return Reply(json.dumps(document).encode(), "application/json")


def event(document: Any, name: str | None = None) -> bytes:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    data = document if isinstance(document, str) else json.dumps(document)
    return f"{head}data: {data}\n\n".encode()


def aws_event(kind: str, payload: bytes) -> bytes:
    """Return an event of AWS's binary event stream: prelude, headers and payload, each checked."""
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value
        for name, value in (
            (":event-type", kind.encode()),
            (":content-type", b"application/json"),
            (":message-type", b"event"),
        )
    )
    prelude = struct.pack("!II", 12 + len(headers) + len(payload) + 4, len(headers))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", binascii.crc32(message))


def aws_chunk(data: bytes) -> bytes:
    """Return an event of a model as Bedrock wraps it."""
    wrapped = json.dumps({"bytes": base64.b64encode(data).decode()}).encode()
    return aws_event("chunk", wrapped)


def words_of(answer: Answer) -> list[str]:
    """Return what the model says in pieces."""
    words = [word + " " for word in answer.text.split(" ")]
    if answer.chunks is None:
        return words
    return [words[number % len(words)] for number in range(answer.chunks)]


_FORM_FIELD = re.compile(rb'name="([^"]+)"\r\n\r\n(.*?)\r\n--', re.DOTALL)


def _fields_of(raw: bytes) -> dict[str, Any]:
    """Read a JSON body, or the fields of a form that are no files."""
    try:
        body = json.loads(raw) if raw else {}
    except ValueError:
        found = {name.decode(): value.decode() for name, value in _FORM_FIELD.findall(raw)}
        return {**found, "stream": found.get("stream") == "true"}
    return body if isinstance(body, dict) else {}
