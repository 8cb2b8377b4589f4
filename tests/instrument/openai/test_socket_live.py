"""Live sessions and translations on the real SDK: gated with the audio, booked by the second.

gpt-live-1 costs 3 dollars an hour, gpt-realtime-translate 2.04 (OpenAI's price list, 2026-11).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.instrument.openai.socket_server import client_of, hear, say, serving
from tests.instrument.shapes import Metered
from websockets.sync.server import ServerConnection

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context

Init = Callable[..., Paygent]

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager")
# OpenAI's SDK opens its sync connections in a way that newer versions of websockets warn of.


def _has_live() -> bool:
    try:
        importlib.import_module("openai.resources.live.live")
        importlib.import_module("openai.resources.realtime.translations.translations")
    except ImportError:
        return False
    return True


HAS_LIVE = _has_live()


def test_sdk__of_today__has_live_sessions() -> None:
    """Only the oldest supported SDK lacks them."""
    assert HAS_LIVE or openai.__version__.startswith("1.60.")


def live(server: ServerConnection) -> None:
    """Report twelve more seconds with each piece of audio."""
    seconds = 0
    for event in hear(server):
        if event["type"] == "session.start":
            session = {"id": f"sess_{id(server)}", "model": event["session"]["model"]}
            say(server, "session.started", session=session)
        elif event["type"] == "session.input_audio.append":
            seconds += 12
            say(server, "session.usage.updated", usage={"seconds": seconds})


if HAS_LIVE:

    def test_live__seconds__are_booked_and_refused_beyond_the_cap(init: Init) -> None:
        """Each update books what has been added; audio is refused once the cap is reached."""
        pg = init()
        pg.configure_plan("p", PlanConfig(max_spend_per_period=0.015))
        pg.assign_plan("u1", "p")
        metered = Metered(pg)
        with serving(live) as port, paygent_context("u1"):
            client = client_of(port)
            with client.live.connect() as connection:
                connection.send({"type": "session.start", "session": {"model": "gpt-live-1"}})
                connection.recv_bytes()
                for _ in range(2):
                    connection.send({"type": "session.input_audio.append", "audio": "AAAA"})
                    connection.recv_bytes()
                with pytest.raises(PaygentLimitExceeded):
                    connection.send({"type": "session.input_audio.append", "audio": "AAAA"})
            with pytest.raises(PaygentLimitExceeded):
                client.live.connect().enter()
        assert [event.cost_total_nano for event in metered.events] == [10_000_000] * 2
        assert {(each.model, each.quality) for each in metered.events} == {("gpt-live-1", "exact")}

    async def test_translation__audio_that_is_sent__is_booked_when_it_ends(init: Init) -> None:
        """By its length, since the provider reports nothing."""
        pg = init()
        metered = Metered(pg)

        def listens(server: ServerConnection) -> None:
            for event in hear(server):
                say(server, "heard", of=event["type"])

        with serving(listens) as port, paygent_context("u1"):
            client: Any = client_of(port, "AsyncOpenAI")
            manager = client.realtime.translations.connect(model="gpt-realtime-translate")
            async with manager as connection:
                audio = "A" * 64_000  # a second
                await connection.send({"type": "session.input_audio_buffer.append", "audio": audio})
                await connection.recv_bytes()
        events = await asyncio.to_thread(lambda: metered.events)
        assert [(each.model, each.quality) for each in events] == [
            ("gpt-realtime-translate", "estimated")
        ]
        assert round(events[0].cost_total_nano / 1000) == 567
