"""Operations: which are metered, which are free, and who is called."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.instrument.requests import Client

from paygent.client.instrument.anthropic import routes as anthropic_names
from paygent.client.instrument.http_sdks.route import plain_path, route_name
from paygent.client.instrument.openai import routes as openai_names


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
        ("POST", "/moderations", True),
        ("POST", "/responses/input_tokens", True),
        ("POST", "/images/generations", "images.generate"),
        ("POST", "/audio/speech", "audio.speech"),
        ("POST", "/responses/compact", "responses.compact"),
        ("POST", "/videos", False),
        ("POST", "/fine_tuning/jobs", False),
        ("POST", "/vector_stores", True),
        ("POST", "/vector_stores/v/files", True),
        ("POST", "/vector_stores/v/search", False),
        ("POST", "/threads/t/messages", True),
        ("POST", "/threads/t/runs", False),
        ("POST", "/threads/runs", False),
        ("POST", "/chat/completions/chatcmpl-1", True),
        ("GET", "/models", True),
        ("GET", "/responses/resp_1", "responses.retrieve"),
        ("GET", "/responses/resp_1/input_items", True),
        ("POST", "/responses/resp_1/cancel", "responses.retrieve"),
        ("GET", "/batches", True),
        ("POST", "/batches", "batches"),
        ("GET", "/batches/batch_1", "batches.retrieve"),
        ("GET", "/openai/batches/batch_1", "batches.retrieve"),
        ("GET", "/vector_stores/v/file_batches/b", True),
        ("POST", "/fine_tuning/jobs/j/cancel", True),
        ("DELETE", "/files/f", True),
        ("HEAD", "/x", True),
        ("PUT", "/x", False),
    ],
)
def test_openai_route__each_operation__is_metered_free_or_unknown(
    method: str, path: str, expected: Any
) -> None:
    """A path of a deployment or a proxy is still its operation."""
    found = openai_names.route(method, path)
    assert (found if isinstance(found, bool) else found.name) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/messages", "messages"),
        ("POST", "/projects/p/locations/l/messages", "messages"),
        ("POST", "/messages/count_tokens", True),
        ("POST", "/messages/batches", "messages.batches"),
        ("POST", "/messages/batches/b/cancel", True),
        ("POST", "/complete", "complete"),
        ("POST", "/sessions", False),
        ("GET", "/models", True),
        ("GET", "/messages/batches/b", True),
        ("GET", "/messages/batches/b/results", "messages.batches.results"),
        ("GET", "/gateway/v1/messages/batches/b/results", "messages.batches.results"),
        ("DELETE", "/files/f", True),
        ("PATCH", "/x", False),
    ],
)
def test_anthropic_route__each_operation__is_metered_free_or_unknown(
    method: str, path: str, expected: Any
) -> None:
    """Batches are metered where they are started and where their results are read."""
    found = anthropic_names.route(method, path)
    assert (found if isinstance(found, bool) else found.name) == expected


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
