"""What a LangChain model has used, as its result tells.

Read from langchain-core 1.8 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paygent.core.usage import Usage


def read_result(result: Any, want_tools: bool) -> Usage | None:
    """Read the usage of LangChain's `LLMResult`, which is one call's: what its message says, or the
    model's own output; None where neither does.

    Args:
        result: The result.
        want_tools: Whether the names of the tools that its messages call are wanted.
    """
    messages = _messages_of(result)
    tools = tuple(name for each in messages for name in _tools_of(each)) if want_tools else ()
    for message in messages:
        usage = _of_message(getattr(message, "usage_metadata", None))
        if usage is not None:
            told: Mapping[str, Any] = getattr(message, "response_metadata", None) or {}
            model = told.get("model_name") or told.get("model")
            model = model if isinstance(model, str) else None
            return usage._replace(model=model, tool_calls=tools)
    usage = _of_output(getattr(result, "llm_output", None))
    return usage._replace(tool_calls=tools) if usage is not None else None


def is_cached(result: Any) -> bool:
    """Tell whether LangChain has answered from its own cache, which costs nothing: it says so by a
    cost of zero.
    """
    told = [getattr(each, "usage_metadata", None) for each in _messages_of(result)]
    return any(isinstance(each, Mapping) and each.get("total_cost") == 0 for each in told)


def _messages_of(result: Any) -> list[Any]:
    """Return the first message of each generation, where generations have messages."""
    all_of_it = getattr(result, "generations", None) or ()
    return [getattr(each[0], "message", None) for each in all_of_it if each]


def _tools_of(message: Any) -> list[str]:
    """Return the names of the tools that a message calls."""
    calls = getattr(message, "tool_calls", None) or ()
    names = [each.get("name") for each in calls if isinstance(each, Mapping)]
    return [name for name in names if isinstance(name, str) and name]


def _of_message(told: Any) -> Usage | None:
    """Read `usage_metadata`, whose totals include what its details name."""
    if not isinstance(told, Mapping):
        return None
    inputs: Mapping[str, Any] = told.get("input_token_details") or {}
    outputs: Mapping[str, Any] = told.get("output_token_details") or {}
    input_tokens, output_tokens = _count(told, "input_tokens"), _count(told, "output_tokens")
    if not input_tokens and not output_tokens:
        return None
    cached = min(_count(inputs, "cache_read"), input_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        cached,
        min(_count(inputs, "cache_creation"), input_tokens - cached),
        reasoning_tokens=min(_count(outputs, "reasoning"), output_tokens),
        audio_input_tokens=min(_count(inputs, "audio"), input_tokens - cached),
        audio_output_tokens=min(_count(outputs, "audio"), output_tokens),
    )


def _of_output(told: Any) -> Usage | None:
    """Read the `token_usage` that older models put into their output."""
    usage = told.get("token_usage") if isinstance(told, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    input_tokens, output_tokens = (
        _count(usage, name) for name in ("prompt_tokens", "completion_tokens")
    )
    if not input_tokens and not output_tokens:
        return None
    return Usage(input_tokens, output_tokens)


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if type(value) is int and value > 0 else 0
