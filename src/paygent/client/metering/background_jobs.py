"""Jobs: what providers do after their answer (responses in the background, batches), whose use they
tell when somebody asks for it.

The call that starts a job is booked as estimated, under an id made of the provider's own, so that
any process that hears of the job's use knows which event it corrects. The use itself has such an id
too: whoever asks again, or at the same time elsewhere, books it no second time. A process that has
started a job itself books the difference; any other brings the whole, and the store, which has the
original, takes the difference (`Event.restates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from paygent.client.accounts.user_state import User
from paygent.client.context.identity import Identity
from paygent.client.runtime import ids
from paygent.core.event import Event, difference
from paygent.core.pricing import Rates
from paygent.core.usage import QUALITIES, JobStatus, Quality, Usage
from paygent.prices.catalogue import Catalogue
from paygent.prices.usage_cost import Priced, PriceQuery, price

_REMEMBERED_MAX = 10_000  # jobs of this process under way; the ledger knows all of them
_BOOKED_MAX = 10_000  # uses that this process has booked; the ledger counts an id once


class Finished(NamedTuple):
    """What is booked of a job that has ended, for one of its models.

    Attributes:
        user: On whom.
        event: The correction.
        rates: The price list that it was priced with, or None.
    """

    user: User
    event: Event
    rates: Rates | None


class BackgroundJobs:
    """The jobs that this process has started, and those whose use it has booked. Plain dicts, whose
    single steps are safe between threads.
    """

    def __init__(self, product: str, catalogue: Catalogue) -> None:
        """Know of none.

        Args:
            product: Under which ids are kept apart.
            catalogue: Prices of what they use.
        """
        self._product = product
        self._catalogue = catalogue
        self._started: dict[str, tuple[User, Event]] = {}
        self._booked: dict[str, None] = {}

    def event_id(self, ref: str) -> str:
        """Return the id of the event that a job is started with."""
        return ids.id_of_key(self._product, "", f"job:{ref}")

    def start(self, job: JobStatus, user: User, event: Event) -> None:
        """Remember how a job was booked at first."""
        if job.usages is not None:
            self.note_booked(job)  # it was over at once
            return
        self._started[event.event_id] = (user, event)
        if len(self._started) > _REMEMBERED_MAX:
            self._started.pop(next(iter(self._started)), None)

    def is_news(self, found: JobStatus) -> bool:
        """Tell whether a job has ended, and this process has not booked its use."""
        return found.usages is not None and found.ref not in self._booked

    def note_booked(self, found: JobStatus) -> None:
        """Note that the use of a job is booked; how it was booked at first is not needed any
        more.
        """
        self._booked[found.ref] = None
        self._started.pop(self.event_id(found.ref), None)
        if len(self._booked) > _BOOKED_MAX:
            self._booked.pop(next(iter(self._booked)), None)

    def finish(
        self, found: JobStatus, provider: str, asker: User, identity: Identity, at_us: int
    ) -> Iterator[Finished]:
        """Return what is to be booked of a job that has ended.

        Args:
            found: What the provider says of it.
            provider: Who says so.
            asker, identity: Who asks; theirs is a job that nobody knows.
            at_us: Now.
        """
        original_id = self.event_id(found.ref)
        known = self._started.get(original_id)
        user, original = known or (asker, _unknown(original_id, asker, identity, at_us))
        asked = PriceQuery(provider, "", user.plan, original.at_us)
        shares: dict[str, _Share] = {}
        for usage in found.usages or ():
            share = _Share.of(usage, price(self._catalogue, asked, usage))
            shares[share.model_key] = share.plus(shares.get(share.model_key))
        for number, share in enumerate(shares.values() or (_NO_SHARE,)):
            whole = Event(
                ids.id_of_key(self._product, "", f"use:{number}:{found.ref}"),
                user.user_id,
                original.session_id,
                original.at_us,
                share.model,
                share.model_key or original.model_key,
                provider,
                original.plan,
                original.period_start_us,
                *share.counts,
                share.cost_nano,
                0,
                share.quality,
                "auto",
                share.price_id,
                metadata=original.metadata,
                details=share.details,
                corrects=original_id,
                restates=known is None and not number,
            )
            correction = whole if number else difference(whole, original)
            yield Finished(user, correction, share.rates)


_Counts = tuple[int, int, int, int, int]


class _Share(NamedTuple):
    """What one model did for a job; fields as in `Priced`, and counts in the order of `Event`."""

    model: str
    model_key: str
    counts: _Counts
    cost_nano: int
    quality: Quality
    price_id: str
    rates: Rates | None
    details: dict[str, int] | None

    @classmethod
    def of(cls, usage: Usage, priced: Priced) -> _Share:
        """Return the share of one usage."""
        counts = (
            usage.input_tokens,
            usage.output_tokens,
            usage.all_cached_tokens,
            usage.cache_write_tokens + usage.cache_write_long_tokens,
            usage.reasoning_tokens,
        )
        return cls(
            priced.model,
            priced.model_key,
            counts,
            priced.cost_nano,
            priced.quality,
            priced.price_id,
            priced.rates,
            priced.details,
        )

    def plus(self, other: _Share | None) -> _Share:
        """Return what two usages of one model make together, worth what the worse one is."""
        if other is None:
            return self
        details = Counter(self.details or {})
        details.update(other.details or {})
        a, b = self.counts, other.counts
        return self._replace(
            counts=(a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4]),
            cost_nano=self.cost_nano + other.cost_nano,
            quality=max(self.quality, other.quality, key=QUALITIES.index),
            details=dict(details) or None,
        )


_NO_SHARE = _Share("", "", (0, 0, 0, 0, 0), 0, "exact", "", None, None)  # it failed, or never began


def _unknown(event_id: str, user: User, identity: Identity, at_us: int) -> Event:
    """Return what stands for the first booking of a job that this process did not start: all
    zero, in the name of whoever asks.
    """
    return Event(
        event_id,
        user.user_id,
        identity.session_id or user.session_id,
        at_us,
        "",
        "",
        "",
        user.plan_name,
        user.period.start_us,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        metadata=identity.metadata,
    )
