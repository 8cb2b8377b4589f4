"""The usage of a LangChain model's call, as reported in its result.

Read from langchain-core 1.8 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paygent.core.usage import Usage, token_count


def read_result(result: Any, want_tools: bool) -> Usage | None:
    """Read the usage of one call from LangChain's `LLMResult`: of its message, or else of the
    model's output; None where neither reports any.
    """
    messages = _messages_of(result)
    tools = tuple(name for message in messages for name in _tools_of(message)) if want_tools else ()
    for message in messages:
        usage = _of_message(getattr(message, "usage_metadata", None))
        if usage is not None:
            metadata: Mapping[str, Any] = getattr(message, "response_metadata", None) or {}
            model = metadata.get("model_name") or metadata.get("model")
            return usage._replace(model=model if isinstance(model, str) else None, tool_calls=tools)
    usage = _of_output(token_usage_of(result))
    return usage._replace(tool_calls=tools) if usage is not None else None


def is_cached(result: Any) -> bool:
    """Return whether LangChain has answered from its own cache, which costs nothing."""
    usages = [getattr(message, "usage_metadata", None) for message in _messages_of(result)]
    # It marks such an answer by a total cost of zero; older versions do not mark it.
    return any(isinstance(usage, Mapping) and usage.get("total_cost") == 0 for usage in usages)


def _messages_of(result: Any) -> list[Any]:
    """Return the message of each prompt's first generation; None where it has none."""
    prompts = getattr(result, "generations", None) or ()
    # More than one generation of a prompt share one request, and so one usage.
    return [getattr(generations[0], "message", None) for generations in prompts if generations]


def _tools_of(message: Any) -> list[str]:
    """Return the names of the tools that a message calls."""
    calls = getattr(message, "tool_calls", None) or ()
    names = [call.get("name") for call in calls if isinstance(call, Mapping)]
    return [name for name in names if isinstance(name, str) and name]


def _of_message(metadata: Any) -> Usage | None:
    """Read a message's `usage_metadata`."""
    if not isinstance(metadata, Mapping):
        return None
    inputs: Mapping[str, Any] = metadata.get("input_token_details") or {}
    outputs: Mapping[str, Any] = metadata.get("output_token_details") or {}
    input_tokens = _count(metadata, "input_tokens")
    output_tokens = _count(metadata, "output_tokens")
    if not input_tokens and not output_tokens:
        return None
    # The totals include the details; a detail above its total is a provider's mistake.
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


def token_usage_of(result: Any) -> Mapping[str, Any] | None:
    """Return the `token_usage` that older models put into their output, or None.

    Of a batch of a text model, LangChain leaves it with the first prompt's result, and puts an
    empty one into the others (`LLMResult.flatten`).
    """
    output = getattr(result, "llm_output", None)
    usage = output.get("token_usage") if isinstance(output, Mapping) else None
    return usage if isinstance(usage, Mapping) else None


def _of_output(usage: Mapping[str, Any] | None) -> Usage | None:
    """Read a `token_usage`."""
    if usage is None:
        return None
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return Usage(*counts) if any(counts) else None


def _count(fields: Mapping[str, Any], name: str) -> int:
    return token_count(fields.get(name)) or 0
