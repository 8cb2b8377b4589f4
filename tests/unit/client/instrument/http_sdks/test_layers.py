"""Layers of wrappers around one call: which of them are inactive, and until when."""

from __future__ import annotations

import contextvars
import gc
import threading
import weakref
from typing import Any

import openai
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.requests import Init

from paygent import paygent_context
from paygent.client.instrument.http_sdks.layers import Gateway, current_gateway
from paygent.testing import FakeProvider


def test_gateway__in_a_context_that_outlives_it__is_over(init: Init, fake: FakeProvider) -> None:
    """Work that a gateway's function has started may outlive it: its calls are metered."""
    metered = Metered(init())
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def call() -> bool:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            return current_gateway() is not None

        with paygent_context("u1"), Gateway():
            inside = contextvars.copy_context()
            assert inside.copy().run(call)
            assert metered.events == []
        assert not inside.run(call)
    assert metered.only.user_id == "u1"


def test_open_request__in_a_thread_that_outlives_it__keeps_no_client_and_prompt(
    init: Init, fake: FakeProvider
) -> None:
    """The context of a thread that a request has started, such as one that refreshes tokens."""

    class Messages(list[Any]):
        """A prompt that can be referred to weakly."""

    go_on = threading.Event()
    threads: list[threading.Thread] = []

    class Starting(openai.OpenAI):
        def _prepare_options(self, options: Any) -> Any:
            threads.append(threading.Thread(target=go_on.wait))
            threads[0].start()
            return options

    def call() -> list[weakref.ref[Any]]:
        messages: Any = Messages(MESSAGES)
        with Starting(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
            client.chat.completions.create(model="gpt-4o", messages=messages)
            return [weakref.ref(client), weakref.ref(messages)]

    init()
    references = call()
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    go_on.set()
    threads[0].join()
