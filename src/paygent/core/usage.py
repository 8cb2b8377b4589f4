"""The normal form of a call's usage, independent of the provider.

Every count is inclusive: `input_tokens` is all of the input, and cached, written, audio and image
tokens are parts of it; `output_tokens` is all of the output, reasoning included. Each provider's
reader (`client/instrument/*/usage.py`) converts to this form with the tools at the end: they accept
an SDK's object or a plain dict and never raise. A value that is not a count reads as 0 and makes
the usage `partial`.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any, Literal, NamedTuple, get_args

from paygent.core.named_values import values_of
from paygent.core.providers import STANDARD_TIERS

Quality = Literal["exact", "partial", "estimated", "unpriced"]
"""How far a usage or a cost can be trusted, best first.

`exact`: the provider's own count, priced. `partial`: the provider's count of a part, the rest
counted or dropped here. `estimated`: an estimate made here because no usage arrived, or a price
that had to be assumed. `unpriced`: the usage is known, and at least one unit of it has no price.
"""

QUALITIES: tuple[Quality, ...] = get_args(Quality)
"""Best first."""


class Usage(NamedTuple):
    """The usage of one call. Counts are tokens unless their name gives another unit.

    Attributes:
        input_tokens: All input, cached and written parts included.
        output_tokens: All output, reasoning included.
        cached_input_tokens: Input read from the provider's cache.
        cache_write_tokens: Input written to a cache of the short lifetime (5 to 30 minutes).
        cache_write_long_tokens: Input written to a cache of the long lifetime (1 to 12 hours).
        reasoning_tokens: Output spent on thinking.
        audio_input_tokens, audio_output_tokens: Audio parts of input and output.
        image_input_tokens, image_output_tokens: Image parts of input and output.
        web_searches: Requests made by the provider's own search tool.
        file_searches: Requests to the provider's file search.
        characters: Characters of spoken text, where speech is billed by them.
        audio_ms: Milliseconds of audio, where a model is billed by its duration.
        cached_image_tokens, cached_audio_tokens: Image and audio input read from the provider's
            cache; not among `image_input`, `audio_input` and `cached_input`.
        unlisted_units: Billed units that no price list has: sessions of a code interpreter, images
            billed by the piece.
        model: The model named in the answer, or None.
        tier: The provider's price variants, joined by "+": a service tier (`flex`, `priority`),
            `batch`, `fast`, `us`; "" is standard.
        quality: See `Quality`; a reader gives "exact" or "partial".
        tool_calls: Names of the application's tools that the answer calls, in order.
        others: Usage of other models inside the provider for this call (images drawn for a
            response, an advisor's advice); not among the counts above.
        billed_nano: The provider's own bill for the call, or None.
        largest_input_tokens: Where the counts are sums over several requests, an upper bound on the
            input of each of them, which selects their price tier, or 0 if it is not known; -1 means
            one request.
        provider: The provider that answered, as reported by a gateway; it differs from the one
            called after a fallback. "" means the one called.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    web_searches: int = 0
    file_searches: int = 0
    characters: int = 0
    audio_ms: int = 0
    cached_image_tokens: int = 0
    cached_audio_tokens: int = 0
    unlisted_units: int = 0
    model: str | None = None
    tier: str = ""
    quality: Quality = "exact"
    tool_calls: tuple[str, ...] = ()
    others: tuple[Usage, ...] = ()
    billed_nano: int | None = None
    largest_input_tokens: int = -1
    provider: str = ""

    @property
    def counts(self) -> tuple[int, ...]:
        """All counts, in the order above."""
        return _counts_of(self)

    @property
    def total_tokens(self) -> int:
        """Input and output together, the figure that token limits count."""
        return self.input_tokens + self.output_tokens

    @property
    def all_cached_tokens(self) -> int:
        """Input read from the provider's cache, of every kind."""
        return self.cached_input_tokens + self.cached_image_tokens + self.cached_audio_tokens

    @property
    def rare_counts(self) -> dict[str, int] | None:
        """The counts of `RARE_COUNTS` that are not 0, or None where all are."""
        if not self.cache_write_long_tokens and media_of(self) == NO_MEDIA:
            return None  # most calls; comparing once is much faster than reading every name
        return {name: getattr(self, name) for name in RARE_COUNTS if getattr(self, name)}


COUNTS = Usage._fields[: Usage._fields.index("model")]
"""All counts, in the order of `Usage`."""

MEDIA_COUNTS = COUNTS[COUNTS.index("audio_input_tokens") :]
"""Counts beyond text and its cache."""

RARE_COUNTS = ("cache_write_long_tokens", *MEDIA_COUNTS)
"""Counts that an event stores by name (`Event.details`), because most calls have none of them."""

_counts_of = values_of(Usage, COUNTS)

media_of = values_of(Usage, MEDIA_COUNTS)
"""Return the `MEDIA_COUNTS` of a usage."""

NO_MEDIA = (0,) * len(MEDIA_COUNTS)
"""The value of `media_of` for most calls."""


class JobStatus(NamedTuple):
    """The status of provider-side work, with usage that is reported later under an id of its own:
    a background response, a batch.

    Attributes:
        ref: Kind and the provider's id, such as "response:resp_123".
        usages: Its usage, each item priced by itself, once the provider has reported all of it;
            None before.
        model: The model that the provider names, or None.
        tier: As in `Usage`.
    """

    ref: str
    usages: tuple[Usage, ...] | None = None
    model: str | None = None
    tier: str = ""

    @property
    def use_now(self) -> Usage | None:
        """Its usage if it finished at once; None while it continues."""
        if self.usages is None:
            return None
        return self.usages[0] if self.usages else Usage(model=self.model)


_COUNT_MAX = 10**12  # a larger "count of tokens" is a broken answer

Fields = Mapping[str, Any]


def fields_of(value: Any) -> Fields:
    """Return the fields of an SDK's object or of a dict, for reading.

    Reading a missing attribute of a pydantic object costs two slow lookups; its dict does not.
    """
    if isinstance(value, dict):
        return value
    fields: Fields = getattr(value, "__dict__", _NO_FIELDS)
    # Fields that an SDK version does not know yet are kept here by pydantic.
    extra = getattr(value, "__pydantic_extra__", None)
    return {**fields, **extra} if extra else fields


_NO_FIELDS: Fields = {}


def get(value: Any, name: str) -> Any:
    """Read a field of an SDK's object or of a dict; None if it has no such field."""
    return fields_of(value).get(name)


def token_count(value: Any) -> int | None:
    """Return a reported count as an integer: 0 for an absent one, None if it is not a count.

    Whole floats and integers of other libraries (numpy) are counts; booleans, negative and absurdly
    large numbers are not.
    """
    # The common case first: this runs a dozen times for each call.
    if type(value) is int:
        return value if 0 <= value <= _COUNT_MAX else None
    if value is None:
        return 0
    # A boolean is an integer in Python, and here a broken answer.
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        count = index(value)
    except TypeError:
        return None
    return count if 0 <= count <= _COUNT_MAX else None


class CountReader:
    """Reads counts and records whether any of them was invalid.

    Attributes:
        clean: False once a value was not a count, or a part exceeded its whole.
    """

    __slots__ = ("clean",)

    def __init__(self) -> None:
        self.clean = True

    def read(self, fields: Fields, name: str) -> int:
        """Return the count `name`; 0 if it is absent or invalid."""
        count = token_count(fields.get(name))
        if count is None:
            self.clean = False
            return 0
        return count

    def part(self, fields: Fields, name: str, whole: int) -> int:
        """Return the count `name`, which is a part of `whole` and so cannot exceed it."""
        value = fields.get(name)
        if type(value) is int and 0 <= value <= whole:
            return value  # nearly always
        if value is None:
            return 0
        count = self.read(fields, name)
        # The whole is what is billed, so the part is cut down to it.
        if count > whole:
            self.clean = False
            return whole
        return count

    @property
    def quality(self) -> Quality:
        """The quality of a usage made of the counts read so far."""
        return "exact" if self.clean else "partial"


def model_name(value: Any) -> str | None:
    """Return a model's name as reported, or None if it is not a string."""
    return value if isinstance(value, str) else None


def read_tier(tier: Any) -> str:
    """Return the price variant of a service tier; "" for the standard tier and for none."""
    return tier if isinstance(tier, str) and tier not in STANDARD_TIERS else ""
