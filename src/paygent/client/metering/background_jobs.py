"""Background jobs: work that a provider does after its answer (background responses, batches), and
whose usage it reports when the application retrieves the job.

The call that starts a job is booked as estimated, under an id derived from the provider's job id,
so any process that retrieves the job knows which event its usage corrects. The correction has a
derived id too, so retrieving a job again, here or elsewhere, books nothing twice. A process that
started the job books the difference; any other sends the whole, and the store, which has the
original, computes the difference (`Event.restates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from paygent.client.accounts.user_state import User
from paygent.client.context.identity import Identity
from paygent.client.runtime import ids
from paygent.core.bounded_dict import BoundedDict
from paygent.core.event import Event, difference
from paygent.core.pricing import Rates
from paygent.core.usage import QUALITIES, JobStatus, Quality, Usage
from paygent.prices.catalogue import Catalogue
from paygent.prices.usage_cost import Priced, PriceQuery, price

_STARTED_MAX = 10_000  # jobs in progress that this process remembers; the ledger has them all
_BOOKED_MAX = 10_000  # finished jobs that it remembers; the ledger counts an id once anyway


class Finished(NamedTuple):
    """What to book for a job that has ended, for one of its models.

    Attributes:
        user: Who pays.
        event: The correction.
        rates: The price list that it was priced with, or None.
    """

    user: User
    event: Event
    rates: Rates | None


class BackgroundJobs:
    """The jobs that this process has started, and those that it has booked. Thread-safe: each
    change is one step of a dict.
    """

    def __init__(self, product: str, catalogue: Catalogue) -> None:
        """Start with none.

        Args:
            product: Namespace of the derived ids.
            catalogue: Prices of their usage.
        """
        self._product = product
        self._catalogue = catalogue
        self._started: BoundedDict[str, tuple[User, Event]] = BoundedDict(_STARTED_MAX)
        self._booked: BoundedDict[str, None] = BoundedDict(_BOOKED_MAX)

    def event_id(self, ref: str) -> str:
        """Return the id of the event that a job starts with."""
        return ids.id_of_key(self._product, "", f"job:{ref}")

    def start(self, job: JobStatus, user: User, event: Event) -> None:
        """Remember the event that a job started with."""
        if job.usages is not None:
            self.note_booked(job)  # it was over at once
            return
        self._started[event.event_id] = (user, event)

    def is_news(self, status: JobStatus) -> bool:
        """Return whether a job has ended and this process has not booked its usage."""
        return status.usages is not None and status.ref not in self._booked

    def note_booked(self, status: JobStatus) -> None:
        """Note that the usage of a job is booked; its first event is not needed any more."""
        self._booked[status.ref] = None
        self._started.pop(self.event_id(status.ref), None)

    def finish(
        self, status: JobStatus, provider: str, asker: User, identity: Identity, at_us: int
    ) -> Iterator[Finished]:
        """Return the corrections to book for a job that has ended, one for each of its models.

        Args:
            status: The provider's status of the job.
            provider: The provider.
            asker, identity: The user who retrieves it; an unknown job is booked on them.
            at_us: Now.
        """
        original_id = self.event_id(status.ref)
        known = self._started.get(original_id)
        user, original = known or (asker, _unknown(original_id, asker, identity, at_us))
        query = PriceQuery(provider, "", user.plan, original.at_us)
        shares: dict[str, _Share] = {}
        for usage in status.usages or ():
            share = _Share.of(usage, price(self._catalogue, query, usage))
            shares[share.model_key] = share.plus(shares.get(share.model_key))
        for number, share in enumerate(shares.values() or (_NO_SHARE,)):
            whole = Event(
                ids.id_of_key(self._product, "", f"use:{number}:{status.ref}"),
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
    """What one model used for a job; fields as in `Priced`, counts in the order of `Event`."""

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
        """Return the sum of two usages of one model; its quality is the worse of the two."""
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
    """Return a zero event in place of the first one of a job that this process did not start."""
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
