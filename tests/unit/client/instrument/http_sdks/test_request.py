"""Requests, read as the SDK is about to send them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.client.instrument.requests import Client, Init, options_of, prepared

from paygent.client.instrument.http_sdks.request import CARRIER_HEADER, Carrier, Prepared, prepare
from paygent.client.instrument.http_sdks.wrapper import carry
from paygent.client.instrument.openai import routes as openai_names
from paygent.client.instrument.patching.patches import Switch


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "n": 1}, 10),
        ({"max_tokens": 10, "n": True}, 10),
        ({"max_tokens": 10, "n": "3"}, 10),
        ({"max_tokens": 0}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "10", "max_completion_tokens": None}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_prepare__max_tokens__is_what_all_answers_may_take_together(
    body: Any, expected: int | None
) -> None:
    """`n` answers may each take as much."""
    assert prepared(body).request.max_tokens == expected


def test_prepare__a_request__is_read_as_it_is_sent() -> None:
    """Model, body with the extra fields, provider and route; odd models are none."""
    found = prepared({"model": "gpt-4o", "a": 1}, extra_json={"model": "gpt-4o-mini", "b": 2})
    request = found.request
    assert (request.model, request.provider, request.route) == (
        "gpt-4o-mini",
        "openai",
        "chat.completions",
    )
    assert request.body == {"model": "gpt-4o-mini", "a": 1, "b": 2}
    assert prepared({"model": 5}).request.model == ""
    assert prepared(url="/embeddings").request.generates is False


@pytest.mark.parametrize(
    ("url", "headers", "stream", "expected"),
    [
        ("/chat/completions", None, True, True),
        ("/chat/completions", None, False, False),
        ("/responses", None, True, False),
        ("/chat/completions", {"X-Stainless-Raw-Response": "stream"}, True, False),
    ],
)
def test_prepare__usage_of_a_stream__is_asked_for_where_it_is_not_told(
    url: str, headers: Any, stream: bool, expected: bool
) -> None:
    """Only parsed chat streams, and only where we can take the chunk out again."""
    found = prepared({}, url, headers=headers, kwargs={"stream": stream})
    assert found.asks_for_usage is expected


def test_prepare__a_client_whose_address_changes__is_looked_at_again() -> None:
    """Who is called is remembered per address, not per client."""
    client = Client()
    assert prepared({}, client=client).request.provider == "openai"
    client.base_url = SimpleNamespace(host="api.groq.com")
    assert prepared({}, client=client).request.provider == "groq"


def test_prepare__a_client_that_calls_again__has_its_host_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parsing a host and the environment would cost microseconds of each call."""
    read: list[Any] = []

    def answer(client: Any) -> str:
        read.append(client)
        return "openai"

    for name in ("provider", "honours_stream_usage"):
        monkeypatch.setattr(openai_names, name, answer)
    client = Client()
    for _ in range(3):
        prepared({}, client=client, kwargs={"stream": True})
    assert read == [client, client]


def test_prepare__the_carried_arguments__are_taken_out_of_the_headers(init: Init) -> None:
    """Nothing of ours is sent; the app's headers stay."""
    init(auto_instrument=False)
    given = {"paygent_user_id": "u", "extra_headers": {"x-app": "1"}, "model": "m"}
    kwargs = carry(given, Switch(True))
    assert sorted(kwargs) == ["extra_headers", "model"]
    assert str(kwargs["extra_headers"][CARRIER_HEADER]) == ""
    options = options_of(body={}, headers=kwargs["extra_headers"])
    unmetered: Any = None  # not used for a metered operation
    found = prepare(openai_names, Client(), options, {}, unmetered)
    assert isinstance(found, Prepared)
    assert found.request.identity is not None
    assert (found.request.identity.user_id, options.headers) == ("u", {"x-app": "1"})


def test_carrier__shown_anywhere__tells_nothing() -> None:
    """Were it ever sent or logged, it is empty text."""
    assert (str(Carrier("")), bytes(Carrier(""), "ascii")) == ("", b"")
