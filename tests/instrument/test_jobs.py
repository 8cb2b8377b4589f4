"""Work that a provider does after its answer: background responses and batches are booked when
they begin, and set right, once, when anybody hears of their use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.coverage import MESSAGE, batch_of

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.core.report_rows import UsageRow
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]

HAS_RESPONSES = hasattr(openai.OpenAI, "responses")
BEGUN: dict[str, Any] = {"model": "gpt-4o-mini", "input": "hi", "background": True}
ESTIMATE = (1, 50, 30_150)
"""Of "hi" with 50 tokens at most, by gpt-4o-mini at 0.15 and 0.60 dollars a million."""
EXACT = (100, 20, 27_000)


def rows(pg: Paygent) -> list[UsageRow]:
    """What is booked, by user and model, without what is nothing at all."""
    found = pg.report(by=("user", "model"))
    return [row for row in found if row.calls or row.cost_nano or row.input_tokens]


def booked(pg: Paygent) -> list[tuple[str, int, tuple[int, int, int], int]]:
    """User, calls, (input, output, cost) and doubtful calls, of each row."""
    return [
        (row.user_id, row.calls, (row.input_tokens, row.output_tokens, row.cost_nano),
         row.doubtful_calls)
        for row in rows(pg)
    ]  # fmt: skip


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A sync client of the fake provider, without retries."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(fake: FakeProvider) -> Iterator[anthropic.Anthropic]:
    """The same for Anthropic."""
    with anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0) as made:
        yield made


def begin(client: Any) -> str:
    """Start a response in the background as user u1, and return its id."""
    with paygent_context(user_id="u1", session_id="s1"):
        return str(client.responses.create(**BEGUN, max_output_tokens=50).id)


if HAS_RESPONSES:

    def test_background__retrieved_by_another_process__is_its_users(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """Whoever asks, the use belongs to the call that began the work, and is booked once."""
        pg = init()
        response_id = begin(client)
        assert booked(pg) == [("u1", 1, ESTIMATE, 1)]
        pg.shutdown()
        for _ in range(2):  # each process knows nothing of what the others have heard
            pg = init()
            with paygent_context(user_id="somebody else"):
                client.responses.retrieve(response_id)
                client.responses.retrieve(response_id)
            assert booked(pg) == [("u1", 1, EXACT, 0)]
            pg.shutdown()

    def test_background__of_an_unknown_caller__is_who_asks(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """Work that was begun without Paygent was paid too."""
        with paygent_context(user_id="u1"):
            response_id = client.responses.create(**BEGUN).id
        pg = init()
        with paygent_context(user_id="u2"):
            client.responses.retrieve(response_id)
        assert booked(pg) == [("u2", 0, EXACT, 0)]

    @pytest.mark.parametrize(
        ("status", "expected", "doubtful"),
        [
            ("queued", ESTIMATE, 1),
            ("in_progress", ESTIMATE, 1),
            ("cancelled", ESTIMATE, 1),  # nobody says what it had used by then
            ("failed", (0, 0, 0), 0),
            ("completed", EXACT, 0),
        ],
    )
    def test_background__a_status__decides_what_is_booked(
        status: str,
        expected: tuple[int, int, int],
        doubtful: int,
        init: Init,
        fake: FakeProvider,
        client: Any,
    ) -> None:
        """Until it is over, and where nobody tells, what was held stays booked; a failure is
        free.
        """
        pg = init()
        response_id = begin(client)
        fake.script(Answer(job=status))
        client.responses.retrieve(response_id)
        assert booked(pg) == [("u1", 1, expected, doubtful)]

    @pytest.mark.parametrize("how", ["raw", "streaming", "cancel", "stream", "left stream"])
    def test_background__however_it_is_asked_for__is_set_right(
        how: str, init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """Raw, as bytes, by a cancellation that came too late; an event stream that is left early
        tells nothing.
        """
        pg = init()
        response_id = begin(client)
        if how == "raw":
            client.responses.with_raw_response.retrieve(response_id)
        elif how == "streaming":
            with client.responses.with_streaming_response.retrieve(response_id) as response:
                response.read()
        elif how == "cancel":
            client.responses.cancel(response_id)
        else:
            stream = client.responses.retrieve(response_id, stream=True)
            if how == "stream":
                list(stream)
            else:
                next(iter(stream))
                stream.close()
        expected = (ESTIMATE, 1) if how == "left stream" else (EXACT, 0)
        assert booked(pg) == [("u1", 1, *expected)]

    def test_background__a_stream_that_is_left__goes_on_and_is_set_right(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """Who stops reading does not stop the work: what was held is booked, then what was used."""
        pg = init()
        with paygent_context(user_id="u1"):
            stream = client.responses.create(**BEGUN, max_output_tokens=50, stream=True)
            response_id = next(iter(stream)).response.id
            stream.close()
        assert booked(pg) == [("u1", 1, ESTIMATE, 1)]
        client.responses.retrieve(response_id)
        assert booked(pg) == [("u1", 1, EXACT, 0)]

    def test_background__answered_at_once__is_booked_once(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """A stream that was read to its end has told its use; asking again adds nothing."""
        pg = init()
        with paygent_context(user_id="u1"):
            last = list(client.responses.create(**BEGUN, stream=True))[-1]
        client.responses.retrieve(last.response.id)
        assert booked(pg) == [("u1", 1, EXACT, 0)]
        pg.shutdown()
        pg = init()
        client.responses.retrieve(last.response.id)
        assert booked(pg) == [("u1", 1, EXACT, 0)]

    def test_background__a_response_that_was_not__is_not_counted_when_retrieved(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """Stored responses may be read again and again; they were counted when they were made."""
        pg = init()
        with paygent_context(user_id="u1"):
            response = client.responses.create(model="gpt-4o-mini", input="hi")
            client.responses.retrieve(response.id)
        assert booked(pg) == [("u1", 1, EXACT, 0)]

    def test_background__a_user_at_the_cap__may_fetch_what_is_paid(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """Asking costs nothing, so no limit stands in its way; the next start is refused."""
        pg = init()
        pg.configure_plan("small", PlanConfig(max_spend_per_period=0.00002))
        pg.assign_plan("u1", "small")
        response_id = begin(client)
        with paygent_context(user_id="u1"):
            assert client.responses.retrieve(response_id).status == "completed"
        with pytest.raises(PaygentLimitExceeded):
            begin(client)

    def test_background__in_memory__is_set_right_at_once(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """The difference counts for the next call, before the ledger has it."""
        pg = init()
        events: list[Any] = []
        pg.on_usage(events.append)
        response_id = begin(client)
        client.responses.retrieve(response_id)
        pg.flush()
        assert pg.get_usage("u1").period_cost_nano == EXACT[2]
        first, second = events
        assert (first.quality, second.quality, second.corrects) == ("estimated", "exact", first.id)
        assert (second.session_id, second.timestamp) == ("s1", first.timestamp)
        assert second.cost_total_nano == EXACT[2] - ESTIMATE[2]
        assert (second.input_tokens, second.output_tokens) == (99, -30)

    def test_background__booked_with_a_tier__costs_by_it(
        init: Init, fake: FakeProvider, client: Any
    ) -> None:
        """The answer's own tier counts: gpt-5 flex is half of 1.25 and 10 dollars."""
        pg = init()
        with paygent_context(user_id="u1"):
            response_id = client.responses.create(**{**BEGUN, "model": "gpt-5"}).id
        fake.script(Answer(tokens=Tokens(service_tier="flex")))
        client.responses.retrieve(response_id)
        assert booked(pg) == [("u1", 1, (100, 20, 162_500), 0)]


