"""The fake provider: what a test scripts is what it answers."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import pytest
import websockets.exceptions
import websockets.sync.client

from paygent.testing import Answer, FakeProvider, Tokens

SCHEMA = {"type": "json_schema", "schema": {}}
REQUESTS = [
    ("/v1/messages", {"output_config": {"format": SCHEMA}}),
    ("/v1/messages", {"output_format": SCHEMA}),
    ("/v1/chat/completions", {"response_format": SCHEMA}),
    ("/v1/responses", {"text": {"format": SCHEMA}}),
]


def ask(fake: FakeProvider, path: str, **fields: Any) -> str:
    """Return the bytes of an answer as text."""
    return httpx2.post(fake.url + path, json={"model": "m", **fields}).text


def text_in(document: Any) -> str:
    """Return the text of a whole answer."""
    if "choices" in document:
        return str(document["choices"][0]["message"]["content"])
    blocks = document["content"] if "content" in document else document["output"][0]["content"]
    return str(blocks[0]["text"])


def text_streamed(body: str) -> str:
    """Return the text of a stream of events."""
    text = ""
    for line in body.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            delta = event["choices"][0]["delta"] if event.get("choices") else event.get("delta", "")
            if isinstance(delta, dict):
                delta = delta.get("content") or delta.get("text") or ""
            text += delta
    return text.removesuffix(" ")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("path", "fields"), REQUESTS)
@pytest.mark.parametrize(
    ("scripted", "expected"),
    [('{"answer": "no doubt"}', '{"answer": "no doubt"}'), ("plain words", '{"answer": "yes"}')],
)
def test_fake__a_request_with_a_schema__is_answered_with_json(
    fake: FakeProvider, path: str, fields: Any, is_stream: bool, scripted: str, expected: str
) -> None:
    """The scripted JSON where there is any, whole and streamed, for both SDKs."""
    fake.default = Answer(text=scripted)
    answer = ask(fake, path, stream=is_stream, **fields)
    assert (text_streamed(answer) if is_stream else text_in(json.loads(answer))) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (Tokens(output=20, image_output=15), {"text_tokens": 5, "image_tokens": 15}),
        (Tokens(output=20), None),
    ],
)
def test_fake__image_output__divides_the_output_of_images(
    fake: FakeProvider, tokens: Tokens, expected: Any
) -> None:
    """Older models do not divide it."""
    fake.default = Answer(tokens=tokens)
    usage = json.loads(ask(fake, "/v1/images/generations"))["usage"]
    assert usage.get("output_tokens_details") == expected


def test_fake__stopped_before_it_was_started__closes_its_port() -> None:
    """A fixture may stop what a failed test did not start."""
    fake = FakeProvider()
    stopping = threading.Thread(target=fake.stop, daemon=True)
    stopping.start()
    stopping.join(30)
    assert not stopping.is_alive()


def test_fake__stopped__answers_no_client_that_is_still_connected() -> None:
    """Neither on a connection that was kept alive, nor a request that it is still working on."""
    fake = FakeProvider().start()
    fake.script(Answer(), Answer(delay_s=5))
    with httpx2.Client() as client, ThreadPoolExecutor(1) as pool:
        request = partial(client.post, fake.openai_url + "/embeddings", json={"input": "Hello."})
        assert request().status_code == 200
        working = pool.submit(request)
        while len(fake.requests) < 2:
            time.sleep(0.001)
        fake.stop()
        for unanswered in (working.result, request):
            with pytest.raises(httpx2.TransportError):
                unanswered()
    assert len(fake.requests) == 2


def test_fake__stopped_with_an_open_socket__ends_it(fake: FakeProvider) -> None:
    """A WebSocket is a connection like any other."""
    url = fake.openai_url.replace("http", "ws") + "/realtime?model=m"
    with websockets.sync.client.connect(url) as client:
        assert "session.created" in str(client.recv(timeout=30))
        fake.stop()
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            client.recv(timeout=30)


def test_socket__events_during_a_pause__are_answered_after_it(fake: FakeProvider) -> None:
    """They neither end the pause nor are lost; only a cancel ends it."""
    fake.script(Answer(chunk_delay_s=0.5), Answer(chunk_delay_s=60))
    url = fake.openai_url.replace("http", "ws") + "/realtime?model=m"
    with websockets.sync.client.connect(url) as socket:
        for kind in ("response.create", "session.update", "response.create"):
            socket.send(json.dumps({"type": kind}))
        seen: list[Any] = []
        while seen[-1:] != ["response.created"] or len(seen) < 3:
            seen.append(json.loads(socket.recv(timeout=30))["type"])
        socket.send(json.dumps({"type": "response.cancel"}))
        cancelled = json.loads(socket.recv(timeout=30))
    assert [kind for kind in seen if "delta" not in kind] == [
        "session.created", "response.created", "response.done", "session.updated",
        "response.created",
    ]  # fmt: skip
    assert cancelled["response"]["status"] == "cancelled"
