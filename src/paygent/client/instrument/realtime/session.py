"""A connection's destination, and its session as the server has accepted it.

What the application requests of a session is not read: the server may refuse it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from paygent.client.instrument.streams.reader import field
from paygent.core.usage import get


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
