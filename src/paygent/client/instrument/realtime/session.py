"""What is known of a connection: where it leads, and what the server has accepted of its session.

What the application asks a session for is not read: it may be refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from paygent.client.instrument.streams.reader import field
from paygent.core.usage import get


class Destination(NamedTuple):
    """What a connection's address and opener say of it.

    Attributes:
        provider: Who is called.
        route: "realtime", "responses", "live" or "translations".
        model: As the address names it; "" where the events do.
        is_ours: Whether it is known to be a provider's. At any other place it is taken for one once
            a response is asked for.
        conversation_id: The provider's id of the conversation that it joins, or "".
    """

    provider: str
    route: str
    model: str = ""
    is_ours: bool = True
    conversation_id: str = ""


class Session:
    """What a server says of the session of a connection.

    Attributes:
        model: Which answers.
        transcribes: Which writes down what the user says; "" where none does.
        max_tokens: Most output of a response that says nothing else, or None.
    """

    def __init__(self, model: str) -> None:
        """Know the model that the address names, or ""."""
        self.model = model
        self.transcribes = ""
        self.max_tokens: int | None = None

    def read(self, session: Any) -> None:
        """Read a session, in today's shape or the beta's."""
        model = get(session, "model")
        if isinstance(model, str) and model:
            self.model = model
        for asked in (
            field(session, "audio", "input", "transcription", "model"),
            field(session, "input_audio_transcription", "model"),  # of the beta
        ):
            if isinstance(asked, str) and asked:
                self.transcribes = asked
        for name in ("max_output_tokens", "max_response_output_tokens"):  # the second is the beta's
            most = get(session, name)
            if most is not None:
                self.max_tokens = most if type(most) is int else None  # "inf" is no bound
