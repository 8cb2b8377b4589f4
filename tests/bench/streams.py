"""The overhead of a stream: the taps' time per chunk, and the memory of a long stream."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.figures import show

from paygent.client.instrument.anthropic.answers import MessageStream
from paygent.client.instrument.openai.answers import ChatStream, ResponseStream, read_chat
from paygent.client.instrument.streams.byte_tap import BytesReader
from paygent.client.instrument.streams.iterator_tap import IteratorTap
from paygent.client.instrument.streams.reader import StreamReader
from paygent.core.estimate import Estimate

CHUNKS = 20_000


class _Ending:
    """Ends no call, so that only the taps are measured."""

    def __call__(self) -> None:
        """Do nothing."""

    end_exhausted = end_abandoned = end_from_finalizer = __call__


def _chunk(kind: str) -> Any:
    """Return a chunk of text as the SDK produces it."""
    if kind == "chat":
        from openai.types.chat import ChatCompletionChunk

        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
        fields = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
        return ChatCompletionChunk.model_validate({**fields, "choices": [choice]})
    if kind == "responses":
        from openai.types.responses import ResponseTextDeltaEvent

        place = {"item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 1}
        fields = {"type": "response.output_text.delta", "delta": "word ", "logprobs": []}
        return ResponseTextDeltaEvent.model_validate({**fields, **place})
    from anthropic.types import RawContentBlockDeltaEvent

    delta = {"type": "text_delta", "text": "word "}
    return RawContentBlockDeltaEvent.model_validate(
        {"type": "content_block_delta", "index": 0, "delta": delta}
    )


_READERS: dict[str, Callable[[bool, bool], StreamReader]] = {
    "chat": ChatStream,
    "responses": ResponseStream,
    "messages": MessageStream,
}


def _per_chunk(source: Callable[[], Iterator[Any]], rounds: int = 9) -> list[int]:
    """Return nanoseconds per chunk, for several passes over a whole stream."""
    readings = []
    for _ in range(rounds):
        stream = source()
        start = time.perf_counter_ns()
        for _ in stream:
            pass
        readings.append((time.perf_counter_ns() - start) // CHUNKS)
    return readings


def streams() -> None:
    """Measure the time the taps add per chunk, and the memory a long stream keeps."""
    print(f"streams of {CHUNKS} chunks, the taps alone (budget: ≤ 0.5 µs per chunk, memory O(1))")
    for kind, make in _READERS.items():
        chunk = _chunk(kind)

        def bare(chunk: Any = chunk) -> Iterator[Any]:
            return iter([chunk] * CHUNKS)

        def tapped(chunk: Any = chunk, make: Any = make) -> Iterator[Any]:
            return iter(IteratorTap(iter([chunk] * CHUNKS), make(False, False), _Ending(), None))  # type: ignore[arg-type]

        least = min(_per_chunk(bare))
        show(f"{kind}, per chunk", [reading - least for reading in _per_chunk(tapped)])
    data = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}],"model":"gpt-4o"}\n\n'
    readings = []
    for _ in range(9):
        reader = BytesReader(
            {"content-type": "text/event-stream"}, ChatStream(False, False), read_chat
        )
        start = time.perf_counter_ns()
        for _ in range(CHUNKS):
            reader.feed_bytes(data)
        readings.append((time.perf_counter_ns() - start) // CHUNKS)
    show("chat read raw, per chunk (also parsed)", readings)
    _memory()


def _memory() -> None:
    reader = ChatStream(False, False)
    chunk = _chunk("chat")
    tap = iter(IteratorTap(iter([chunk] * CHUNKS), reader, _Ending(), None))  # type: ignore[arg-type]
    gc.collect()
    tracemalloc.start()
    for _ in tap:
        pass
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    usage = reader.usage(Estimate(0, 0))
    assert usage is not None
    assert usage.output_tokens == CHUNKS * 5 // 4
    print(f"    memory kept per stream: {kept / 1024:.1f} kB (budget 1 MB)")
