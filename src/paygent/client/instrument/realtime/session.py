"""A connection's destination, and its session as the server has accepted it.

What the application requests of a session is not read: the server may refuse it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from paygent.client.context.identity import Identity
from paygent.client.instrument.streams.reader import field
from paygent.core.usage import get
from paygent.errors import PaygentLimitExceeded


class Destination(NamedTuple):
    """What a connection's address and opener reveal.

    Attributes:
        provider: The provider that is called.
        route: "realtime", "responses", "live" or "translations".
        model: As the address names it; "" where only the events do.
        is_ours: Whether it is known to lead to a provider. Any other host is taken for one once a
            response is requested.
        conversation_id: The provider's id of the conversation that it joins, or "".
    """

    provider: str
    route: str
    model: str = ""
    is_ours: bool = True
    conversation_id: str = ""


class ConnectionState:
    """The state of a connection that outlives a reconnect by the SDK.

    Attributes:
        identity: Of the context in which it was first opened.
        is_open: Whether it has been open.
        refusal: A refusal that the SDK has swallowed, for the next `send` or `recv`.
    """

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.is_open = False
        self.refusal: PaygentLimitExceeded | None = None

    def raise_refusal(self) -> None:
        """Raise the swallowed refusal, once."""
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal


class Session:
    """The session of a connection, as the server reports it.

    Attributes:
        model: The model that answers.
        transcribes: The model that transcribes the user's speech; "" where none does.
        max_tokens: Upper bound of a response's output where it sets none of its own, or None.
    """

    def __init__(self, model: str) -> None:
        """Start with the model that the address names, or ""."""
        self.model = model
        self.transcribes = ""
        self.max_tokens: int | None = None

    def read(self, session: Any) -> None:
        """Read a session, in today's shape or the beta's."""
        model = get(session, "model")
        if isinstance(model, str) and model:
            self.model = model
        for model in (
            field(session, "audio", "input", "transcription", "model"),
            field(session, "input_audio_transcription", "model"),  # of the beta
        ):
            if isinstance(model, str) and model:
                self.transcribes = model
        for name in ("max_output_tokens", "max_response_output_tokens"):  # the second is the beta's
            max_tokens = get(session, name)
            if max_tokens is not None:  # "inf" is no bound
                self.max_tokens = max_tokens if type(max_tokens) is int else None
