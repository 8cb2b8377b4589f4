"""Background jobs: work that a provider does after its answer (background responses, batches), with
usage that it reports when the application retrieves the job.

The call that starts a job is booked as estimated, under an id derived from the provider's job id,
so any process that retrieves the job knows which event its usage corrects. The correction has a
derived id too, so retrieving a job again, here or elsewhere, books nothing twice. A process that
started the job books the difference; any other sends the whole, and the store, which has the
original, computes the difference (`Event.restates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    """What to book for a job that has ended, for one of its models."""

    user: User  # who pays
    event: Event  # the correction
    rates: Rates | None  # the price list that it was priced with, or None


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
                event_id=ids.id_of_key(self._product, "", f"use:{number}:{status.ref}"),
                user_id=user.user_id,
                session_id=original.session_id,
                at_us=original.at_us,
                model=share.model or status.model or original.model,
                model_key=share.model_key or original.model_key,
                provider=provider,
                plan=original.plan,
                period_start_us=original.period_start_us,
                **share.counts,
                cost_tokens_nano=share.cost_nano,
                cost_tools_nano=0,
                quality=share.quality,
                price_id=share.price_id,
                blocked=original.blocked,
                gate_reason=original.gate_reason,
                metadata=original.metadata,
                details=share.details,
                corrects=original_id,
                restates=known is None and not number,
            )
            correction = whole if number else difference(whole, original)
            yield Finished(user, correction, share.rates)


class _Share(NamedTuple):
    """What one model used for a job; fields as in `Priced`, counts by their field of `Event`."""

    model: str
    model_key: str
    counts: dict[str, Any]
    cost_nano: int
    quality: Quality
    price_id: str
    rates: Rates | None
    details: dict[str, int] | None

    @classmethod
    def of(cls, usage: Usage, priced: Priced) -> _Share:
        """Return the share of one usage."""
        counts = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_input_tokens": usage.all_cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_long_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        }
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
        return self._replace(
            counts={name: count + other.counts[name] for name, count in self.counts.items()},
            cost_nano=self.cost_nano + other.cost_nano,
            quality=max(self.quality, other.quality, key=QUALITIES.index),
            details=dict(details) or None,
        )


_NO_COUNTS: dict[str, Any] = dict.fromkeys(
    (
        "input_tokens",
        "output_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
    ),
    0,
)
_NO_SHARE = _Share("", "", _NO_COUNTS, 0, "exact", "", None, None)  # it failed, or never began


def _unknown(event_id: str, user: User, identity: Identity, at_us: int) -> Event:
    """Return a zero event in place of the first one of a job that this process did not start."""
    return Event(
        event_id=event_id,
        user_id=user.user_id,
        session_id=identity.session_id or user.session_id,
        at_us=at_us,
        model="",
        model_key="",
        provider="",
        plan=user.plan_name,
        period_start_us=user.period.start_us,
        **_NO_COUNTS,
        cost_tokens_nano=0,
        cost_tools_nano=0,
        metadata=identity.metadata,
    )
