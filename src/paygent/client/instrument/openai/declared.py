"""Derives usage from OpenAI's requests alone, for routes whose answers may report none.

Only sizes and headers are read: a file is never consumed, and nothing blocks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from paygent.core.request_size import BYTES_PER_TOKEN, utf8_length
from paygent.core.usage import Usage

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
    """Return the usage of a transcription request: the duration of its audio, or its tokens."""
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
    return Usage(
        input_tokens=audio_tokens,
        output_tokens=text_tokens,
        audio_input_tokens=audio_tokens,
        audio_ms=duration_ms,
    )


def _contents(files: Any) -> list[Any]:
    """Return the contents of a request's files, given in the form of its HTTP library."""
    pairs = files.items() if isinstance(files, Mapping) else files or ()
    return [
        file[1] if isinstance(file, tuple) and len(file) > 1 else file
        for file in (pair[1] for pair in pairs)
    ]


def _size_of(data: Any) -> int:
    """Return the size of a file's content in bytes without reading it; 0 if it is not known."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if isinstance(data, io.BytesIO):
        return data.getbuffer().nbytes
    if isinstance(data, (io.BufferedReader, io.FileIO)):
        return os.fstat(data.fileno()).st_size  # answered by the kernel from memory
    return 0  # a spooled file, for one, would be written to disk if asked for its descriptor
