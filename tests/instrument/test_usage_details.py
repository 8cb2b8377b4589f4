"""The finer parts of a usage, through the real SDKs: hosted tools, advisors, compaction, caches,
tiers and speed, in answers and in streams, each at its price.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
from tests.instrument.coverage import MESSAGE, RESPONSE
from tests.instrument.shapes import Metered, drain

from paygent import Paygent
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]


class Case(NamedTuple):
    """One kind of usage.

    Attributes:
        tokens: What the answer says.
        nano: What it costs.
        quality: How far that can be trusted.
    """

    tokens: Tokens
    nano: int
    quality: str = "exact"


ADVICE = {
    "type": "advisor_message",
    "model": "claude-opus-5",
    "input_tokens": 1_000,
    "output_tokens": 100,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_creation": None,
}
COMPACTION = {
    "type": "compaction",
    "input_tokens": 3_000,
    "output_tokens": 200,
    "cache_read_input_tokens": 500,
    "cache_creation_input_tokens": 0,
    "cache_creation": None,
}
PLAIN = 100 * 2_000 + 20 * 10_000
"""claude-sonnet-5-5: 2.00 and 10.00 dollars a million, cached 0.10, written 2.50 and 4.00."""

CLAUDE = {
    "cache read": Case(Tokens(cached=60), 40 * 2_000 + 60 * 100 + 20 * 10_000),
    "cache written for 5 minutes": Case(
        Tokens(cache_write=60), 40 * 2_000 + 60 * 2_500 + 20 * 10_000
    ),
    "cache written for an hour": Case(
        Tokens(cache_write_long=60), 40 * 2_000 + 60 * 4_000 + 20 * 10_000
    ),
    "thinking": Case(Tokens(reasoning=15), PLAIN),
    "web searches": Case(Tokens(web_searches=3), PLAIN + 30_000_000),
    "in the US": Case(Tokens(inference_geo="us"), PLAIN * 11 // 10),
    "priority": Case(Tokens(service_tier="priority"), PLAIN, "estimated"),
    "compaction": Case(
        Tokens(extra={"iterations": [COMPACTION]}),
        PLAIN + 3_000 * 2_000 + 500 * 100 + 200 * 10_000,
    ),
    "an advisor": Case(  # claude-opus-5: 5.00 and 25.00
        Tokens(extra={"iterations": [ADVICE]}), PLAIN + 1_000 * 5_000 + 100 * 25_000
    ),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("name", CLAUDE)
def test_claude__a_part_of_the_usage__costs_its_price(
    name: str, streams: bool, init: Init, fake: FakeProvider
) -> None:
    """Streams tell it in their last event, and cost what answers cost."""
    case = CLAUDE[name]
    metered = Metered(init())
    fake.default = Answer(tokens=case.tokens)
    with anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0) as client:
        answer: Any = client.beta.messages.create(**MESSAGE, stream=streams)
        if streams:
            drain(answer)
    event = metered.only
    assert (event.cost_total_nano, event.quality) == (case.nano, case.quality)
    assert event.model == "claude-sonnet-5-5"


NO_IMAGES: dict[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
DRAWN: dict[str, Any] = {
    "input_tokens": 50,
    "output_tokens": 1_000,
    "total_tokens": 1_050,
    "input_tokens_details": {"text_tokens": 50, "image_tokens": 0},
}
PLAIN_GPT = 100 * 1_250 + 20 * 10_000
"""gpt-5: 1.25 and 10.00 dollars a million, searches 10.00 a thousand, of files 2.50."""


def used(searches: int = 0, image_gen: dict[str, Any] = NO_IMAGES) -> dict[str, Any]:
    """What hosted tools did."""
    return {"web_search": {"num_requests": searches}, "image_gen": image_gen}


GPT = {
    "web searches": Case(Tokens(tool_usage=used(3)), PLAIN_GPT + 30_000_000),
    "no tool at all": Case(Tokens(tool_usage=used()), PLAIN_GPT),
    "images": Case(  # gpt-image-1-mini: text 2.00, output 8.00
        Tokens(tool_usage=used(image_gen=DRAWN)), PLAIN_GPT + 50 * 2_000 + 1_000 * 8_000
    ),
    "searches without their count": Case(
        Tokens(items=("web_search_call", "web_search_call:open_page", "file_search_call")),
        PLAIN_GPT + 10_000_000 + 2_500_000,
    ),
    "a code interpreter": Case(Tokens(items=("code_interpreter_call",)), PLAIN_GPT, "unpriced"),
    "flex": Case(Tokens(service_tier="flex"), PLAIN_GPT // 2),
    "priority": Case(Tokens(service_tier="priority"), PLAIN_GPT * 2),
    "scale": Case(Tokens(service_tier="scale"), PLAIN_GPT, "estimated"),
    "cache read": Case(Tokens(cached=60), 40 * 1_250 + 60 * 125 + 20 * 10_000),
}

if hasattr(openai.OpenAI, "responses"):

    @pytest.mark.parametrize("streams", [False, True])
    @pytest.mark.parametrize("name", GPT)
    def test_gpt__a_part_of_the_usage__costs_its_price(
        name: str, streams: bool, init: Init, fake: FakeProvider
    ) -> None:
        """What OpenAI's own tools did is billed beside the tokens, and booked in the same event."""
        case = GPT[name]
        metered = Metered(init())
        fake.default = Answer(tokens=case.tokens)
        tools = [{"type": "image_generation", "model": "gpt-image-1-mini"}]
        with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
            body: Any = {**RESPONSE, "model": "gpt-5", "tools": tools}
            answer = client.responses.create(**body, stream=streams)
            if streams:
                drain(answer)
        event = metered.only
        assert (event.cost_total_nano, event.quality) == (case.nano, case.quality)
        assert (event.model, event.total_tokens) == ("gpt-5", 120)
