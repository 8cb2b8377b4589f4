"""OpenAI's SDK (1.60 to 3.x): its clients, resources and operations.

Routes were read from the resources of openai 3.57 and 1.60 (2026-11), those that are not metered
(`operations.py`) also from releases in between.
"""

from __future__ import annotations

import os
import re
from typing import Any

from paygent.client.instrument.http_sdks.route import (
    Passing,
    PassingOperations,
    Route,
    paths_below,
)
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
from paygent.client.instrument.openai.operations import FREE, UNMETERED
from paygent.client.instrument.openai.plain import read_plain_chat, read_plain_response
from paygent.client.instrument.openai.usage import usage_of_audio, usage_of_speech
from paygent.core.providers import provider_at, provider_of_client

name = "openai"
module = "openai"
base_module = "openai._base_client"
clients = ("OpenAI", "AsyncOpenAI")
base_clients = ("SyncAPIClient", "AsyncAPIClient")

resources = {
    "openai.resources.chat.completions": ("Completions", "AsyncCompletions"),  # older versions
    "openai.resources.chat.completions.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.beta.chat.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.responses.responses": ("Responses", "AsyncResponses"),
    "openai.resources.embeddings": ("Embeddings", "AsyncEmbeddings"),
    "openai.resources.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.images": ("Images", "AsyncImages"),
    "openai.resources.audio.speech": ("Speech", "AsyncSpeech"),
    "openai.resources.audio.transcriptions": ("Transcriptions", "AsyncTranscriptions"),
    "openai.resources.audio.translations": ("Translations", "AsyncTranslations"),
    "openai.resources.batches": ("Batches", "AsyncBatches"),
    "openai.resources.decisions": ("Decisions", "AsyncDecisions"),
    "openai.resources.beta.responses.responses": ("Responses", "AsyncResponses"),
}
"""Classes of the methods that accept `paygent_*` arguments, by the module that defines them; some
versions lack some, or have a module where others have a package.
"""

resource_methods = (
    "create", "parse", "stream", "retrieve", "compact", "generate", "edit", "create_variation",
)  # fmt: skip

STREAM_USAGE_HOSTS_VARIABLE = "PAYGENT_STREAM_USAGE_HOSTS"

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - compared, not bound

# -- routes

_CHAT_BOUNDS = ("max_completion_tokens", "max_tokens")

_ROUTES = {
    "/chat/completions": Route(
        "chat.completions",
        read_chat,
        ChatStream,
        max_tokens_names=_CHAT_BOUNDS,
        asks_for_usage=True,
        read_plain=read_plain_chat,
    ),
    "/completions": Route(
        "completions", read_chat, ChatStream, max_tokens_names=("max_tokens",), asks_for_usage=True
    ),
    "/responses": Route(
        "responses",
        read_response,
        ResponseStream,
        max_tokens_names=("max_output_tokens",),
        read_plain=read_plain_response,
    ),
    "/responses/compact": Route("responses.compact", read_response, ResponseStream),
    "/embeddings": Route(
        "embeddings", read_chat, ChatStream, generates=False, read_plain=read_plain_chat
    ),
    "/images/generations": Route("images.generate", read_images, FinalEvents),
    "/images/edits": Route("images.edit", read_images, FinalEvents),
    "/images/variations": Route("images.variations", read_images, FinalEvents),
    "/audio/speech": Route(
        "audio.speech", read_speech, FinalEvents, declared_usage=usage_of_speech
    ),
    "/audio/transcriptions": Route(
        "audio.transcriptions", read_transcription, FinalEvents, declared_usage=usage_of_audio
    ),
    "/audio/translations": Route(
        "audio.translations", read_transcription, FinalEvents, declared_usage=usage_of_audio
    ),
    "/batches": Route("batches", read_batch, FinalEvents, generates=False),
    "/decisions": Route("decisions", read_chat, ChatStream),
}

_JOBS = (
    # Not the list of all responses or batches: it would report each of them again.
    (
        ("GET /responses/{}", "POST /responses/{}/cancel"),
        re.compile(r"/responses/[^/]+(/cancel)?$"),
        Route("responses.retrieve", read_response, ResponseStream, reports_job_usage=True),
    ),
    (
        ("GET /batches/{}", "POST /batches/{}/cancel"),
        re.compile(r"/batches/[^/]+(/cancel)?$"),
        Route("batches.retrieve", read_batch, FinalEvents, reports_job_usage=True),
    ),
)
"""Operations that report the usage of work started earlier, and how their paths end."""

METERED = {f"POST {path}": metered for path, metered in _ROUTES.items()} | {
    operation: job for operations, _, job in _JOBS for operation in operations
}
"""The metered operations, with "{}" for a segment that varies."""

_PREFIX = re.compile(r"/(?:v1|openai|deployments/[^/]+)(?=/)")  # the last two are Azure's
_PASSING = PassingOperations(FREE, UNMETERED, _PREFIX)


def route(method: str, path: str) -> Route | Passing:
    """Return the route of a metered operation, or the class of another one."""
    if method == "POST":
        for below in paths_below(_PREFIX, path):
            exact = _ROUTES.get(below)
            if exact is not None:
                return exact
        for ending, metered in _ROUTES.items():  # behind a prefix of any kind
            if ending != "/completions" and path.endswith(ending):
                return metered
    if method == "GET" or path.endswith("/cancel"):
        for _, pattern, job in _JOBS:
            if pattern.search(path):
                return job
    return _PASSING.find(method, path)


# -- the provider


def provider(client: Any) -> str:
    """Return the provider of a client, known by its class and host, not by the path."""
    # The class first: a proxy in front of Azure has a host of its own.
    by_class = provider_of_client(type(client).__name__)
    return by_class.name if by_class is not None else provider_name_at(_host(client))


def provider_name_at(host: str) -> str:
    """Return the provider at a host; "openai" for an unknown host, since it has OpenAI's API."""
    known = provider_at(host)
    return known.name if known is not None else name


def honours_stream_usage(client: Any) -> bool:
    """Return whether a client's host is known to honour `include_usage`.

    Other hosts may reject the option, so it is not sent to them unless `PAYGENT_STREAM_USAGE_HOSTS`
    (host names, separated by commas) names them.
    """
    host = _host(client)
    known = provider_of_client(type(client).__name__) or provider_at(host)
    # Local servers (gateways, test doubles) accept the option.
    if host in _LOOPBACK or (known is not None and known.reports_stream_usage):
        return True
    hosts = os.environ.get(STREAM_USAGE_HOSTS_VARIABLE, "")
    return bool(host) and host in {item.strip().lower() for item in hosts.split(",")}


def _host(client: Any) -> str:
    return str(getattr(getattr(client, "base_url", None), "host", "") or "").lower()
