"""Events by hand: what costs and is no call that the funnel sees. Never refused, since the money is
spent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from paygent import ids
from paygent.context import Identity
from paygent.core.errors import Findings
from paygent.core.event import Event
from paygent.core.money import COST_NANO_MAX, format_usd
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Rates, cost_nano, prices_for, tokens_cost_nano
from paygent.core.usage import Quality, Usage
from paygent.failopen import failures
from paygent.ledger.accounts import Accounts, User
from paygent.meter import Meter
from paygent.models import UsageEvent, usage_event
from paygent.prices.catalogue import DEAREST, Catalogue
from paygent.wire import BookedEvent

_KEYS_REMEMBERED = 10_000  # idempotency keys of this process; the ledger remembers all of them


_EXACT: Quality = "exact"
_UNPRICED: Quality = "unpriced"


class Entry(NamedTuple):
    """What `record_event` was told, checked.

    Attributes:
        cost_nano: The cost as given, or None to compute it.
        input_tokens, output_tokens: Counted, and priced by `model` when no cost is given.
        model: Model of the tokens, or None.
        description: Free text, or None.
        idempotency_key: The same key of the same user books once, or None.
        tool_calls: Names of tools.
        corrects: Id of the event that this one corrects, or None; then cost and tokens are what is
            to be added to it.
    """

    cost_nano: int | None
    input_tokens: int
    output_tokens: int
    model: str | None
    description: str | None
    idempotency_key: str | None
    tool_calls: tuple[str, ...]
    corrects: str | None = None


class _Priced(NamedTuple):
    tokens_nano: int
    tools_nano: int
    quality: Quality
    price_id: str
    model_key: str
    rates: Rates | None = None


class Manual:
    """Books entries of one `Paygent`. Thread-safe."""

    def __init__(
        self,
        product: str,
        accounts: Accounts,
        catalogue: Catalogue,
        meter: Meter | None,
        now_us: Callable[[], int],
    ) -> None:
        """Take the parts.

        Args:
            product: Under which idempotency keys are kept apart.
            accounts: Where sessions are opened.
            catalogue: Prices of tokens.
            meter: Books the events; None books nothing (Paygent is switched off).
            now_us: The clock.
        """
        self._product = product
        self._accounts = accounts
        self._catalogue = catalogue
        self._meter = meter
        self._now_us = now_us
        self._booked: dict[str, UsageEvent] = {}
        self._lock = threading.Lock()

    def book(self, user: User, identity: Identity, entry: Entry) -> UsageEvent:
        """Price and book an entry, or return the event that its idempotency key booked before."""
        at_us = self._now_us()
        key = entry.idempotency_key
        event_id = (
            ids.new_id(at_us) if key is None else ids.id_of_key(self._product, user.user_id, key)
        )
        priced = self._price(entry, user.plan, at_us)
        if self._meter is not None and priced.rates is not None:
            self._meter.list_prices(priced.rates, at_us)
        event = Event(
            event_id=event_id,
            user_id=user.user_id,
            session_id=self._accounts.session(user, identity.session_id, at_us),
            at_us=at_us,
            model=entry.model or "",
            model_key=priced.model_key,
            provider="",
            plan=user.plan_name,
            period_start_us=user.period.start_us,
            input_tokens=entry.input_tokens,
            output_tokens=entry.output_tokens,
            cached_input_tokens=0,
            cache_write_tokens=0,
            reasoning_tokens=0,
            cost_tokens_nano=priced.tokens_nano,
            cost_tools_nano=priced.tools_nano,
            quality=priced.quality,
            source="manual",
            price_id=priced.price_id,
            cost_explicit=entry.cost_nano is not None,
            tool_calls=entry.tool_calls,
            description=entry.description,
            metadata=identity.metadata,
        )
        return self._book(user, event, is_keyed=key is not None)

    def _book(self, user: User, event: Event, *, is_keyed: bool) -> UsageEvent:
        public = usage_event(event)
        if is_keyed:
            earlier = self._remember(event.event_id, public)
            if earlier is not None:
                return earlier
        if self._meter is not None:
            self._meter.record(user, event)
        return public

    def correct(
        self, user: User, booked: BookedEvent | None, identity: Identity, entry: Entry
    ) -> UsageEvent:
        """Book a correction where its original is booked.

        Args:
            user: Whose.
            booked: The original with the corrections that are known; None where nobody knows it.
            identity: Says what metadata is kept with it.
            entry: What is to be added.

        Raises:
            InvalidValue: if there is no such original, or more is taken off than it has.
        """
        if self._meter is None:  # switched off: nothing is known and nothing is booked
            return self.book(user, identity, entry)
        key, now_us = entry.idempotency_key, self._now_us()
        event_id = (
            ids.new_id(now_us) if key is None else ids.id_of_key(self._product, user.user_id, key)
        )
        again = self._booked.get(event_id)
        for each in booked.corrections if booked is not None else ():
            again = again or (usage_event(each) if each.event_id == event_id else None)
        if again is not None and again.corrects == entry.corrects:
            return again  # before anything is checked: it was right when it was booked
        findings = Findings("record_event")
        if again is not None or event_id == entry.corrects:
            findings.add("idempotency_key", key, "must not be that of another entry")
        if booked is None or booked.event.user_id != user.user_id:
            rule = "must be the id of an earlier event of this user (an event loop asks no ledger)"
            findings.add("corrects", entry.corrects, rule)
        elif booked.event.corrects is not None:
            findings.add("corrects", entry.corrects, "must not be a correction itself")
        findings.raise_if_any()
        assert booked is not None  # said above
        original = booked.event
        cost_nano, quality = entry.cost_nano, _EXACT
        if cost_nano is None:
            cost_nano, quality = self._difference(entry, original, user.plan)
        sums = (original, *booked.corrections)
        for name, given, whole in (
            ("cost", cost_nano, sum(each.cost_nano for each in sums)),
            ("input_tokens", entry.input_tokens, sum(each.input_tokens for each in sums)),
            ("output_tokens", entry.output_tokens, sum(each.output_tokens for each in sums)),
        ):
            if whole + given < 0:
                shown = format_usd(given, decimals=9) if name == "cost" else given
                findings.add(name, shown, "must not take off more than the event has")
        findings.raise_if_any()
        correction = Event(
            event_id,
            user.user_id,
            *original[2:9],
            entry.input_tokens,
            entry.output_tokens,
            0,
            0,
            0,
            cost_nano,
            0,
            quality,
            source="manual",
            price_id="" if entry.cost_nano is not None else original.price_id,
            cost_explicit=entry.cost_nano is not None,
            description=entry.description,
            metadata=identity.metadata,
            corrects=original.event_id,
        )
        return self._book(user, correction, is_keyed=key is not None)

    def _difference(self, entry: Entry, original: Event, plan: PlanConfig) -> tuple[int, Quality]:
        """Return what tokens that are added and taken off cost, in the tier of the original, and
        how far that can be trusted.
        """
        resolved = self._catalogue.resolve(original.provider, original.model, original.at_us, plan)
        rates = resolved.rates
        rates = rates._replace(prices=prices_for(rates, original.input_tokens), tiers=())
        sent, given = entry.input_tokens, entry.output_tokens
        more = tokens_cost_nano(max(sent, 0), max(given, 0), rates)
        less = tokens_cost_nano(max(-sent, 0), max(-given, 0), rates)
        quality = _EXACT if rates.is_known or not (sent or given) else _UNPRICED
        return more - less, quality

    def _price(self, entry: Entry, plan: PlanConfig, at_us: int) -> _Priced:
        """Return what an entry costs: as given, else its tokens and tools at their prices.

        Raises:
            InvalidValue: if that is above what a single event may cost.
        """
        resolved = None
        if entry.model is not None:
            resolved = self._catalogue.resolve("", entry.model, at_us, plan)
        model_key = resolved.model_key if resolved is not None else ""
        if entry.cost_nano is not None:
            return _Priced(entry.cost_nano, 0, "exact", "", model_key)
        usage = Usage(entry.input_tokens, entry.output_tokens)
        quality: Quality = "exact"
        if usage.total_tokens and (resolved is None or not resolved.rates.is_known):
            quality = "unpriced"
            failures.say("unpriced_event", "an event has tokens of a model that has no price")
        elif resolved is not None and resolved.rates.source == DEAREST:
            quality = "estimated"
        default = plan.default_tool_cost_nano
        tokens_nano = cost_nano(usage, resolved.rates) if resolved is not None else 0
        tools_nano = sum(plan.tool_costs_nano.get(name, default) for name in entry.tool_calls)
        if tokens_nano + tools_nano > COST_NANO_MAX:
            findings = Findings("record_event")
            what = "tool_calls" if tools_nano > tokens_nano else "input_tokens"
            findings.add(what, format_usd(tokens_nano + tools_nano), "must cost at most $1,000,000")
            findings.raise_if_any()
        return _Priced(
            tokens_nano,
            tools_nano,
            quality,
            resolved.rates.price_id if resolved is not None else "",
            model_key,
            resolved.rates if resolved is not None else None,
        )

    def _remember(self, event_id: str, public: UsageEvent) -> UsageEvent | None:
        """Remember the event of a key; return the one that was booked under it before, if any."""
        with self._lock:
            earlier = self._booked.get(event_id)
            if earlier is None:
                if len(self._booked) >= _KEYS_REMEMBERED:
                    del self._booked[next(iter(self._booked))]
                self._booked[event_id] = public
            return earlier

    def renew_after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()
