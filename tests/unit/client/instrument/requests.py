"""Clients and requests of provider SDKs, as far as the funnel looks at them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from paygent import Paygent
from paygent.client.instrument.http_sdks.request import Prepared, prepare
from paygent.client.instrument.openai import routes as openai_names

Init = Callable[..., Paygent]


class Client:
    """A provider SDK's client, as far as the funnel looks at it."""

    def __init__(self, url: str = "https://api.openai.com/v1/") -> None:
        host = url.split("/")[2].partition(":")[0]
        self.base_url = SimpleNamespace(host=host)


def options_of(
    url: str = "/chat/completions", body: Any = None, headers: Any = None, **more: Any
) -> Any:
    """A request as an SDK hands it to its funnel."""
    return SimpleNamespace(
        method=more.pop("method", "post"), url=url, json_data=body, headers=headers, **more
    )


def prepared(
    body: Any = None, url: str = "/chat/completions", client: Any = None, **more: Any
) -> Prepared:
    """A metered request, read."""
    kwargs = more.pop("kwargs", {})
    unmetered: Any = None  # not used for a metered operation
    options = options_of(url, body, **more)
    found = prepare(openai_names, client or Client(), options, kwargs, unmetered)
    assert isinstance(found, Prepared)
    return found
