"""Converts the usage objects of OpenAI's API to the normal form.

OpenAI reports totals that include cached tokens; compatible hosts (Gemini, xAI, DeepSeek, Moonshot,
OpenRouter) differ in details. Field names were read from the type definitions of openai 3.57
(2026-11).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

from paygent.core.money import read_cost_nano
from paygent.core.request_size import BYTES_PER_TOKEN, utf8_length
from paygent.core.usage import CountReader, Usage, fields_of, get, model_name, read_tier


def from_openai(usage: Any, *, model: Any = None, tier: Any = None) -> Usage | None:
    """Read the usage object of OpenAI's token-counting routes and of compatible hosts; None if it
    has no count.

    It has `{prompt_tokens, completion_tokens, …_details}` or `{input_tokens, output_tokens, …}`.
    """
    fields = fields_of(usage)
    prompt, completion = "prompt_tokens", "completion_tokens"
    if fields.get(prompt) is None and fields.get(completion) is None:
        prompt, completion = "input_tokens", "output_tokens"
        if fields.get(prompt) is None and fields.get(completion) is None:
            return None
    count = CountReader()
    input_tokens = count.read(fields, prompt)
    output_tokens = count.read(fields, completion)
    total = fields.get("total_tokens")
    # xAI and Gemini leave thinking out of the completion count but not out of the total.
    thought = max(total - input_tokens - output_tokens, 0) if type(total) is int else 0
    output_tokens += thought
    cached = written = written_long = audio_in = image_in = 0
    details = fields.get(prompt + "_details")
    if details is None:
        details = fields.get("input_token_details")  # of a transcription
    if details is not None:
        inputs = fields_of(details)
        cached = count.part(inputs, "cached_tokens", input_tokens)
        written = count.part(inputs, "cache_write_tokens", input_tokens - cached)
        lifetimes = inputs.get("cache_write_tokens_details")
        if lifetimes is not None:
            written_long = count.part(fields_of(lifetimes), "ttl_12h_tokens", written)
        audio_in = count.part(inputs, "audio_tokens", input_tokens)
        image_in = count.part(inputs, "image_tokens", input_tokens)
    else:
        for name in ("cached_tokens", "prompt_cache_hit_tokens"):  # Moonshot's and DeepSeek's names
            if fields.get(name) is not None:
                cached = count.part(fields, name, input_tokens)
    reasoning, audio_out, image_out = thought, 0, 0
    details = fields.get(completion + "_details")
    if details is not None:
        outputs = fields_of(details)
        reasoning = max(count.part(outputs, "reasoning_tokens", output_tokens), thought)
        audio_out = count.part(outputs, "audio_tokens", output_tokens)
        image_out = count.part(outputs, "image_tokens", output_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        cached,
        written - written_long,
        written_long,
        reasoning,
        audio_in,
        audio_out,
        image_in,
        image_out,
        model=model_name(model),
        tier=read_tier(tier),
        quality=count.quality,
    )


def with_hosted_tools(usage: Usage, *, tool_usage: Any, output: Any, tools: Any) -> Usage:
    """Add the usage of OpenAI's own tools in a response; `tools` name the model of its images.

    OpenAI bills by `tool_usage`. An answer without it (from an older server) is read from its
    output items instead, which have no token counts for images.
    """
    items: Iterable[Any] = output if isinstance(output, (list, tuple)) else ()
    kinds = [get(item, "type") for item in items]
    count = CountReader()
    others: tuple[Usage, ...] = ()
    unlisted = kinds.count("code_interpreter_call")
    if tool_usage is not None:
        searches = count.read(fields_of(get(tool_usage, "web_search")), "num_requests")
        images = _image_generation(get(tool_usage, "image_gen"), tools)
        if images is not None:
            others = (images,)
    else:
        # Opening a page and finding text in it are free.
        actions = [get(item, "action") for item in items if get(item, "type") == "web_search_call"]
        searches = sum(get(action, "type") in ("search", None) for action in actions)
        unlisted += kinds.count("image_generation_call")
    return usage._replace(
        web_searches=searches,
        file_searches=kinds.count("file_search_call"),
        unlisted_units=unlisted,
        others=others,
        quality=usage.quality if count.clean else "partial",
    )


_DEFAULT_IMAGE_MODEL = "gpt-image-1"  # the tool's default in its type definition


def _image_generation(image_gen: Any, tools: Any) -> Usage | None:
    """Return the usage of the images generated for a response; None if there are none."""
    usage = from_images(image_gen)
    if usage is None or not usage.total_tokens:
        return None
    listed: Iterable[Any] = tools if isinstance(tools, (list, tuple)) else ()
    models = [get(tool, "model") for tool in listed if get(tool, "type") == "image_generation"]
    named = (model for model in models if isinstance(model, str) and model)
    count = CountReader()
    cached = count.part(fields_of(image_gen), "cached_tokens", usage.input_tokens)
    images = fields_of(get(image_gen, "cached_tokens_details"))
    cached_images = count.part(images, "cached_image_tokens", min(cached, usage.image_input_tokens))
    return usage._replace(
        cached_input_tokens=cached - cached_images,
        cached_image_tokens=cached_images,
        image_input_tokens=usage.image_input_tokens - cached_images,
        model=next(named, _DEFAULT_IMAGE_MODEL),
    )


def from_images(usage: Any) -> Usage | None:
    """Read the usage of image generation; the output is all images unless details divide it."""
    images = from_openai(usage)
    if images is not None and get(usage, "output_tokens_details") is None:
        images = images._replace(image_output_tokens=images.output_tokens)
    return images


_AUDIO_S_MAX = 10**7  # four months; longer audio is a broken answer


def from_realtime(usage: Any, *, model: Any = None) -> Usage | None:
    """Read the usage of a Realtime response, which divides cached tokens by kind."""
    fields = fields_of(usage)
    if fields.get("input_tokens") is None and fields.get("output_tokens") is None:
        return None
    count = CountReader()
    whole = count.read(fields, "input_tokens")
    inputs = fields_of(fields.get("input_token_details"))
    audio = count.part(inputs, "audio_tokens", whole)
    image = count.part(inputs, "image_tokens", whole - audio)
    cached = count.part(inputs, "cached_tokens", whole)
    kinds = inputs.get("cached_tokens_details")
    cached_audio = cached_image = 0
    if kinds is not None:
        cached_audio = count.part(fields_of(kinds), "audio_tokens", min(cached, audio))
        most = min(cached - cached_audio, image)
        cached_image = count.part(fields_of(kinds), "image_tokens", most)
    elif cached:
        count.clean = False  # cached text, audio and images have different prices
    cached_text, text = cached - cached_audio - cached_image, whole - audio - image
    if cached_text > text:  # a kind cannot have more cached tokens than tokens
        cached_text, count.clean = text, False
    written = count.read(fields, "output_tokens")
    outputs = fields_of(fields.get("output_token_details"))
    return Usage(
        whole,
        written,
        cached_text,
        audio_input_tokens=audio - cached_audio,
        audio_output_tokens=count.part(outputs, "audio_tokens", written),
        image_input_tokens=image - cached_image,
        cached_image_tokens=cached_image,
        cached_audio_tokens=cached_audio,
        model=model_name(model),
        quality=count.quality,
    )


def from_transcription(usage: Any) -> Usage | None:
    """Read the usage of a transcription: `{type: "tokens", …}` or `{type: "duration", seconds}`."""
    seconds = get(usage, "seconds")
    is_timed = get(usage, "type") == "duration" or seconds is not None
    return from_seconds(seconds) if is_timed else from_openai(usage)


def from_seconds(seconds: Any) -> Usage | None:
    """Return usage that is billed by the duration of audio; None for an invalid duration."""
    if isinstance(seconds, str):  # older servers, in a verbose transcription
        try:
            seconds = float(seconds)
        except ValueError:
            return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    return Usage(audio_ms=round(seconds * 1000)) if 0 <= seconds <= _AUDIO_S_MAX else None


def read_billed(usage: Any) -> int | None:
    """Return the bill in nano-dollars that OpenRouter reports in a usage object, or None.

    If the application brought its own provider key, `cost` is OpenRouter's fee, and the model's
    provider bills `upstream_inference_cost` besides (openrouter.ai/docs, usage accounting,
    2026-11).
    """
    cost = get(usage, "cost")
    if cost is None:
        return None
    details = get(usage, "cost_details") if get(usage, "is_byok") is True else None
    upstream = get(details, "upstream_inference_cost")
    try:
        return read_cost_nano(cost) + (0 if upstream is None else read_cost_nano(upstream))
    except ValueError:
        return None


# -- usage derived from the request, for routes that may report none

_TTS_TOKENS_PER_CHARACTER = (7, 5)
"""Audio tokens of spoken text: gpt-4o-mini-tts makes about 1,250 a minute (its list price of $12
per million against OpenAI's figure of $0.015 a minute), and a minute of speech has 900 characters.
"""

_AUDIO_BYTES_PER_S = 16_000  # 128 kbit/s, for a file without a readable header
_AUDIO_TOKENS_PER_MINUTE = 1_000  # gpt-4o-transcribe: $6 per million, $0.006 a minute
_TEXT_TOKENS_PER_MINUTE = 200  # of transcribed speech
_MS_PER_MINUTE = 60_000


def usage_of_speech(body: Mapping[str, Any], files: Any) -> Usage | None:
    """Return the usage of a speech request: the characters of its text, or their tokens."""
    text = body.get("input")
    if not isinstance(text, str):
        return None
    tokens, characters = _TTS_TOKENS_PER_CHARACTER
    return Usage(
        input_tokens=-(-utf8_length(text) // BYTES_PER_TOKEN),
        output_tokens=-(-len(text) * tokens // characters),
        characters=len(text),
    )


def usage_of_audio(body: Mapping[str, Any], files: Any) -> Usage | None:
    """Return the usage of a transcription request: the duration of its audio, or its tokens.

    Only sizes and headers are read: a file is never consumed, and nothing blocks.
    """
    bytes_per_s, size = _AUDIO_BYTES_PER_S, 0
    for data in _contents(files):
        size += _size_of(data)
        if isinstance(data, bytes) and data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            bytes_per_s = int.from_bytes(data[28:32], "little") or bytes_per_s
    if not size:
        return None
    duration_ms = -(-size * 1000 // bytes_per_s)
    audio_tokens = -(-duration_ms * _AUDIO_TOKENS_PER_MINUTE // _MS_PER_MINUTE)
    text_tokens = -(-duration_ms * _TEXT_TOKENS_PER_MINUTE // _MS_PER_MINUTE)
    usage = Usage(audio_tokens, text_tokens, audio_input_tokens=audio_tokens)
    return usage._replace(audio_ms=duration_ms)


def _contents(files: Any) -> list[Any]:
    """Return the contents of a request's files, given in the form of its HTTP library."""
    pairs = files.items() if isinstance(files, Mapping) else files or ()
    files = [pair[1] for pair in pairs]
    return [file[1] if isinstance(file, tuple) and len(file) > 1 else file for file in files]


def _size_of(data: Any) -> int:
    """Return the size of a file's content in bytes without reading it; 0 if it is not known."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if isinstance(data, io.BytesIO):
        return data.getbuffer().nbytes
    if isinstance(data, (io.BufferedReader, io.FileIO)):
        return os.fstat(data.fileno()).st_size  # answered by the kernel from memory
    return 0  # a spooled file, for one, would be written to disk if asked for its descriptor
