"""`record_event`: books costs that are not provider calls, and corrections of earlier events.

An event is never refused for a limit, because its money has been spent already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.client.context.identity import Identity
from paygent.client.metering.records import RecordWriter
from paygent.client.runtime import ids
from paygent.client.runtime.event_loops import runs_loop
from paygent.core.bounded_dict import BoundedDict
from paygent.core.event import Event
from paygent.core.explain import rates_from_json
from paygent.core.messages import BookedEvent
from paygent.core.money import COST_NANO_MAX, format_usd
from paygent.core.notices import Notice
from paygent.core.plan import PlanConfig
from paygent.core.pricing import cost_nano, prices_for, tokens_cost_nano
from paygent.core.usage import Quality, Usage
from paygent.core.validation import FieldError, InvalidValue, ValidationErrors
from paygent.failopen import diagnostics
from paygent.prices.catalogue import DEAREST, Catalogue, Resolved
from paygent.types import UsageEvent, usage_event

_KEYS_MAX = 10_000  # idempotency keys of this process; the ledger remembers all of them
_CORRECTED_MAX = 10_000  # events with corrections that the ledger may not have yet

# The fields that decide where an event counts; a correction counts where its original does.
_PLACE = (
    "user_id", "session_id", "at_us",
    "model", "model_key", "provider", "plan", "period_start_us", "blocked",
    "gate_reason",
)  # fmt: skip


class ManualEvent(NamedTuple):
    """The validated arguments of `record_event`.

    Attributes:
        cost_nano: The given cost, or None to compute it.
        input_tokens, output_tokens: Counted, and priced by `model` when no cost is given.
        model: Model of the tokens, or None.
        description: Free text, or None.
        idempotency_key: The same key of the same user books once, or None.
        tool_calls: Names of tools.
        corrects: Id of the event that this one corrects, or None; then cost and tokens are added to
            that event's.
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
    price_id: str  # "" for an explicit cost


@dataclass(eq=False)
class EventRecorder:
    """Books the manual events of one `Paygent`. Thread-safe."""

    product: str  # part of the event id that an idempotency key becomes
    accounts: Accounts
    catalogue: Catalogue
    records: RecordWriter | None  # None books nothing (Paygent is disabled)
    now_us: Callable[[], int]

    def __post_init__(self) -> None:
        self._booked: BoundedDict[str, UsageEvent] = BoundedDict(_KEYS_MAX)
        self._corrections: BoundedDict[str, dict[str, Event]] = BoundedDict(_CORRECTED_MAX)
        self._lock = threading.Lock()

    def book(self, user: User, identity: Identity, entry: ManualEvent) -> UsageEvent:
        """Price and book an event, or return the one that its idempotency key booked before."""
        at_us = self.now_us()
        resolved = None
        if entry.model is not None:
            resolved = self.catalogue.resolve("", entry.model, at_us, user.plan)
        priced = _price(entry, user.plan, resolved)
        # Recorded with the event, so that `explain` can recompute its cost.
        if self.records is not None and resolved is not None and priced.price_id:
            self.records.record_price_list(resolved.rates, at_us)
        event = _event(
            self._id_of(user, entry, at_us),
            entry,
            priced,
            identity.metadata,
            user_id=user.user_id,
            session_id=self.accounts.sessions.session_for_call(user, identity.session_id, at_us),
            at_us=at_us,
            model=entry.model or "",
            model_key=resolved.model_key if resolved is not None else "",
            provider="",
            plan=user.plan_name,
            period_start_us=user.period.start_us,
        )
        return self._book(user, event, is_keyed=entry.idempotency_key is not None)

    def _id_of(self, user: User, entry: ManualEvent, at_us: int) -> str:
        key = entry.idempotency_key
        return ids.new_id(at_us) if key is None else ids.id_of_key(self.product, user.user_id, key)

    def _book(self, user: User, event: Event, *, is_keyed: bool) -> UsageEvent:
        """Book an event, unless its key has booked one."""
        public = usage_event(event)
        earlier = self._booked.get(event.event_id) if is_keyed else None
        if earlier is not None:
            return earlier
        if self.records is not None:
            self.records.book(user, event)
        # Remembered only once it is booked: the retry of a booking that failed or was interrupted
        # must book. Two threads may book at once, since the ledger counts an id once.
        with self._lock:
            earlier = self._booked.get(event.event_id)
            if is_keyed and earlier is None:
                self._booked[event.event_id] = public
        return earlier or public

    def correct(
        self, user: User, booked: BookedEvent | None, identity: Identity, entry: ManualEvent
    ) -> UsageEvent:
        """Book a correction to the windows that its original counts to.

        Args:
            user: The user who is charged.
            booked: The original with its known corrections; None if it was not found.
            identity: Provides the correction's metadata.
            entry: The differences.

        Raises:
            InvalidValue: if there is no such original, or more is subtracted than it has.
        """
        if self.records is None:  # disabled: there are no events to correct
            return self.book(user, identity, entry)
        event_id = self._id_of(user, entry, self.now_us())
        earlier = self._earlier(event_id, booked)
        if earlier is not None and earlier.corrects == entry.corrects:
            return earlier  # a retry is not checked again: it was valid when it was booked
        is_taken = earlier is not None or event_id == entry.corrects
        booked = _valid_original(user, booked, entry, key_is_taken=is_taken)
        priced = self._difference(entry, booked, user.plan)
        place = {name: getattr(booked.event, name) for name in _PLACE}
        correction = _event(event_id, entry, priced, identity.metadata, **place)
        self._claim(booked, correction)
        try:
            return self._book(user, correction, is_keyed=entry.idempotency_key is not None)
        except BaseException:
            # If it was booked in spite of the error, the next correction finds it in the user's
            # pending events or in the ledger.
            self._corrections.get(booked.event.event_id, {}).pop(event_id, None)
            raise

    def _earlier(self, event_id: str, booked: BookedEvent | None) -> UsageEvent | None:
        """Return the event that this process knows under an id."""
        earlier = self._booked.get(event_id)
        if earlier is not None or booked is None:
            return earlier
        same_id = (event for event in booked.corrections if event.event_id == event_id)
        return next((usage_event(event) for event in same_id), None)

    def _claim(self, booked: BookedEvent, correction: Event) -> None:
        """Remember a correction, so that the next one of the same event counts it; raise
        `InvalidValue` if the corrections would subtract more than the event has.
        """
        errors = ValidationErrors("record_event")
        original = booked.event
        # Threads may correct one event at once, before the ledger has any of the corrections.
        with self._lock:
            recent = self._corrections.get(original.event_id, {})
            corrections = {event.event_id: event for event in booked.corrections} | recent
            corrections[correction.event_id] = correction  # a key may book it a second time
            events = (original, *corrections.values())
            for name in ("cost_nano", "input_tokens", "output_tokens"):
                if sum(getattr(event, name) for event in events) < 0:
                    value = getattr(correction, name)
                    shown = format_usd(value, decimals=9) if name == "cost_nano" else value
                    rule = "must not subtract more than the event has"
                    errors.add(name.removesuffix("_nano"), shown, rule)
            errors.raise_if_any()
            recent[correction.event_id] = correction
            self._corrections[original.event_id] = recent

    def _difference(self, entry: ManualEvent, booked: BookedEvent, plan: PlanConfig) -> _Priced:
        """Return the cost of a correction: the given one, else that of its signed tokens."""
        if entry.cost_nano is not None:
            return _Priced(entry.cost_nano, 0, "exact", "")
        original = booked.event
        if booked.prices is not None:
            rates = rates_from_json(original.price_id, booked.prices)
        else:
            model = (original.provider, original.model, original.at_us)
            rates = self.catalogue.resolve(*model, plan).rates
        # The tier is the original's: a correction of few tokens belongs to a request of many.
        rates = rates._replace(prices=prices_for(rates, original.input_tokens), tiers=())
        input_tokens, output_tokens = entry.input_tokens, entry.output_tokens
        added = tokens_cost_nano(max(input_tokens, 0), max(output_tokens, 0), rates)
        subtracted = tokens_cost_nano(max(-input_tokens, 0), max(-output_tokens, 0), rates)
        has_tokens = bool(input_tokens or output_tokens)
        quality: Quality = "unpriced" if has_tokens and not rates.is_known else "exact"
        return _Priced(added - subtracted, 0, quality, original.price_id)

    def renew_after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()


