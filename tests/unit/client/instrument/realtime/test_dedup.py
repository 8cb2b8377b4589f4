"""What several connections to one conversation have counted."""

from __future__ import annotations

from paygent.client.instrument.realtime import dedup
from paygent.client.instrument.realtime.dedup import CountedResponses, counted_of


def test_counted__what_one_connection_claims__no_other_one_gets() -> None:
    """The owner may ask again."""
    both = counted_of("rtc_1")
    first, second = object(), object()
    assert both.claim("resp_1", first)
    assert not counted_of("rtc_1").claim("resp_1", second)
    assert both.claim("resp_1", first)
    assert not both.claim_new("resp_1", first)
    assert counted_of("rtc_2").claim_new("resp_1", second)


def test_counted__a_long_conversation__forgets_the_oldest() -> None:
    """Memory is bounded, in a conversation and in their number."""
    long, owner = CountedResponses(), object()
    for number in range(dedup._IDS_MAX + 10):
        long.claim(str(number), owner)
    assert not long.claim_new("10", owner)
    assert long.claim_new("9", owner)
    for number in range(dedup._SHARED_MAX + 10):
        counted_of(f"many_{number}")
    assert len(dedup._shared) == dedup._SHARED_MAX


def test_counted__a_conversation_that_is_joined_again__is_not_the_oldest() -> None:
    """Nor is what it has counted forgotten."""
    kept = counted_of("joined_again")
    for number in range(2):
        for other in range(dedup._SHARED_MAX - 1):
            counted_of(f"other_{number}_{other}")
        assert counted_of("joined_again") is kept


def test_counted__seconds__are_taken_once() -> None:
    """A total that is reported twice, or falls, adds nothing."""
    live = CountedResponses()
    taken = []
    for total_ms in (3_000, 3_000, 2_000, 5_000):
        live.raise_audio_total(total_ms)
        taken.append(live.take_audio())
    assert taken == [3_000, 0, 0, 2_000]
    live.add_audio(400)
    assert live.take_audio(at_least_ms=1_000) == 0
    live.add_audio(600)
    assert live.take_audio(at_least_ms=1_000) == 1_000
