"""A usage event for the OpenAPI document; `core/event_json.py` validates it."""

from __future__ import annotations

from typing import Any

from paygent.core.event_json import ID_CHARS_MAX
from paygent.core.validation import NAME_CHARS_MAX


def _text(*, chars_max: int = NAME_CHARS_MAX, optional: bool = True) -> dict[str, Any]:
    if optional:
        return {"anyOf": [{"type": "string"}, {"type": "null"}], "maxLength": chars_max}
    return {"type": "string", "minLength": 1, "maxLength": chars_max}


_COUNT = {"type": "integer", "minimum": -(10**12), "maximum": 10**12}  # negative in a correction
_COST = {
    "type": "number", "minimum": -(10**6), "maximum": 10**6, "description": "Dollars.",
}  # fmt: skip
_COST_NANO = {
    "type": "integer", "minimum": -(10**15), "maximum": 10**15, "description": "Nano-dollars.",
}  # fmt: skip
_FLAG = {"type": "boolean"}

USAGE_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "user_id", "timestamp"],
    "properties": {
        "id": _text(chars_max=ID_CHARS_MAX, optional=False),
        "user_id": _text(optional=False),
        "session_id": _text(),
        "timestamp": {"type": "string", "format": "date-time"},
        "model": _text(),
        "provider": _text(),
        "input_tokens": _COUNT,
        "output_tokens": _COUNT,
        "total_tokens": _COUNT,
        "cached_input_tokens": _COUNT,
        "cache_write_tokens": _COUNT,
        "reasoning_tokens": _COUNT,
        "tool_calls": {"type": "array", "items": _text(optional=False)},
        "cost_tokens": _COST,
        "cost_tools": _COST,
        "cost_total": _COST,
        "cost_tokens_nano": _COST_NANO,
        "cost_tools_nano": _COST_NANO,
        "cost_total_nano": _COST_NANO,
        "metadata": {"type": "object"},
        "source": {"enum": ["auto", "manual"]},
        "description": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "cost_explicit": _FLAG,
        "quality": {"enum": ["exact", "partial", "estimated", "unpriced"]},
        "price_id": _text(),
        "latency_ms": _COUNT,
        "blocked": _FLAG,
        "corrects": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "maxLength": ID_CHARS_MAX,
            "description": "Id of the event that this one corrects: counts and costs are then"
            " differences and may be negative.",
        },
    },
}
