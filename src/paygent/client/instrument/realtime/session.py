"""A connection's destination, and its session as the server has accepted it.

The session that the application requests is not read: the server may refuse it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from paygent.client.context.identity import Identity
from paygent.client.instrument.streams.reader import field
from paygent.core.usage import get
from paygent.errors import PaygentLimitExceeded


class Destination(NamedTuple):
    """Where a connection leads, according to its address and opener.

    Attributes:
        provider: The provider that is called.
        route: "realtime", "responses", "live" or "translations".
        model: As the address names it; "" where only the events do.
        is_provider: Whether it is known to lead to a provider. Any other host is taken for one once
            a response is requested.
        conversation_id: The provider's id of the conversation that it joins, or "".
    """

    provider: str
    route: str
    model: str = ""
    is_provider: bool = True
    conversation_id: str = ""


@dataclass(eq=False)
class ConnectionState:
    """The state of a connection that outlives a reconnect by the SDK."""

    identity: Identity | None  # of the context in which it was first opened
    was_admitted: bool = False  # whether a check of the limits has let it connect
    refusal: PaygentLimitExceeded | None = None  # one that the SDK swallows: for `send` or `recv`

    def raise_refusal(self) -> None:
        """Raise the swallowed refusal, once."""
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal


@dataclass(slots=True, eq=False)
class Session:
    """The session of a connection, as the server reports it."""

    model: str  # the model that answers; at first the one that the address names, or ""
    transcribes: str = ""  # the model that transcribes the user's speech; "" where none does
    max_tokens: int | None = None  # bound of a response's output where it sets none of its own

    def read(self, session: Any) -> None:
        """Read a session, in today's shape or the beta's."""
        model = get(session, "model")
        if isinstance(model, str) and model:
            self.model = model
        for path in (("audio", "input", "transcription"), ("input_audio_transcription",)):
            model = field(session, *path, "model")  # the second path is the beta's
            if isinstance(model, str) and model:
                self.transcribes = model
        for name in ("max_output_tokens", "max_response_output_tokens"):  # the second is the beta's
            max_tokens = get(session, name)
            if max_tokens is not None:  # "inf" is no bound
                self.max_tokens = max_tokens if type(max_tokens) is int else None
