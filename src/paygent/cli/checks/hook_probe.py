"""Proves that calls of one SDK are metered: `python -m paygent.cli.checks.hook_probe openai`.

A process of its own, so that an SDK that cannot be imported, prints or hangs disturbs nothing. It
makes a call with the real SDK to a fake provider on this machine, with a store in memory, and
prints the result as JSON. No call is made through `websockets`: its connections are only inspected.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from paygent import Paygent, UsageEvent
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider

USER_ID = "paygent-doctor"
_HANDSHAKES = ("websockets.asyncio.client", "websockets.sync.client")


def _call_openai(provider: FakeProvider) -> None:
    openai: Any = importlib.import_module("openai")
    with openai.OpenAI(base_url=provider.openai_url, api_key="probe", max_retries=0) as client:
        client.chat.completions.create(model="gpt-4o", messages=_MESSAGES, paygent_user_id=USER_ID)


def _call_anthropic(provider: FakeProvider) -> None:
    anthropic: Any = importlib.import_module("anthropic")
    with anthropic.Anthropic(base_url=provider.url, api_key="probe", max_retries=0) as client:
        client.messages.create(
            model="claude-sonnet-5", max_tokens=16, messages=_MESSAGES, paygent_user_id=USER_ID
        )


def _call_litellm(provider: FakeProvider) -> None:
    litellm: Any = importlib.import_module("litellm")
    litellm.completion(
        model="openai/gpt-4o",
        api_base=provider.openai_url,
        api_key="probe",
        messages=_MESSAGES,
        paygent_user_id=USER_ID,
    )


_MESSAGES = [{"role": "user", "content": "Say hello."}]
_CALLS: dict[str, Callable[[FakeProvider], None]] = {
    "openai": _call_openai,
    "anthropic": _call_anthropic,
    "litellm": _call_litellm,
}


def main(sdk: str) -> None:
    """Print whether a call was metered, or for websockets, whether its connections are hooked; and
    what was counted meanwhile.
    """
    events: list[UsageEvent] = []
    pg = Paygent.init(db_path=":memory:")
    pg.on_usage(events.append)
    if sdk in _CALLS:
        with FakeProvider() as provider:
            _CALLS[sdk](provider)
        pg.flush()
        is_metered = any(event.user_id == USER_ID and event.total_tokens for event in events)
    else:
        is_metered = all(map(_has_hook, _HANDSHAKES))
    pg.shutdown()
    print(json.dumps({"is_metered": is_metered, "counts": diagnostics.counts}))


def _has_hook(module: str) -> bool:
    connection = importlib.import_module(module).ClientConnection
    return hasattr(connection.handshake, "__wrapped__")


if __name__ == "__main__":
    main(sys.argv[1])
