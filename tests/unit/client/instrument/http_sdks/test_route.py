"""Operations: which are metered, which are free, and who is called."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.instrument.requests import Client

from paygent.client.instrument.anthropic import routes as anthropic_names
from paygent.client.instrument.http_sdks.route import Passing, plain_path, route_name
from paygent.client.instrument.openai import routes as openai_names

FREE, UNMETERED, UNKNOWN = Passing.FREE, Passing.UNMETERED, Passing.UNKNOWN


class AzureOpenAI(Client):
    """A client whose class tells who is called."""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/chat/completions", "/chat/completions"),
        ("chat/completions/", "/chat/completions"),
        ("/v1/messages?beta=true", "/messages"),
        ("https://api.openai.com/v1/responses", "/responses"),
        ("https://api.openai.com", "/"),
        ("https://x.example/openai/deployments/d/chat/completions",
         "/openai/deployments/d/chat/completions"),
        ("", "/"),
    ],
)  # fmt: skip
def test_plain_path__of_any_address__is_below_the_apis_root(url: str, expected: str) -> None:
    """Host, version and query are left out."""
    assert plain_path(url) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/images/generations", "POST /images/generations"),
        ("/threads/thread_abc123/runs", "POST /threads/{id}/runs"),
        ("/batches/batch_0123456789abcdef", "POST /batches/{id}"),
        ("/responses/resp_68af4030592c81938ec0a5fbab4a3e9f/cancel", "POST /responses/{id}/cancel"),
        ("/fine_tuning/jobs", "POST /fine_tuning/jobs"),
        ("/vector_stores", "POST /vector_stores"),
        ("/vector_stores/vs_abc123/file_batches", "POST /vector_stores/{id}/file_batches"),
    ],
)
def test_route_name__of_a_path__leaves_out_ids_and_nothing_else(path: str, expected: str) -> None:
    """A warning names the operation, once per operation and not once per id."""
    assert route_name("POST", path) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/openai/deployments/d/chat/completions", "chat.completions"),
        ("POST", "/chat/completions", "chat.completions"),
        ("POST", "/completions", "completions"),
        ("POST", "/api/v3/embeddings", "embeddings"),
        ("POST", "/moderations", FREE),
        ("POST", "/responses/input_tokens", FREE),
        ("POST", "/images/generations", "images.generate"),
        ("POST", "/audio/speech", "audio.speech"),
        ("POST", "/responses/compact", "responses.compact"),
        ("POST", "/videos", UNMETERED),
        ("POST", "/fine_tuning/jobs", UNMETERED),
        ("POST", "/vector_stores", FREE),
        ("POST", "/vector_stores/v/files", FREE),
        ("POST", "/vector_stores/v/search", UNMETERED),
        ("POST", "/threads/t/messages", FREE),
        ("POST", "/threads/t/runs", UNMETERED),
        ("POST", "/threads/runs", UNMETERED),
        ("POST", "/chat/completions/chatcmpl-1", FREE),
        ("GET", "/models", FREE),
        ("GET", "/responses/resp_1", "responses.retrieve"),
        ("GET", "/responses/resp_1/input_items", FREE),
        ("POST", "/responses/resp_1/cancel", "responses.retrieve"),
        ("GET", "/batches", FREE),
        ("POST", "/batches", "batches"),
        ("GET", "/batches/batch_1", "batches.retrieve"),
        ("GET", "/openai/batches/batch_1", "batches.retrieve"),
        ("GET", "/vector_stores/v/file_batches/b", FREE),
        ("POST", "/fine_tuning/jobs/j/cancel", FREE),
        ("DELETE", "/files/f", FREE),
        ("HEAD", "/x", FREE),
        ("PUT", "/x", UNKNOWN),
        ("POST", "/new", UNKNOWN),
        ("POST", "/new/x/cancel", UNKNOWN),
        ("POST", "/gateway/openai/v1/files", FREE),
        ("POST", "/openai/files", FREE),
        ("POST", "/deployments/d/moderations", FREE),
        ("POST", "/openai/deployments/d/moderations", FREE),
        ("POST", "/openai/v1/videos", UNMETERED),
        ("POST", "/openai/v1/threads/runs", UNMETERED),
        ("POST", "/vector_stores/v1/search", UNMETERED),
        ("POST", "/openai/deployments/d/completions", "completions"),
        ("POST", "/v1/new/files", UNKNOWN),
        ("POST", "/gateway/files", UNKNOWN),
        ("POST", "/openai/v1", UNKNOWN),
    ],
)
def test_openai_route__each_operation__is_metered_or_classified(
    method: str, path: str, expected: Any
) -> None:
    """A path of a deployment or a proxy is still its operation."""
    found = openai_names.route(method, path)
    assert (found if isinstance(found, Passing) else found.name) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/messages", "messages"),
        ("POST", "/projects/p/locations/l/messages", "messages"),
        ("POST", "/messages/count_tokens", FREE),
        ("POST", "/messages/batches", "messages.batches"),
        ("POST", "/messages/batches/b/cancel", FREE),
        ("POST", "/complete", "complete"),
        ("POST", "/sessions", UNMETERED),
        ("GET", "/models", FREE),
        ("GET", "/messages/batches/b", FREE),
        ("GET", "/messages/batches/b/results", "messages.batches.results"),
        ("GET", "/gateway/v1/messages/batches/b/results", "messages.batches.results"),
        ("DELETE", "/files/f", FREE),
        ("PATCH", "/x", UNKNOWN),
        ("POST", "/new", UNKNOWN),
        ("POST", "/gateway/v1/files", FREE),
        ("POST", "/gateway/v1/sessions", UNMETERED),
        ("POST", "/gateway/v1/deployments/d/archive", FREE),
        ("POST", "/deployments/d/files", UNKNOWN),
    ],
)
def test_anthropic_route__each_operation__is_metered_or_classified(
    method: str, path: str, expected: Any
) -> None:
    """Batches are metered where they are started and where their results are read."""
    found = anthropic_names.route(method, path)
    assert (found if isinstance(found, Passing) else found.name) == expected


@pytest.mark.parametrize(
    ("name", "provider"),
    [("Anthropic", "anthropic"), ("AsyncAnthropicBedrock", "aws"), ("AnthropicVertex", "google"),
     ("AnthropicFoundry", "azure")],
)  # fmt: skip
def test_anthropic_provider__is_told_by_the_class(name: str, provider: str) -> None:
    """Bedrock, Vertex and Foundry have price lists of their own."""
    assert anthropic_names.provider(type(name, (), {})()) == provider
    assert anthropic_names.honours_stream_usage(object()) is False


@pytest.mark.parametrize(
    ("client", "provider", "asks"),
    [
        (Client(), "openai", True),
        (Client("https://API.groq.com/x"), "groq", True),
        (Client("https://api.deepseek.com/x"), "deepseek", False),
        (Client("https://my.openai.azure.com/x"), "azure", True),
        (Client("https://llm.example.com/x"), "openai", False),
        (Client("http://127.0.0.1:1/x"), "openai", True),
        (AzureOpenAI("https://gateway.example.com/x"), "azure", True),
    ],
)
def test_openai_provider__is_told_by_class_and_host(client: Any, provider: str, asks: bool) -> None:
    """Usage of a stream is asked for only where the host is known to honour that."""
    assert openai_names.provider(client) == provider
    assert openai_names.honours_stream_usage(client) is asks
