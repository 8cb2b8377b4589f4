"""How many Python calls Paygent makes for one metered call of an SDK.

After an SDK's own work every cache of the processor is cold, so the number of different functions
is what a call costs, and unlike a time it is the same on every machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Any

import openai
import pytest
from tests.conftest import Closing
from tests.instrument.shapes import MESSAGES
from tests.unit.client.instrument.http_sdks.ways import KINDS, chat, claude_of

from paygent import Limit, Paygent, PlanConfig, paygent_context
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

MOST = 11
"""Python calls for one metered call."""

OF_CONTEXT = 5
"""Besides: to enter a context and to leave it."""

OF_ARGUMENTS = 4
"""Besides: to hand a call's own arguments to the wrapper of `request`."""

OF_WARNING = 1
"""Besides: to count a call without a user."""

OF_TASK = 4
"""Besides: to find the current task, and to resume the coroutine."""

COUNTED = 9
"""Calls that are made; the least counts, so that what is done now and then is left out."""

PLAN = PlanConfig(
    max_spend_per_period=1_000_000,
    max_spend_per_session=1_000_000,
    model_limits={"gpt-4o": {"max_tokens_per_period": 10**12}},
    limits=(Limit("calls", cap=10**9), Limit("spend", window="day", cap=10**6)),
    cost_rates={"gpt-4o": {"input": 0.0025, "output": 0.01}},
)
"""Limits of every kind, all of them far away."""


def start(init: Init) -> None:
    """Start a Paygent whose users have limits that are far away."""
    init().configure_plan("default", PLAN)


class Profile:
    """Notes Paygent's Python calls on this thread, in a block."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __enter__(self) -> list[str]:
        sys.setprofile(self._note)
        return self.calls

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        # By module: generated code, as of dataclasses, has no file.
        module = str(frame.f_globals.get("__name__", ""))
        if event == "call" and module.split(".")[0] == "paygent":
            self.calls.append(f"{module}.{frame.f_code.co_name}")


def calls_of(make_call: Callable[[], object]) -> list[str]:
    """Return Paygent's Python calls for one call like those before it."""
    found = []
    for _ in range(COUNTED):
        with Profile() as calls:
            make_call()
        found.append(calls)
    return min(found[2:], key=len)  # the first ones make lanes and shortcuts


def check(calls: list[str], most: int = MOST) -> None:
    """Check a number of calls; each is listed where there are too many."""
    numbered = [f"{number:>3} {call}" for number, call in enumerate(calls, 1)]
    assert len(calls) <= most, "\n".join([f"{len(calls)} calls, wanted {most}:", *numbered])
    assert any(call.endswith("shortcut.begin") for call in calls), "\n".join(numbered)


def test_chat__inside_a_context__makes_few_python_calls(init: Init, client: openai.OpenAI) -> None:
    """So many, from `create` to its answer, whatever the limits of the plan."""
    start(init)
    with paygent_context("u1"):
        check(calls_of(lambda: chat(client)))


def test_chat__however_the_user_is_named__makes_few_python_calls(
    init: Init, client: openai.OpenAI
) -> None:
    """Outside any context, in one of its own, by an argument."""
    start(init)

    def in_own_context() -> None:
        with paygent_context("u1"):
            chat(client)

    def check_each() -> None:
        check(calls_of(lambda: chat(client)), MOST + OF_WARNING)
        check(calls_of(in_own_context), MOST + OF_CONTEXT)
        check(calls_of(lambda: chat(client, paygent_user_id="u1")), MOST + OF_ARGUMENTS)

    # In an empty context: a test before this one may have left a scope in this thread's.
    Context().run(check_each)


@pytest.mark.parametrize(
    ("kind", "besides"),
    [
        ("response", 0),
        ("embedding", 1),  # the import hook: the SDK looks for numpy in each of these calls
        ("message", 0),
        ("beta message", 0),
    ],
)
def test_call__of_another_operation__makes_few_python_calls(
    kind: str,
    besides: int,
    init: Init,
    client: openai.OpenAI,
    fake: FakeProvider,
    closing: Closing,
) -> None:
    """Not chat alone."""
    start(init)
    claude = closing(claude_of(fake))
    with paygent_context("u1"):
        check(calls_of(lambda: KINDS[kind](client, claude)), MOST + besides)


async def test_chat__async__makes_few_python_calls(init: Init, fake: FakeProvider) -> None:
    """The provider's answer resumes the coroutine."""
    start(init)
    found = []
    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as client:
        create: Any = client.chat.completions.create
        with paygent_context("u1"):
            for _ in range(COUNTED):
                with Profile() as calls:
                    await create(model="gpt-4o", messages=MESSAGES)
                found.append(calls)
                await asyncio.sleep(0)
    check(min(found[2:], key=len), MOST + OF_TASK)
