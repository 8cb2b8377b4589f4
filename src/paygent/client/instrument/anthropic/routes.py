"""Anthropic's SDK (0.40 to 2.x): its clients, resources and operations.

Routes were read from the resources of anthropic 2.14 and 0.40 (2026-11), those that are not
metered (`operations.py`) also from releases in between.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from paygent.client.instrument.anthropic.answers import (
    BatchResults,
    MessageStream,
    batch_ref,
    expand_batch,
    read_batch,
    read_message,
)
from paygent.client.instrument.anthropic.operations import FREE, UNMETERED
from paygent.client.instrument.anthropic.plain import read_plain_message
from paygent.client.instrument.http_sdks.route import Passing, PassingOperations, Route
from paygent.core.providers import provider_of_client

name = "anthropic"
module = "anthropic"
base_module = "anthropic._base_client"
clients = ("Anthropic", "AsyncAnthropic")
base_clients = ("SyncAPIClient", "AsyncAPIClient")

resources = {
    "anthropic.resources.messages": ("Messages", "AsyncMessages"),  # before 0.41
    "anthropic.resources.messages.messages": ("Messages", "AsyncMessages"),
    "anthropic.resources.beta.messages.messages": ("Messages", "AsyncMessages"),
    "anthropic.resources.messages.batches": ("Batches", "AsyncBatches"),
    "anthropic.resources.beta.messages.batches": ("Batches", "AsyncBatches"),
    "anthropic.resources.beta.prompt_caching.messages": ("Messages", "AsyncMessages"),
    "anthropic.resources.completions": ("Completions", "AsyncCompletions"),
}
"""Classes of the methods that accept `paygent_*` arguments, by the module that defines them; some
versions lack some, or have a module where others have a package.
"""

resource_methods = ("create", "parse", "stream", "tool_runner", "results")

_MESSAGES = Route(
    "messages",
    read_message,
    MessageStream,
    max_tokens_names=("max_tokens",),
    read_plain=read_plain_message,
)
_BATCHES = Route(
    "messages.batches",
    read_batch,
    MessageStream,
    max_tokens_names=("max_tokens",),
    expand_batch=expand_batch,
    forecast_as="messages",
    tier="batch",
)
_COMPLETE = Route(
    "complete", read_message, MessageStream, max_tokens_names=("max_tokens_to_sample",)
)  # text completions of the oldest SDKs, without usage
_RESULTS = re.compile(r"/messages/batches/([^/]+)/results$")
_ROUTES = (("/messages", _MESSAGES), ("/messages/batches", _BATCHES), ("/complete", _COMPLETE))


def _results(batch_id: str) -> Route:
    reader = partial(BatchResults, ref=batch_ref(batch_id))
    return Route("messages.batches.results", read_batch, reader, reports_job_usage=True)


METERED = {f"POST {path}": metered for path, metered in _ROUTES} | {
    "GET /messages/batches/{}/results": _results("{}")
}
"""The metered operations, with "{}" for a segment that varies."""

_PASSING = PassingOperations(FREE, UNMETERED, re.compile(r"/v1(?=/)"))


def route(method: str, path: str) -> Route | Passing:
    """Return the route of a metered operation, or the class of another one."""
    if method == "POST":
        # By the ending, since a base URL may add a prefix.
        for ending, metered in _ROUTES:
            if path.endswith(ending):
                return metered
    results = _RESULTS.search(path) if method == "GET" else None
    return _results(results[1]) if results is not None else _PASSING.find(method, path)


def provider(client: Any) -> str:
    """Return the provider of a client, known by its class."""
    # Hosts say nothing here: Bedrock and Vertex clients have regional ones.
    by_class = provider_of_client(type(client).__name__)
    return by_class.name if by_class is not None else name


def honours_stream_usage(client: Any) -> bool:
    """Return False: these streams report their usage unasked."""
    return False
