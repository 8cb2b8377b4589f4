"""Events by hand: what costs and is no call that the funnel sees. Never refused, since the money is
spent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.client.context.identity import Identity
from paygent.client.metering.records import RecordWriter
from paygent.client.runtime import ids
from paygent.core.event import Event
from paygent.core.explain import rates_from_json
from paygent.core.messages import BookedEvent
from paygent.core.money import COST_NANO_MAX, format_usd
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Rates, cost_nano, prices_for, tokens_cost_nano
from paygent.core.usage import Quality, Usage
from paygent.core.validation import ValidationErrors
from paygent.failopen import diagnostics
from paygent.prices.catalogue import DEAREST, Catalogue
from paygent.types import UsageEvent, usage_event

_KEYS_REMEMBERED = 10_000  # idempotency keys of this process; the ledger remembers all of them
_CORRECTED_REMEMBERED = 10_000  # events whose corrections the ledger may not have yet

_EXACT: Quality = "exact"
_UNPRICED: Quality = "unpriced"


class ManualEvent(NamedTuple):
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


class EventRecorder:
    """Books entries of one `Paygent`. Thread-safe."""

    def __init__(
        self,
        product: str,
        accounts: Accounts,
        catalogue: Catalogue,
        records: RecordWriter | None,
        now_us: Callable[[], int],
    ) -> None:
        """Take the parts.

        Args:
            product: Under which idempotency keys are kept apart.
            accounts: Where sessions are opened.
            catalogue: Prices of tokens.
            records: Books the events; None books nothing (Paygent is switched off).
            now_us: The clock.
        """
        self._product = product
        self._accounts = accounts
        self._catalogue = catalogue
        self._records = records
        self._now_us = now_us
        self._booked: dict[str, UsageEvent] = {}
        self._corrections: dict[str, dict[str, Event]] = {}
        self._lock = threading.Lock()

    def book(self, user: User, identity: Identity, entry: ManualEvent) -> UsageEvent:
        """Price and book an entry, or return the event that its idempotency key booked before."""
        at_us = self._now_us()
        priced = self._price(entry, user.plan, at_us)
        if self._records is not None and priced.rates is not None:
            self._records.record_price_list(priced.rates, at_us)
        event = Event(
            event_id=self._id_of(user, entry, at_us),
            user_id=user.user_id,
            session_id=self._accounts.sessions.session_for_call(user, identity.session_id, at_us),
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
        return self._book(user, event, is_keyed=entry.idempotency_key is not None)

    def _id_of(self, user: User, entry: ManualEvent, at_us: int) -> str:
        key = entry.idempotency_key
        if key is None:
            return ids.new_id(at_us)
        return ids.id_of_key(self._product, user.user_id, key)

    def _book(self, user: User, event: Event, *, is_keyed: bool) -> UsageEvent:
        """Book an event, unless its key has booked one. Remembered only once it is booked, so that
        whoever retries an entry that failed or was interrupted is not told of an event that is not
        there; two at once may book, since an id counts once.
        """
        public = usage_event(event)
        earlier = self._booked.get(event.event_id) if is_keyed else None
        if earlier is not None:
            return earlier
        if self._records is not None:
            self._records.book(user, event)
        return self._remember(event.event_id, public) if is_keyed else public

    def correct(
        self, user: User, booked: BookedEvent | None, identity: Identity, entry: ManualEvent
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
        if self._records is None:  # switched off: nothing is known and nothing is booked
            return self.book(user, identity, entry)
        event_id = self._id_of(user, entry, self._now_us())
        earlier = self._earlier(event_id, booked)
        if earlier is not None and earlier.corrects == entry.corrects:
            return earlier  # before anything is checked: it was right when it was booked
        findings = ValidationErrors("record_event")
        if earlier is not None or event_id == entry.corrects:
            findings.add("idempotency_key", entry.idempotency_key, "must not be another entry's")
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
            cost_nano, quality = self._difference(entry, booked, user.plan)
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
        self._claim(booked, correction)
        try:
            return self._book(user, correction, is_keyed=entry.idempotency_key is not None)
        except BaseException:  # where it was booked all the same, it is found where events are kept
            self._corrections.get(original.event_id, {}).pop(event_id, None)
            raise

    def _earlier(self, event_id: str, booked: BookedEvent | None) -> UsageEvent | None:
        """Return what was booked under an id, as far as it is known here."""
        earlier = self._booked.get(event_id)
        for each in booked.corrections if booked is not None else ():
            if earlier is None and each.event_id == event_id:
                earlier = usage_event(each)
        return earlier

    def _claim(self, booked: BookedEvent, correction: Event) -> None:
        """Remember a correction, from now on to be counted with the others of its original.

        Threads may correct one event at once, before the ledger has any of it.

        Raises:
            InvalidValue: if they would take more off it than it has.
        """
        findings = ValidationErrors("record_event")
        original, own_id = booked.event, correction.event_id
        with self._lock:
            ours = self._corrections.setdefault(original.event_id, {})
            all_of_it = {each.event_id: each for each in booked.corrections}
            all_of_it.update(ours)
            all_of_it[own_id] = correction  # also where its key brings it once more
            events = (original, *all_of_it.values())
            for name, given, left in (
                ("cost", correction.cost_nano, sum(each.cost_nano for each in events)),
                ("input_tokens", correction.input_tokens, sum(e.input_tokens for e in events)),
                ("output_tokens", correction.output_tokens, sum(e.output_tokens for e in events)),
            ):
                if left < 0:
                    shown = format_usd(given, decimals=9) if name == "cost" else given
                    findings.add(name, shown, "must not take off more than the event has")
            findings.raise_if_any()
            ours[own_id] = correction
            if len(self._corrections) > _CORRECTED_REMEMBERED:
                del self._corrections[next(iter(self._corrections))]

    def _difference(
        self, entry: ManualEvent, booked: BookedEvent, plan: PlanConfig
    ) -> tuple[int, Quality]:
        """Return what tokens that are added and taken off cost, in the tier of the original, and
        how far that can be trusted.
        """
        original = booked.event
        if booked.prices is not None:
            rates = rates_from_json(original.price_id, booked.prices)
        else:
            rates = self._catalogue.resolve(
                original.provider, original.model, original.at_us, plan
            ).rates
        rates = rates._replace(prices=prices_for(rates, original.input_tokens), tiers=())
        sent, given = entry.input_tokens, entry.output_tokens
        more = tokens_cost_nano(max(sent, 0), max(given, 0), rates)
        less = tokens_cost_nano(max(-sent, 0), max(-given, 0), rates)
        quality = _EXACT if rates.is_known or not (sent or given) else _UNPRICED
        return more - less, quality

    def _price(self, entry: ManualEvent, plan: PlanConfig, at_us: int) -> _Priced:
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
            diagnostics.warn_once(
                "unpriced_event", "an event has tokens of a model that has no price"
            )
        elif resolved is not None and resolved.rates.source == DEAREST:
            quality = "estimated"
        default = plan.default_tool_cost_nano
        tokens_nano = cost_nano(usage, resolved.rates) if resolved is not None else 0
        tools_nano = sum(plan.tool_costs_nano.get(name, default) for name in entry.tool_calls)
        if tokens_nano + tools_nano > COST_NANO_MAX:
            findings = ValidationErrors("record_event")
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

    def _remember(self, event_id: str, public: UsageEvent) -> UsageEvent:
        """Remember the event of a key; return the one that was booked under it first."""
        with self._lock:
            earlier = self._booked.setdefault(event_id, public)
            if len(self._booked) > _KEYS_REMEMBERED:
                del self._booked[next(iter(self._booked))]
            return earlier

    def renew_after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()