def _price(entry: ManualEvent, plan: PlanConfig, resolved: Resolved | None) -> _Priced:
    """Return the cost of an event: the given one, else its tokens and tools at their prices; raise
    `InvalidValue` if it exceeds the most that a single event may cost.
    """
    if entry.cost_nano is not None:
        return _Priced(entry.cost_nano, 0, "exact", "")
    usage = Usage(entry.input_tokens, entry.output_tokens)
    quality: Quality = "exact"
    if usage.total_tokens and (resolved is None or not resolved.rates.is_known):
        quality = "unpriced"
        diagnostics.warn_once(Notice.UNPRICED_EVENT)
    elif resolved is not None and resolved.rates.source == DEAREST:
        quality = "estimated"
    default_nano = plan.default_tool_cost_nano
    tokens_nano = cost_nano(usage, resolved.rates) if resolved is not None else 0
    tools_nano = sum(plan.tool_costs_nano.get(name, default_nano) for name in entry.tool_calls)
    total_nano = tokens_nano + tools_nano
    if total_nano > COST_NANO_MAX:
        name = "tool_calls" if tools_nano > tokens_nano else "input_tokens"
        error = FieldError(name, format_usd(total_nano), "must cost at most $1,000,000")
        raise InvalidValue("record_event", (error,))
    price_id = resolved.rates.price_id if resolved is not None else ""
    return _Priced(tokens_nano, tools_nano, quality, price_id)


def _valid_original(
    user: User, booked: BookedEvent | None, entry: ManualEvent, *, key_is_taken: bool
) -> BookedEvent:
    """Return the event that is corrected; raise `InvalidValue` if it does not exist or cannot be
    corrected, or the key is another event's.
    """
    errors = ValidationErrors("record_event")
    if key_is_taken:
        errors.add("idempotency_key", entry.idempotency_key, "must not be the key of another event")
    if booked is None or booked.event.user_id != user.user_id:
        rule = "must be the id of an earlier event of this user"
        rule += " (the ledger is not queried on an event loop)" if runs_loop() else ""
        errors.add("corrects", entry.corrects, rule)
    elif booked.event.corrects is not None:
        errors.add(
            "corrects", entry.corrects, "must be the id of an original event, not of a correction"
        )
    errors.raise_if_any()
    assert booked is not None  # otherwise an error was added
    return booked


def _event(
    event_id: str,
    entry: ManualEvent,
    priced: _Priced,
    metadata: Mapping[str, Any] | None,
    **place: Any,  # the fields of `_PLACE`
) -> Event:
    return Event(
        event_id=event_id,
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
        metadata=metadata,
        corrects=entry.corrects,
        **place,
    )
