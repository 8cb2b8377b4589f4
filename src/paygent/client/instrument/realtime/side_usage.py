"""Usage beside the responses of a socket: transcriptions, seconds of audio, decisions.

It is booked as it is reported. It has run by then, so no limit refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paygent.client.context.identity import Identity
from paygent.client.instrument.callables.run import UNSEEN
from paygent.client.instrument.openai.answers import read_chat, read_transcription
from paygent.client.instrument.openai.usage import from_seconds
from paygent.client.instrument.realtime.dedup import CountedResponses
from paygent.client.instrument.realtime.session import Destination, Session
from paygent.client.instrument.streams.reader import field
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.usage import Usage, get

_AUDIO_BYTES_PER_S = 48_000  # PCM16, mono, 24 kHz: the only format of a translation
_BASE64 = 4 / 3  # characters for each byte
_TRANSLATED_MS = 10_000  # most audio whose usage is lost if the process is killed


@dataclass(slots=True, eq=False)
class SideUsage:
    """Books the usage beside the responses of one connection; see `Conversation`."""

    _destination: Destination
    _session: Session
    _identity: Identity | None
    counted: CountedResponses  # a Live session names its conversation only once it has started
    _meter: Callable[[], Meter | None]

    def book_transcription(self, event: Any) -> None:
        """Book the usage of a transcription of the user's speech."""
        item_id = get(event, "item_id")
        part_id = f"{item_id}/{get(event, 'content_index')}"
        if item_id is None or self.counted.claim(part_id, self):
            model = self._session.transcribes or self._session.model
            self._book("realtime.transcription", model, read_transcription(event, False))

    def book_seconds(self, event: Any) -> None:
        """Book the seconds of a Live session since the last report."""
        reported = from_seconds(field(event, "usage", "seconds"))
        if reported is not None:
            self.counted.raise_audio_total(reported.audio_ms)
            self.book_audio("exact")

    def book_sent(self, characters: int) -> None:
        """Book audio in base64 that was sent to a translation, once there is enough of it."""
        self.counted.add_audio(int(characters / _BASE64 * 1000 / _AUDIO_BYTES_PER_S))
        self.book_audio("estimated", at_least_ms=_TRANSLATED_MS)

    def book_audio(self, quality: Any, at_least_ms: int = 1) -> None:
        """Book the audio that no connection has booked yet."""
        audio_ms = self.counted.take_audio(at_least_ms)
        if audio_ms:
            usage = Usage(audio_ms=audio_ms, quality=quality)
            self._book(self._destination.route, self._session.model, usage)

    def book_decision(self, decision: Any) -> None:
        """Book a decision that was made for a Live session."""
        usage = read_chat(decision, False)
        self._book("decisions", (usage.model if usage is not None else None) or "", usage)

    def _book(self, route: str, model: str, usage: Usage | None) -> None:
        meter = self._meter()
        if meter is None:
            return
        request = Request(self._destination.provider, route, model, None, generates=False)
        request.identity, request.size, request.has_run = self._identity, UNSEEN, True
        call = meter.begin(request)
        if isinstance(call, Call):  # what has run never waits
            meter.settle(call, usage)
