"""How the fake provider answers: usage, text, errors and delays; and what all routes share."""

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
    """The usage that an answer reports, as inclusive totals; Anthropic's answers subtract the parts
    that its API excludes.

    Attributes:
        input, output: Totals.
        cached, cache_write, cache_write_long: Parts of the input.
        reasoning: Part of the output.
        cached_audio: Part of `cached`; Realtime API only.
        audio_input, image_input: Parts of the input.
        audio_output, image_output: Parts of the output.
        web_searches: Number of requests to the provider's search tool.
        seconds: Length of audio, for operations billed by duration.
        service_tier: The tier named in the answer, or None for the standard one.
        speed, inference_geo: Anthropic's fields of these names, or None.
        cost: Billed dollars that the answer reports, or None.
        extra: Further fields of the usage, in the provider's format.
        tool_usage: `tool_usage` of a response, in the provider's format, or None.
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
        status: HTTP status; 4xx and 5xx return an error in the provider's format.
        delay_s: Seconds before the first byte.
        chunk_delay_s: Seconds between events of a stream.
        cut_after: Cut the connection after this many events (a JSON answer: in the middle of its
            body).
        error_after: Send the provider's in-stream error after this many events.
        without_usage: Omit the usage.
        text: The model's text.
        chunks: Number of text deltas in a stream; None sends one per word.
        model: Model named in the answer; None names the requested one.
        tool_call: (name, JSON arguments) of a tool that the answer calls.
        job: Status of a background response or batch when it is retrieved.
        tokens: The reported usage.
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
"""Bodies of the requests that started background work, by its id."""


class FakeRequest:
    """A request, as the responders see it.

    Attributes:
        url: Address of the server.
        path: As sent, without its query.
        query: As sent, such as "stream=true"; "" where there is none.
        fields: The JSON body, or the fields of a form; empty where there is neither.
        jobs: Background work started earlier.
        answer: How to answer.
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
        """The model to name in the answer."""
        # Bedrock and Vertex name the model in the path, not in the body.
        in_path = re.search(r"/models?/([^/:]+(?::\d+)?)[/:]", self.path)
        requested = self.fields.get("model") or (in_path[1] if in_path else "fake-model")
        return self.answer.model or str(requested)

    @property
    def id_in_path(self) -> str:
        """The id in the path, or ""."""
        match = re.search(r"/(?:responses|batches)/([^/]+)", self.path)
        return match[1] if match else ""

    def start(self, prefix: str) -> str:
        """Record the request as background work that is retrieved later; return its id."""
        job_id = f"{prefix}{next(_numbers)}"
        self.jobs[job_id] = self.fields
        return job_id


_numbers = itertools.count(1)  # of all fakes, so that no two jobs share an id


class Reply(NamedTuple):
    """The bytes of an answer, whole or event by event.

    Attributes:
        body: Bytes, or the events of a stream.
        content_type: Value of the header.
        error: The in-stream error event.
    """

    body: bytes | Iterator[bytes]
    content_type: str
    error: bytes = b""


class Responder(Protocol):
    """Answers the requests of one route."""

    def reply(self, request: FakeRequest) -> Reply:
        """Return the successful answer to a request."""


class JsonOrStream:
    """A route that answers with a document, or with a stream of events on request."""

    stream_error = b""

    def reply(self, request: FakeRequest) -> Reply:
        """Return the successful answer to a request."""
        if request.fields.get("stream"):
            events = self.stream(request)
            return Reply(events, "text/event-stream; charset=utf-8", self.stream_error)
        return json_reply(self.document(request))

    def document(self, request: FakeRequest) -> Any:
        """Return the whole answer."""
        raise NotImplementedError

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        """Yield the events of the answer."""
        yield event(self.document(request))


class FixedDocument(JsonOrStream):
    """A route that always answers with the same document."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def document(self, request: FakeRequest) -> Any:
        """Return the fixed document."""
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
    """Return an event of AWS's binary event stream: prelude, headers, payload and checksums."""
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value
        for name, value in (
            (":event-type", kind.encode()),
            (":content-type", b"application/json"),
            (":message-type", b"event"),
        )
    )
    # The lengths include every checksum, each of which covers all bytes before it.
    prelude = struct.pack("!II", 12 + len(headers) + len(payload) + 4, len(headers))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", binascii.crc32(message))


def aws_chunk(data: bytes) -> bytes:
    """Return a model's event in Bedrock's envelope."""
    wrapped = json.dumps({"bytes": base64.b64encode(data).decode()}).encode()
    return aws_event("chunk", wrapped)


def words_of(answer: Answer) -> list[str]:
    """Return the model's text as the deltas of a stream."""
    words = [word + " " for word in answer.text.split(" ")]
    if answer.chunks is None:
        return words
    # Repeated as often as needed: tests of long streams ask for thousands of deltas.
    return [words[number % len(words)] for number in range(answer.chunks)]


_FORM_FIELD = re.compile(rb'name="([^"]+)"\r\n\r\n(.*?)\r\n--', re.DOTALL)


def _fields_of(raw: bytes) -> dict[str, Any]:
    """Read a JSON body, or the fields of a form other than files."""
    try:
        body = json.loads(raw) if raw else {}
    except ValueError:  # a multipart form, as uploads of audio and images are
        form = {name.decode(): value.decode() for name, value in _FORM_FIELD.findall(raw)}
        return {**form, "stream": form.get("stream") == "true"}  # a form has only strings
    return body if isinstance(body, dict) else {}  # valid JSON, but no request
