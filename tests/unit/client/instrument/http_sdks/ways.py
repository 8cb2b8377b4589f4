"""Which way a call takes, the shortcut or the whole one, and what is booked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
from tests.instrument.shapes import MESSAGES

from paygent import UsageEvent
from paygent.client.instrument.http_sdks.shortcut import Shortcut
from paygent.testing import FakeProvider

WHOLE, SHORT = "whole", "short"


class Ways:
    """The ways that calls take, in order.

    Attributes:
        is_closed: Whether all calls are sent the whole way.
    """

    def __init__(self, begin: Callable[..., Shortcut | None]) -> None:
        self._begin = begin
        self.taken: list[str] = []
        self.is_closed = False

    def begin(self, *arguments: Any) -> Shortcut | None:
        """Begin a call by its shortcut, and note whether there was one."""
        found = None if self.is_closed else self._begin(*arguments)
        self.taken.append(WHOLE if found is None else SHORT)
        return found

    def of(self, *calls: Callable[[], object]) -> list[str]:
        """Make calls, and return their ways."""
        before = len(self.taken)
        for call in calls:
            call()
        return self.taken[before:]


def chat(client: openai.OpenAI, **more: Any) -> Any:
    """Make a call whose answer has 100 and 20 tokens: $0.00045."""
    create: Any = client.chat.completions.create
    return create(**{"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 20, **more})


def booked(event: UsageEvent) -> dict[str, Any]:
    """Return what must be the same of two like calls: all but their ids, their times and whether
    they were delivered.
    """
    fields = {name: getattr(event, name) for name in UsageEvent.__dataclass_fields__}
    for name in ("id", "session_id", "timestamp", "latency_ms", "synced"):
        del fields[name]
    return fields


# -- a call of each kind

_CLAUDE: dict[str, Any] = {"model": "claude-sonnet-5", "max_tokens": 20, "messages": MESSAGES}


def _chat(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    chat(client)


def _chat_stream(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    for _ in chat(client, stream=True):
        pass


def _chat_stream_with_usage(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.prompt_tokens > 0


def _chat_stream_left(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    stream = chat(client, stream=True)
    next(iter(stream))
    stream.close()


def _response(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    client.responses.create(model="gpt-4o", input="Say hello.", max_output_tokens=20)


def _response_stream(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    for _ in client.responses.create(model="gpt-4o", input="Say hello.", stream=True):
        pass


def _embedding(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    client.embeddings.create(model="text-embedding-3-small", input="Say hello.")


def _message(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    claude.messages.create(**_CLAUDE)


def _message_stream(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    for _ in claude.messages.create(**_CLAUDE, stream=True):
        pass


def _beta_message(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    claude.beta.messages.create(**_CLAUDE)


KINDS: dict[str, Callable[[openai.OpenAI, anthropic.Anthropic], None]] = {
    "chat": _chat,
    "chat, stream": _chat_stream,
    "chat, stream with its usage": _chat_stream_with_usage,
    "chat, stream that is left": _chat_stream_left,
    "response": _response,
    "response, stream": _response_stream,
    "embedding": _embedding,
    "message": _message,
    "message, stream": _message_stream,
    "beta message": _beta_message,
}
"""A call of each kind that takes the shortcut, by its name."""


def claude_of(fake: FakeProvider) -> anthropic.Anthropic:
    """Return a client of Anthropic's SDK for the fake provider."""
    return anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0)
