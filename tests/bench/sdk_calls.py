"""Real SDK calls, answered inside the process by a transport that answers at once.

Bare ones are made through a second copy of an SDK, imported under another name, whose classes
Paygent never patches. Patching and unpatching one class between calls would keep emptying the
interpreter's caches instead.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_COPY = "copy_of_"
_SHARED = {"types", "_models", "_types", "_utils", "_compat", "_constants"}

MESSAGES = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "u" * 200}]
CHAT = {"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 100}
_CHAT_USAGE = {
    "prompt_tokens": 150,
    "completion_tokens": 40,
    "total_tokens": 190,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
_SAID = {"role": "assistant", "content": "hello", "refusal": None}
CHAT_ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": _SAID}],
    "usage": _CHAT_USAGE,
}
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
_WORD = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
_CHUNKS = [
    *({**_CHUNK, "choices": [_WORD], "usage": None} for _ in range(8)),
    {**_CHUNK, "choices": [], "usage": _CHAT_USAGE},
]
_TEXT = {"type": "output_text", "text": "hello", "annotations": []}
_OUTPUT = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
_RESPONSE = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "gpt-4o",
    "tools": [],
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "output": [{**_OUTPUT, "content": [_TEXT]}],
    "usage": {
        "input_tokens": 150,
        "output_tokens": 40,
        "total_tokens": 190,
        "input_tokens_details": {"cached_tokens": 64},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}
_EMBEDDING = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 16}],
    "usage": {"prompt_tokens": 50, "total_tokens": 50},
}
_MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 150, "output_tokens": 40},
}

Call = Callable[..., Any]


class _SharedLoader(Loader):
    """Gives a copy a module of the original."""

    def __init__(self, original: str) -> None:
        self._original = importlib.import_module(original)
        self._spec = self._original.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._original

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import has replaced


class _SharedFinder:
    """Finds the modules that copies share with their originals."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        if not package.startswith(_COPY) or module.partition(".")[0] not in _SHARED:
            return None
        return ModuleSpec(fullname, _SharedLoader(fullname.removeprefix(_COPY)))


def load_copy(package: str) -> ModuleType:
    """Import a package a second time, under another name: its clients, resources and streams.

    Types are shared. Equal but not identical ones would share the entries of `typing`'s caches, and
    one of the copies would pay for comparing them (15 µs for the list of models of a response).
    """
    if _SharedFinder not in sys.meta_path:
        sys.meta_path.insert(0, _SharedFinder)
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    copy_spec = importlib.util.spec_from_file_location(
        _COPY + package, spec.origin, submodule_search_locations=spec.submodule_search_locations
    )
    assert copy_spec is not None
    assert copy_spec.loader is not None
    copy = importlib.util.module_from_spec(copy_spec)
    sys.modules[copy_spec.name] = copy
    copy_spec.loader.exec_module(copy)
    return copy


def http_client(answer: Any, *, is_async: bool = False, is_stream: bool = False) -> Any:
    """Return an HTTP client whose requests are all answered alike, at once."""
    import httpx2

    headers = {"content-type": "application/json"}
    content = json.dumps(answer).encode()
    if is_stream:
        headers = {"content-type": "text/event-stream"}
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in answer]
        content = "".join([*events, "data: [DONE]\n\n"]).encode()

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=content, headers=headers)

    transport = httpx2.MockTransport(respond)
    return (httpx2.AsyncClient if is_async else httpx2.Client)(transport=transport)


def calls_of(openai: ModuleType, anthropic: ModuleType) -> dict[str, Call]:
    """Return a function per kind of call, through one copy of the SDKs."""
    to = {"api_key": "k", "base_url": "http://127.0.0.1:9/v1"}
    chat = openai.OpenAI(**to, http_client=http_client(CHAT_ANSWER)).chat.completions
    async_chat = openai.AsyncOpenAI(**to, http_client=http_client(CHAT_ANSWER, is_async=True))
    streamed = openai.OpenAI(**to, http_client=http_client(_CHUNKS, is_stream=True))
    responses = openai.OpenAI(**to, http_client=http_client(_RESPONSE)).responses
    embeddings = openai.OpenAI(**to, http_client=http_client(_EMBEDDING)).embeddings
    messages = anthropic.Anthropic(**to, http_client=http_client(_MESSAGE)).messages

    def stream() -> None:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        for _ in streamed.chat.completions.create(**CHAT, **options):
            pass

    return {
        "chat": lambda **extra: chat.create(**CHAT, **extra),
        "async": lambda: async_chat.chat.completions.create(**CHAT),
        "stream": stream,
        "responses": lambda: responses.create(
            model="gpt-4o", input="u" * 600, max_output_tokens=100
        ),
        "embeddings": lambda: embeddings.create(
            model="text-embedding-3-small", input="u" * 200, encoding_format="float"
        ),
        "messages": lambda: messages.create(
            model="claude-sonnet-4-5", max_tokens=100, messages=MESSAGES[1:]
        ),
    }
