"""How the fake provider answers: usage, text, errors and delays; and what all routes share."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


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
        audio_output: Part of the output.
        image_output: Part of the output of image operations; 0 leaves it undivided, as older models
            do.
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


@dataclass
class FakeRequest:
    """A request, as the routes see it.

    Attributes:
        url: Address of the server.
        path: Without its query.
        query: As sent, such as "stream=true"; "" where there is none.
        fields: The JSON body, or the fields of a form; empty where there is neither.
        jobs: Background work started earlier.
        answer: How to answer.
    """

    url: str
    path: str
    query: str
    fields: dict[str, Any]
    jobs: Jobs
    answer: Answer

    @property
    def id_in_path(self) -> str:
        """The id in the path, or ""."""
        match = re.search(r"/(?:responses|batches)/([^/]+)", self.path)
        return match[1] if match else ""

    @property
    def order(self) -> dict[str, Any]:
        """The fields of the request that started the work that this one retrieves, or its own."""
        return self.jobs.get(self.id_in_path, self.fields)

    @property
    def model(self) -> str:
        """The model to name in the answer."""
        # Bedrock and Vertex name the model in the path, not in the body.
        in_path = re.search(r"/models?/([^/:]+(?::\d+)?)[/:]", self.path)
        requested = self.order.get("model") or (in_path[1] if in_path else "fake-model")
        return self.answer.model or str(requested)

    @property
    def wants_stream(self) -> bool:
        """Whether the answer is to be a stream of events."""
        is_speech = self.fields.get("stream_format") == "sse"  # the parameter of speech
        return bool(self.fields.get("stream")) or is_speech or "stream=true" in self.query

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

    body: bytes | Iterable[bytes]
    content_type: str
    error: bytes = b""


class Route(NamedTuple):
    """The successful answers to one kind of request.

    Attributes:
        method, path: Of the request; `path` is a pattern of its end.
        document: Returns the whole answer: a document, or a `Reply` that is not JSON.
        events: Returns the events of a stream; None where the route has no stream.
        error: The in-stream error.
    """

    method: str
    path: str
    document: Callable[[FakeRequest], Any]
    events: Callable[[FakeRequest], Iterable[Any]] | None = None
    error: Any = ""

    def matches(self, method: str, path: str) -> bool:
        """Return whether this route answers a request."""
        return method == self.method and re.search(self.path + "$", path) is not None

    def reply(self, request: FakeRequest) -> Reply:
        """Return the answer to a request."""
        if self.events is not None and request.wants_stream:
            events = map(event, self.events(request))
            return Reply(events, "text/event-stream; charset=utf-8", event(self.error))
        document = self.document(request)
        if isinstance(document, Reply):
            return document
        return Reply(json.dumps(document).encode(), "application/json")


def event(document: Any) -> bytes:
    """Return a server-sent event, named after its type if it has one."""
    if isinstance(document, str):  # "[DONE]"
        return f"data: {document}\n\n".encode()
    head = f"event: {document['type']}\n" if "type" in document else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


def aws_chunk(document: Any) -> bytes:
    """Return an event in Bedrock's envelope: prelude, headers, payload and checksums."""
    data = base64.b64encode(json.dumps(document).encode()).decode()
    payload = json.dumps({"bytes": data}).encode()
    headers = b""
    fixed = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    for name, value in fixed.items():  # 7 is the type of a text
        headers += struct.pack("!B", len(name)) + name.encode()
        headers += struct.pack("!BH", 7, len(value)) + value.encode()
    # The lengths include every checksum, each of which covers all bytes before it.
    prelude = struct.pack("!II", 12 + len(headers) + len(payload) + 4, len(headers))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", binascii.crc32(message))


_NO_FIELDS: Mapping[str, Any] = {}


def text_of(answer: Answer, fields: Mapping[str, Any] = _NO_FIELDS) -> str:
    """Return the model's text for a request with these fields; where they have a schema and the
    scripted text is no JSON, it is JSON that fits the schemas of Paygent's own tests.
    """
    if _has_schema(fields) and not answer.text.lstrip().startswith("{"):
        return '{"answer": "yes"}'
    return answer.text


def _has_schema(fields: Mapping[str, Any]) -> bool:
    # Of chat, of Anthropic's older versions, of responses, and of Anthropic.
    formats = [fields.get(name) for name in ("response_format", "output_format")]
    parts = [fields.get(name) for name in ("text", "output_config")]
    formats += [part.get("format") for part in parts if isinstance(part, dict)]
    return any(isinstance(each, dict) and each.get("type") == "json_schema" for each in formats)


def words_of(answer: Answer, fields: Mapping[str, Any] = _NO_FIELDS) -> list[str]:
    """Return the model's text as the deltas of a stream; see `text_of`."""
    words = [word + " " for word in text_of(answer, fields).split(" ")]
    if answer.chunks is None:
        return words
    # Repeated as often as needed: tests of long streams ask for thousands of deltas.
    return [words[number % len(words)] for number in range(answer.chunks)]


def totals(tokens: Tokens) -> dict[str, Any]:
    """Return the counts that most usages of OpenAI begin with."""
    total = tokens.input + tokens.output
    return {"input_tokens": tokens.input, "output_tokens": tokens.output, "total_tokens": total}


_FORM_FIELD = re.compile(rb'name="([^"]+)"\r\n\r\n(.*?)\r\n--', re.DOTALL)


def form_fields(raw: bytes) -> dict[str, Any]:
    """Return the fields of a multipart form other than files, as uploads of audio and images."""
    form = {name.decode(): value.decode() for name, value in _FORM_FIELD.findall(raw)}
    return {**form, "stream": form.get("stream") == "true"}  # a form has only strings