# -- batches


def start_batch(client: Any) -> str:
    """Start a batch as user u1, and return its id."""
    with paygent_context(user_id="u1"):
        return str(
            client.batches.create(
                input_file_id="file-1", endpoint="/v1/embeddings", completion_window="24h"
            ).id
        )


def test_batch__retrieved_by_another_process__is_its_users_at_batch_price(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """The model is known only now; the call stays the one that began it."""
    pg = init()
    batch_id = start_batch(client)
    pg.shutdown()
    pg = init()
    with paygent_context(user_id="somebody else"):
        client.batches.retrieve(batch_id)
    found = {row.model: (row.user_id, row.calls, row.cost_nano) for row in rows(pg)}
    assert found == {"": ("u1", 1, 0), "gpt-4o-mini": ("u1", 0, 13_500)}
    assert sum(row.doubtful_calls for row in rows(pg)) == 0


@pytest.mark.parametrize("job", ["validating", "in_progress", "finalizing", "failed", "expired"])
def test_batch__that_tells_no_use__costs_nothing_so_far(
    job: str, init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Nothing is booked before it is over, nor for one that was refused as a whole."""
    pg = init()
    batch_id = start_batch(client)
    fake.script(Answer(job=job))
    client.batches.retrieve(batch_id)
    assert [(row.calls, row.cost_nano) for row in rows(pg)] == [(1, 0)]


def test_batch__its_model_limit__counts_what_it_used(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Tokens of a batch are tokens of its model, for limits as for reports."""
    pg = init()
    pg.configure_plan("p", PlanConfig(model_limits={"gpt-4o-mini": {"max_tokens_per_period": 100}}))
    pg.assign_plan("u1", "p")
    client.batches.retrieve(start_batch(client))
    pg.flush()
    assert pg.get_usage("u1").period_tokens_by_model == {"gpt-4o-mini": 120}
    assert pg.is_within_limit("u1", model="gpt-4o-mini") is False


def batches_of(claude: Any) -> Any:
    """The batches of the installed SDK: in old ones those of `beta`."""
    return getattr(claude.messages, "batches", None) or claude.beta.messages.batches


def test_message_batch__read_by_another_process__is_its_users(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Results that are read elsewhere correct the estimate of the whole batch."""
    pg = init()
    with paygent_context(user_id="u1"):
        batch_id = batches_of(claude).create(**batch_of("a", "b")).id
    assert booked(pg) == [("u1", 1, (10, 128, 650_000), 1)]
    pg.shutdown()
    pg = init()
    with paygent_context(user_id="somebody else"):
        list(batches_of(claude).results(batch_id))
    assert booked(pg) == [("u1", 1, (200, 40, 400_000), 0)]


def test_message_batch__of_known_requests__is_held_for_what_they_take(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Single calls of the model have told what one takes: a batch of them is that many, at batch
    price, not what all of them could take at most.
    """
    pg = init()
    with paygent_context(user_id="u1"):
        for _ in range(3):
            claude.messages.create(**MESSAGE)
        batches_of(claude).create(**batch_of("a", "b", "c", "d"))
    assert booked(pg) == [("u1", 4, (300 + 400, 60 + 80, 3 * 400_000 + 4 * 200_000), 1)]


def test_message_batch__that_does_not_fit__is_refused_as_a_whole(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """In a strict plan a batch is held at all that its requests may take, and nothing is sent."""
    pg = init()
    plan = PlanConfig(max_spend_per_period=0.002, pre_call_estimate=True)
    pg.configure_plan("default", plan)
    with paygent_context(user_id="u1"):
        batches_of(claude).create(**batch_of("a", "b"))  # at most 128 tokens out, at 5 dollars
        sent = len(fake.requests)
        with pytest.raises(PaygentLimitExceeded):
            batches_of(claude).create(**batch_of(*"abcdef"))
    assert len(fake.requests) == sent


def test_message_batch__read_in_part__keeps_its_estimate_until_it_is_read_whole(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """A part of the results says nothing about the rest."""
    pg = init()
    with paygent_context(user_id="u1"):
        batch_id = batches_of(claude).create(**batch_of("a", "b", "c")).id
        results = batches_of(claude).results(batch_id)
        next(iter(results))
        if hasattr(results, "close"):
            results.close()
        del results
        assert [row.doubtful_calls for row in rows(pg)] == [1]
        list(batches_of(claude).results(batch_id))
    assert booked(pg) == [("u1", 1, (300, 60, 600_000), 0)]


@pytest.mark.parametrize("how", ["raw", "streaming"] if HAS_RESPONSES else [None])
def test_message_batch__read_raw__is_read_line_by_line(
    how: str | None, init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Results that the application takes as bytes tell the same; the oldest SDKs give them only
    as lines.
    """
    pg = init()
    batches = batches_of(claude)
    with paygent_context(user_id="u1"):
        batch_id = batches.create(**batch_of("a", "bad", "b")).id
        if how == "raw":
            batches.with_raw_response.results(batch_id).http_response.read()
        elif how is None:
            list(batches.results(batch_id))
        else:
            with batches.with_streaming_response.results(batch_id) as response:
                assert b"".join(response.iter_bytes()).count(b"\n") == 3
    assert booked(pg) == [("u1", 1, (200, 40, 400_000), 0)]


def test_message_batch__of_two_models__is_booked_on_each(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Each model's share costs by its own list: claude-haiku-4-5 batch 0.50 and 2.50."""
    pg = init()
    batch = batch_of("a", "b")
    params = {**batch["requests"][1]["params"], "model": "claude-haiku-4-5"}
    batch["requests"][1] = {"custom_id": "b", "params": params}
    with paygent_context(user_id="u1"):
        batch_id = batches_of(claude).create(**batch).id
        list(batches_of(claude).results(batch_id))
    found = {row.model: (row.calls, row.input_tokens, row.cost_nano) for row in rows(pg)}
    assert found == {
        "claude-sonnet-5-5": (1, 100, 200_000),
        "claude-haiku-4-5": (0, 100, 100_000),
    }


def test_message_batch__large_requests__have_their_own_tier(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Of claude-haiku-5-5, two requests of 150,000 tokens are above its tier, each for itself."""
    pg = init()
    batch = batch_of("a", "b")
    for request in batch["requests"]:
        request["params"] = {**request["params"], "model": "claude-haiku-5-5"}
    with paygent_context(user_id="u1"):
        batch_id = batches_of(claude).create(**batch).id
        large = Answer(tokens=Tokens(input=150_000, output=0))
        fake.script(Answer(), large)  # the second is that of the results
        list(batches_of(claude).results(batch_id))
    assert booked(pg) == [("u1", 1, (300_000, 0, 75_000_000), 0)]
