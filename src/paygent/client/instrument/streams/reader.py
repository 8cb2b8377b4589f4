"""What the readers of all SDKs' streams share: the protocol, and the usage of a partial stream.

Reading has no effects: a reader keeps the usage and a count of text bytes, and nothing else, so
memory does not grow with the length of a stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from paygent.core.estimate import Estimate
from paygent.core.request_size import BYTES_PER_TOKEN, utf8_length
from paygent.core.usage import Fields, JobStatus, Usage, get

NO_FIELDS: Fields = {}
"""The fields of an object without a `__dict__`."""


class StreamReader(Protocol):
    """Reads the chunks of one stream of one route; each stream has a reader of its own.

    `feed` runs for every chunk, so a reader looks for the usual one first, straight in its
    `__dict__`: pydantic keeps no declared field among the extra ones, which need a further look.
    """

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk, an SDK object or a dict; true for one that only Paygent requested, which
        is withheld from the application.
        """

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return the usage as far as it was seen; None when nothing was."""


class EndAwareReader(ABC):
    """A `StreamReader` that distinguishes the stream's own end from a break."""

    __slots__ = ()

    @abstractmethod
    def end(self, *, has_gaps: bool = False) -> None:
        """Record the stream's own end; `has_gaps` if a part of it could not be read."""


class LineReader(EndAwareReader):
    """An `EndAwareReader` of the lines of a file of JSON lines, rather than of events."""

    __slots__ = ()


def counted(
    known: Usage | None,
    text_bytes: int,
    estimate: Estimate,
    *,
    is_seen: bool = False,
) -> Usage | None:
    """Return the usage of a stream that ended before its final usage arrived, from what was
    received: text, or with `is_seen` anything.

    Args:
        known: The usage that the provider has reported so far, or None.
        estimate: That the call holds; its input counts where the provider reported none.
    """
    if known is None and not text_bytes and not is_seen:
        return None
    output_tokens = -(-text_bytes // BYTES_PER_TOKEN)  # rounded up: some text is some token
    if known is None:
        return Usage(estimate.input_tokens, output_tokens, quality="estimated")
    output_tokens = max(output_tokens, known.output_tokens)
    # The input is certain once the provider has reported it; the output never is.
    return known._replace(output_tokens=output_tokens, quality="partial")


def text_bytes(value: Any) -> int:
    """Return the UTF-8 length of a piece of text; 0 for anything else."""
    return utf8_length(value) if isinstance(value, str) else 0


def field(value: Any, *names: str) -> Any:
    """Read a nested field of SDK objects or dicts; None where one is missing."""
    for name in names:
        value = get(value, name)
        if value is None:
            return None
    return value
