"""The application of one cell: run in a neighbour's venv, it prints a report as a line of JSON.

    python -m tests.peers.app logfire "sdk, peer, paygent"

The second argument is the order of things; without `paygent` in it, it shows what the application
sees and what the neighbour traces when Paygent is not there. It asserts nothing: `test_peers.py`
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.instrument.coverage import SHAPES, Shape
from tests.peers import loopback
from tests.peers.switches import SWITCHES, Peer

from paygent.testing import FakeProvider

NAMES = {
    "openai": (
        "chat.completions.create",
        "chat.completions.create(stream=True)",
        "chat.completions.stream",
        "chat.completions.with_raw_response.create",
        "responses.create",
        "responses.create(stream=True)",
        "embeddings.create",
    ),
    "anthropic": (
        "messages.create",
        "messages.create(stream=True)",
        "messages.stream",
        "messages.with_raw_response.create",
    ),
}
CALLED = tuple(shape for shape in SHAPES if shape.name in NAMES[shape.sdk])
CLIENTS = {"openai": ("OpenAI", "AsyncOpenAI"), "anthropic": ("Anthropic", "AsyncAnthropic")}

Clients = dict[str, tuple[Any, Any]]
"""The sync and the async client of each SDK."""


class Cell:
    """One process: a neighbour, an order, and a fake provider."""

    def __init__(self, peer: Peer, order: str, fake: FakeProvider, folder: str) -> None:
        self.peer = peer
        self.order = order.split(", ")
        self.fake = fake
        self.folder = folder
        self.pg: Any = None
        self.early: Clients = {}
        self.events: list[Any] = []
        self.report: dict[str, Any] = {}

    def switch_on(self) -> None:
        """Import and switch on, in order. Clients that are there before all else are kept."""
        for step in self.order:
            if step == "sdk":
                for sdk in CLIENTS:
                    importlib.import_module(sdk)
                if self.order[0] == "sdk":
                    self.early = self.make_clients()
            elif step == "peer":
                self.peer.switch_on()
                self.hand_over(self.early)
            else:
                self.start_paygent()
        self.report["files"] = [
            str(importlib.import_module(name).__file__) for name in ("paygent", "openai")
        ]
        gc.freeze()  # what has been imported need not be looked through after each round

    def start_paygent(self) -> None:
        """Start Paygent with a plan whose cap is reached from the start."""
        from paygent import Paygent, PlanConfig

        self.pg = Paygent.init(db_path=str(Path(self.folder) / "local.db"))
        self.pg.configure_plan("default", PlanConfig())
        self.pg.configure_plan("none", PlanConfig(max_spend_per_period=0))
        self.pg.assign_plan("capped", "none")
        self.pg.on_usage(self.events.append)

    def make_clients(self) -> Clients:
        """Make a sync and an async client of each SDK."""
        made: Clients = {}
        for sdk, names in CLIENTS.items():
            module = importlib.import_module(sdk)
            url = self.fake.openai_url if sdk == "openai" else self.fake.url
            sync, asynchronous = (
                getattr(module, name)(api_key="k", base_url=url, max_retries=0) for name in names
            )
            made[sdk] = sync, asynchronous
        return made

    def hand_over(self, clients: Clients) -> Clients:
        """Show clients to the neighbour, as an application does with one that wants each."""
        for pair in clients.values():
            for client in pair:
                self.peer.on_client(client)
        return clients

    def each_call(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Give every call by name: of old clients and of new ones, sync and async."""
        for age, clients in (("early", self.early), ("fresh", self.hand_over(self.make_clients()))):
            if not clients:
                continue
            for shape in CALLED:
                sync, asynchronous = clients[shape.sdk]
                name = f"{age} {shape.sdk} {shape.name}"
                yield f"{name}, sync", _sync_call(shape, sync)
                yield f"{name}, async", _async_call(shape, asynchronous)

    def make_round(self, name: str) -> None:
        """Make every call, each for a user of its own; note what was seen and what was booked."""
        seen: dict[str, Any] = {}

        def application() -> None:
            for call_name, call in self.each_call():
                with self.on_behalf_of(call_name):
                    try:
                        seen[call_name] = call()
                    except Exception as error:
                        seen[call_name] = f"{type(error).__name__}: {error}"

        self.events.clear()
        requests = len(self.fake.requests)
        self.peer.around(application)()
        self.report[name] = {
            "seen": seen,
            "booked": self.booked(),
            "requests": len(self.fake.requests) - requests,
            "spans": self.take_spans(),
        }

    def take_spans(self) -> list[str]:
        """Return the names of a round's spans, those of abandoned calls included."""
        gc.collect()
        return self.peer.take()

    def on_behalf_of(self, user: str) -> Any:
        """Return the context of a user; none without Paygent."""
        if self.pg is None:
            return contextlib.nullcontext()
        from paygent import paygent_context

        return paygent_context(user_id=user)

    def booked(self) -> dict[str, list[list[Any]]]:
        """Return the events of a round by user."""
        if self.pg is None:
            return {}
        self.pg.flush()
        found: dict[str, list[list[Any]]] = {}
        for event in self.events:
            booked = [event.input_tokens, event.output_tokens, event.cost_total_nano, event.quality]
            found.setdefault(event.user_id, []).append(booked)
        return found

    def refuse(self) -> None:
        """Make every call for a user at the cap, and note what arrives."""
        from paygent import PaygentLimitExceeded

        arrived: dict[str, str] = {}

        def application() -> None:
            for name, call in self.each_call():
                with self.on_behalf_of("capped"):
                    try:
                        call()
                        arrived[name] = "answered"
                    except Exception as error:
                        is_itself = type(error) is PaygentLimitExceeded
                        arrived[name] = "itself" if is_itself else f"{type(error)}: {error}"

        self.events.clear()
        requests = len(self.fake.requests)
        self.peer.around(application)()
        self.report["refused"] = {
            "arrived": arrived,
            "booked": self.booked(),
            "requests": len(self.fake.requests) - requests,
            "held_nano": self.pg.get_usage("capped").reserved_cost_nano,
        }
        self.take_spans()

    def run(self) -> None:
        """Do all of it."""
        self.switch_on()
        self.make_round("metered")
        if self.pg is None:
            return
        self.refuse()
        self.pg.instrument()
        self.pg.instrument()
        self.make_round("instrumented twice")
        self.pg.uninstrument()
        self.make_round("uninstrumented")
        self.pg.instrument()
        self.make_round("instrumented again")
        self.report["counts"] = self.pg.health()["counts"]
        self.pg.shutdown()
        self.make_round("shut down")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one loop of all async calls, since the clients live through several rounds."""
    return asyncio.new_event_loop()


def _sync_call(shape: Shape, client: Any) -> Callable[[], Any]:
    return lambda: repr(shape.sync(client))


def _async_call(shape: Shape, client: Any) -> Callable[[], Any]:
    async def call() -> str:
        assert shape.asynchronous is not None
        return repr(await shape.asynchronous(client))

    return lambda: _loop().run_until_complete(call())


def main(name: str, order: str) -> None:
    """Run a cell and print its report."""
    loopback.keep()
    with FakeProvider() as fake, tempfile.TemporaryDirectory() as folder:
        cell = Cell(SWITCHES[name](), order, fake, folder)
        cell.run()
        cell.report["strangers"] = loopback.strangers
    print(json.dumps(cell.report))


if __name__ == "__main__":
    main(*sys.argv[1:])
