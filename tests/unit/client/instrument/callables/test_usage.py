"""Reading answers and chunks of any known shape, and the envelopes around them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import Swallowed

from paygent import ProviderConfig
from paygent.client.instrument.callables.usage import AnyStream, reader_for
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage

ESTIMATE = Estimate(50, 60)
ANSWER = {"model": "gpt-4o", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def tokens(usage: Usage | JobStatus | None) -> tuple[int, int] | None:
    """Input and output."""
    return (usage.input_tokens, usage.output_tokens) if isinstance(usage, Usage) else None


class WithParse:
    """Answers with a method of the name, each of another kind."""

    def __init__(self, parse: Any) -> None:
        self.parse = parse


class NeedsText:
    """A parser of the application's."""

    def parse(self, text: str) -> Any:
        """Fail the test: it may not be called."""
        raise AssertionError("called")


class Optional:
    """An envelope that may be told what to open it as."""

    def parse(self, *, to: Any = None, **more: Any) -> Any:
        """Open it."""
        return ANSWER


class Async:
    """An async envelope."""

    async def parse(self) -> Any:
        """Fail the test: it may not be awaited."""
        raise AssertionError("awaited")


class Hidden:
    """An async envelope behind a decorator that hides it."""

    async def _open(self) -> Any:
        raise AssertionError("awaited")

    def parse(self) -> Any:
        """Give a coroutine."""
        return self._open()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Optional(), (3, 4)),
        (NeedsText(), None),
        (Async(), None),
        (Hidden(), None),
        (WithParse(5), None),
        (WithParse(lambda: ANSWER), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reader__an_envelope__is_opened_only_if_that_is_a_plain_method(
    answer: Any, expected: Any
) -> None:
    """Nothing that wants an argument or is awaited is called."""
    assert tokens(reader_for("", ())(answer, False)) == expected


def test_reader__an_envelope_that_cannot_be_opened__is_the_guards_to_swallow() -> None:
    """The caller reads inside a guard; an error passes to it."""

    class Broken:
        def parse(self) -> Any:
            raise KeyError("x")

    with pytest.raises(KeyError):
        reader_for("", ())(Broken(), False)


def test_reader__extractors__are_asked_in_order_until_one_finds_something(
    swallowed: Swallowed,
) -> None:
    """One that fails is counted under its name; one that finds nothing is passed over."""
    swallowed.expect("extract_tokens:broken")
    asked: list[str] = []

    def extract(name: str, found: Any) -> Any:
        def read(answer: Any) -> Any:
            asked.append(name)
            return found if found != "raise" else answer["missing"]

        return ProviderConfig(name, "m", "C", "f", extract_tokens=read)

    configs = [
        extract("broken", "raise"),
        ProviderConfig("none", "m", "C", "f"),
        extract("empty", (0, 0)),
        extract("good", (1, 2)),
        extract("late", (3, 4)),
    ]
    read = reader_for("", configs)
    assert tokens(read({}, False)) == (1, 2)
    assert asked == ["broken", "empty", "good"]
    assert tokens(reader_for("none", configs)(ANSWER, False)) == (3, 4)


CHAT = [{"choices": [{"delta": {"content": "Hi"}}], "model": "gpt-4o"}, {"choices": [], **ANSWER}]
RESPONSES = [
    {"type": "response.created", "response": {"model": "gpt-4o"}},
    {"type": "response.completed", "response": {**ANSWER, "model": "gpt-4o"}},
]
MESSAGES = [
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}},
    {"type": "message_delta", "usage": {"output_tokens": 4}},
]


@pytest.mark.parametrize(
    "chunks", [CHAT, RESPONSES, MESSAGES], ids=["chat", "responses", "messages"]
)
def test_any_stream__the_first_chunk__tells_whose_it_is(chunks: list[Any]) -> None:
    """The usage is read; no chunk is kept from the application."""
    reader = AnyStream(False, True)
    assert not any(reader.feed(chunk) for chunk in chunks)
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)


def test_any_stream__nothing_seen__is_unknown() -> None:
    """Then the estimate is booked."""
    assert AnyStream(False, False).usage(ESTIMATE) is None
    reader = AnyStream(False, False)
    reader.feed(object())
    assert reader.usage(ESTIMATE) is None
