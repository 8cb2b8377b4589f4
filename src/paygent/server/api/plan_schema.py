"""The fields of a plan for the OpenAPI document; `PlanConfig` validates them."""

from __future__ import annotations

from typing import Any

from paygent.core.plan import PlanConfig
from paygent.core.plan_json import READ_ONLY


def _number(description: str) -> dict[str, Any]:
    return {
        "anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}],
        "description": description,
    }


_RATE = {
    "type": "object",
    "description": "Dollars per 1,000 tokens.",
    "required": ["input", "output"],
    "properties": {
        name: {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}
        for name in (
            "input", "output", "cached_input", "cache_write", "cache_write_long", "reasoning",
            "audio_input", "audio_output", "image_input", "image_output",
        )
    },
}  # fmt: skip
_LIMIT = {
    "type": "object",
    "required": ["cap"],
    "properties": {
        "metric": {"enum": ["spend", "tokens", "calls"]},
        "scope": {"enum": ["user", "session"]},
        "model": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "window": {"type": "string", "description": "period, session, day or rolling:24h"},
        "cap": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
}
_MODEL_LIMIT = {
    "anyOf": [{"type": "object"}, {"type": "number"}, {"type": "null"}],
    "description": "A number is tokens per period.",
    "properties": {"max_tokens_per_period": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
}
PLAN_FIELDS: dict[str, Any] = {
    "max_spend_per_period": _number("Dollars per billing period; null is no limit."),
    "max_spend_per_session": _number("Dollars per session; null is no limit."),
    "soft_gate_at": {"type": "number", "description": "Fraction of a cap that warns."},
    "hard_gate_at": {"type": "number", "description": "Fraction of a cap that blocks."},
    "model_limits": {"type": "object", "additionalProperties": _MODEL_LIMIT},
    "cost_rates": {"type": "object", "additionalProperties": _RATE},
    "default_cost_rate": {"anyOf": [_RATE, {"type": "null"}]},
    "tool_costs": {"type": "object", "additionalProperties": {"type": "number"}},
    "default_tool_cost": {"type": "number", "description": "Dollars."},
    "session_timeout_minutes": {"type": "number"},
    "pre_call_estimate": {"type": "boolean", "description": "True is strict."},
    "pre_call_buffer_tokens": {"type": "integer"},
    "reservation_safety_factor": {"type": "number"},
    "price": _number("Dollars that the user pays per period."),
    "limits": {"type": "array", "items": _LIMIT},
    "contention_wait_s": {"type": "number"},
    "when_offline": {
        "anyOf": [
            {"enum": ["allow", "block"]},
            {
                "type": "object",
                "required": ["allow_up_to"],
                "properties": {"allow_up_to": {"type": "number"}},
            },
        ]
    },
    "unknown_model": {"enum": ["count", "dearest", "block"]},
    "enforce": {"type": "boolean", "description": "False is shadow mode."},
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


# What answers show beside the fields may come back with them.
_SHOWN: dict[str, Any] = {
    **{name: {"description": "Ignored."} for name in sorted(READ_ONLY)},
    **{f"{name}_nano": {"description": "The same exactly."} for name in PlanConfig._dollars},
}
_GATES = {name: PLAN_FIELDS[name] for name in ("soft_gate_at", "hard_gate_at")}
_PLAN = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 255},
        **PLAN_FIELDS,
        **_SHOWN,
    },
    "additionalProperties": False,
}
PLANS_SCHEMA = _body(
    {
        "type": "object",
        "required": ["plans"],
        "properties": {
            **_GATES,
            "plans": {"type": "array", "items": _PLAN, "minItems": 1, "maxItems": 200},
        },
        "additionalProperties": False,
    }
)
CHANGE_SCHEMA = _body({"type": "object", "properties": PLAN_FIELDS})
