"""Reads the arguments of configuring methods; one `InvalidValue` names every broken rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paygent.client.api.record_event import ManualEvent
from paygent.client.context.identity import id_of
from paygent.core.money import read_cost_nano, read_decimal
from paygent.core.period import Subscription, to_us
from paygent.core.validation import (
    NAME_CHARS_MAX,
    NAME_RULE,
    FieldError,
    InvalidValue,
    ValidationErrors,
)
from paygent.types import BillingPeriod

_TEXT_CHARS_MAX = 1_000
_TOKENS_MAX = 10**12  # sums stay within 64 bits
_TOOL_CALLS_MAX = 1_000
_TOOL_NAMES_CHARS_MAX = 50_000  # all of them together: a record of the journal has a bound
_SECONDS_MAX = 86_400


def check_user(errors: ValidationErrors, user_id: Any) -> str:
    """Return a user id as text; record the rule that it breaks."""
    text = id_of(user_id)
    if text is None:
        errors.add("user_id", user_id, f"{NAME_RULE}, an int or a UUID")
    return text or ""


def valid_user(verb: str, user_id: Any, model: Any = None) -> str:
    """Check a user id and the name of a model, or None for none; return the id as text, or raise
    `InvalidValue`.
    """
    errors = ValidationErrors(verb)
    text = check_user(errors, user_id)
    if model is not None:
        check_name(errors, "model", model)
    errors.raise_if_any()
    return text


def valid_timeout(verb: str, value: Any) -> float:
    """Return a number of seconds; raise `InvalidValue` if it is not one from 0 to a day."""
    number = read_decimal(value) if not isinstance(value, str) else None
    if number is None or not number.is_finite() or not 0 <= number <= _SECONDS_MAX:
        rule = f"must be a number of seconds from 0 to {_SECONDS_MAX}"
        raise InvalidValue(verb, (FieldError("timeout", value, rule),))
    return float(value)


def is_name(value: Any) -> bool:
    """Return whether a value can be the name of a model, a provider or the like."""
    return _has_name_length(value) and _is_storable(value)


def check_name(errors: ValidationErrors, name: str, value: Any) -> None:
    """Record the rule that a name breaks; see `is_name`."""
    if not _has_name_length(value):
        errors.add(name, value, NAME_RULE)
    elif not _is_storable(value):
        errors.add(name, value, "must not contain NUL or unpaired surrogates")


def _has_name_length(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX


def _is_storable(text: str) -> bool:
    # PostgreSQL cannot store a NUL, and UTF-8 no surrogate.
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def subscription_of(period: BillingPeriod | None) -> Subscription | None:
    """Return a billing period as the subscription that renews by its length."""
    return None if period is None else Subscription(to_us(period.start), to_us(period.end))


def check_advice_arguments(given: Mapping[str, Any]) -> str:
    """Check the arguments of `get_max_tokens`, by name; return the user id as text."""
    errors = ValidationErrors("get_max_tokens")
    user_id = check_user(errors, given["user_id"])
    check_name(errors, "model", given["model"])
    for name, least in (("estimated_input_tokens", 0), ("hard_cap", 1)):
        _check_count(errors, name, given[name], least)
    messages = given["messages"]
    if messages is not None and not isinstance(messages, (list, tuple)):
        errors.add("messages", messages, "must be a list of messages, or None")
    errors.raise_if_any()
    return user_id


def read_manual_event(given: Mapping[str, Any]) -> ManualEvent:
    """Read the arguments of `record_event`, by name."""
    errors = ValidationErrors("record_event")
    if given["user_id"] is not None:
        check_user(errors, given["user_id"])
    # A correction is a signed difference; its subject is that of the corrected event.
    is_correction = given["corrects"] is not None
    cost = _read_cost(errors, given["cost"], signed=is_correction)
    least = -_TOKENS_MAX if is_correction else 0
    for name in ("input_tokens", "output_tokens"):
        _check_count(errors, name, given[name], least)
    for name in ("model", "session_id", "tool_calls") if is_correction else ():
        if given[name] is not None:
            errors.add(name, given[name], "must be omitted; the corrected event's value applies")
    for name in ("model", "idempotency_key", "session_id", "corrects"):
        if given[name] is not None:
            check_name(errors, name, given[name])
    text = given["description"]
    if text is not None and (not isinstance(text, str) or len(text) > _TEXT_CHARS_MAX):
        errors.add("description", text, f"must be a string of at most {_TEXT_CHARS_MAX} characters")
    tools = given["tool_calls"]
    if tools is not None:
        # No other sequences: a str would be one of one-letter names.
        if not isinstance(tools, (list, tuple)) or len(tools) > _TOOL_CALLS_MAX:
            rule = f"must be a list of at most {_TOOL_CALLS_MAX} tool names"
            errors.add("tool_calls", tools, rule)
        else:
            for tool in tools:
                check_name(errors, "tool_calls", tool)
            chars = sum(len(tool) for tool in tools if isinstance(tool, str))
            if chars > _TOOL_NAMES_CHARS_MAX:
                rule = (
                    f"must have at most {_TOOL_NAMES_CHARS_MAX:,} characters in all names together"
                )
                errors.add("tool_calls", chars, rule)
    # An answer without usage and a step without tools are data; an event of nothing is a mistake.
    tokens = (given["input_tokens"], given["output_tokens"])
    has_tokens = any(type(count) is not int or count for count in tokens)
    if given["cost"] is given["model"] is tools is None and not has_tokens:
        errors.add("cost", None, "must be given, or else tokens, a model or tool_calls")
    if given["metadata"] is not None and not isinstance(given["metadata"], Mapping):
        errors.add("metadata", given["metadata"], "must be a dict")
    errors.raise_if_any()
    same = ("input_tokens", "output_tokens", "model", "description", "idempotency_key", "corrects")
    unchanged = {name: given[name] for name in same}
    return ManualEvent(cost_nano=cost, tool_calls=tuple(tools or ()), **unchanged)


def _check_count(errors: ValidationErrors, name: str, value: Any, least: int) -> None:
    if type(value) is not int or not least <= value <= _TOKENS_MAX:  # True is an int, too
        shown = "-10¹²" if least < 0 else least
        errors.add(name, value, f"must be a whole number from {shown} to 10¹²")


def _read_cost(errors: ValidationErrors, given: Any, *, signed: bool) -> int | None:
    """Return a cost in nano-dollars, also a negative one if `signed`; record a broken rule."""
    if given is None:
        return None
    # `read_cost_nano` accepts no negative amount, so the sign is taken off and put back.
    number = read_decimal(given) if signed else None
    is_negative = number is not None and not number.is_nan() and number < 0
    try:
        cost = read_cost_nano(-number if is_negative and number is not None else given)
    except ValueError as error:
        errors.add("cost", given, str(error))
        return None
    return -cost if is_negative else cost
