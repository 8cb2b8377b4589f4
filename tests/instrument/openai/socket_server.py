"""A server of sockets whose every event a test says, for what the fake provider never does."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
from websockets.sync.server import ServerConnection, serve

USAGE = {"total_tokens": 120, "input_tokens": 100, "output_tokens": 20}
TURN_NANO = 720_000
"""100 tokens of text in, 20 out, by gpt-realtime."""


@contextmanager
def serving(script: Callable[[ServerConnection], None]) -> Iterator[int]:
    """Serve sockets by a script; give the port."""
    quiet = logging.getLogger("tests.socket_server")
    quiet.disabled = True
    # A short queue: what the script does not receive stays on the wire.
    server = serve(script, "127.0.0.1", 0, max_size=None, max_queue=1, logger=quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(30)


def client_of(port: int, kind: str = "OpenAI", path: str = "/v1") -> Any:
    """A client of the SDK that connects there."""
    url = f"127.0.0.1:{port}{path}"
    return getattr(openai, kind)(
        api_key="k", base_url=f"http://{url}", websocket_base_url=f"ws://{url}"
    )


def connect(client: Any) -> Any:
    """A connection manager; the oldest SDK has realtime among its betas."""
    realtime = client.realtime if hasattr(client, "realtime") else client.beta.realtime
    return realtime.connect(model="gpt-realtime")


def say(server: ServerConnection, kind: str, **fields: Any) -> None:
    """Send an event."""
    server.send(json.dumps({"type": kind, **fields}))


def hear(server: ServerConnection) -> Iterator[dict[str, Any]]:
    """Receive events until the other side is gone."""
    for message in server:
        event: dict[str, Any] = json.loads(message)
        yield event


def answer(server: ServerConnection, response_id: str, usage: Any = USAGE) -> None:
    """Answer with a response of the Realtime API."""
    say(server, "response.created", response={"id": response_id})
    done = {"id": response_id, "status": "completed", "output": [], "usage": usage}
    say(server, "response.done", response=done)


def read_to(connection: Any, kind: str) -> list[str]:
    """Read events up to one of a kind; return their kinds."""
    kinds: list[str] = []
    while not kinds or kinds[-1] != kind:
        kinds.append(json.loads(connection.recv_bytes())["type"])
    return kinds
