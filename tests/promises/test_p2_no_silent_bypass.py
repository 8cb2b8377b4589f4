"""P2: a generating call that is not gated or metered is said loudly, and the hook proves itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered
from tests.promises.scripts import run

from paygent import Paygent, paygent_context
from paygent.client.instrument.registry import instrumentation
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

APP = """
import sys
{first}
{second}
client = openai.OpenAI(max_retries=0)
with paygent.paygent_context(user_id="u1"):
    messages = [{{"role": "user", "content": "x"}}]
    print(client.chat.completions.create(model="gpt-4o", messages=messages).id)
usage = pg.get_usage("u1")
print(usage.period_cost, sorted(pg.health()["counts"]))
pg.shutdown()
client.close()
"""
INIT = """
import paygent
from paygent.ledger import handshake
handshake.PROBE_WAIT_S = 30.0  # a busy machine takes long to start the probe
pg = paygent.Paygent.init(api_key='pg_live_x', db_path=sys.argv[1])
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [(INIT, "import openai"), ("import openai", INIT)],
    ids=["init first", "sdk first"],
)
def test_p2__either_order_of_init_and_import__meters_an_unchanged_app(
    first: str, second: str, fake: FakeProvider, db_path: str
) -> None:
    """OPENAI_BASE_URL at a local server, an api_key, no backend: answered, metered, one warning."""
    out, err = run(
        APP.format(first=first, second=second),
        db_path,
        OPENAI_BASE_URL=fake.openai_url,
        OPENAI_API_KEY="k",
        PAYGENT_BASE_URL="http://127.0.0.1:9",
    )
    lines = out.splitlines()
    assert lines[0] == "chatcmpl-fake"
    assert lines[1].startswith("0.00045 ")
    assert err.count("PaygentBackendUnreachable") == 1


def test_p2__a_peer_that_wraps_the_client_class__is_noticed_and_the_call_counts_once(
    init: Init, fake: FakeProvider
) -> None:
    """Another instrumentation that owned `request` first, or took it later: gated, counted once."""
    pg = init()
    metered = Metered(pg)
    original = openai.OpenAI.request
    calls: list[int] = []

    def peer(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    openai.OpenAI.request = peer  # type: ignore[method-assign]
    try:
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert pg.health()["counts"]["hook_restored:openai"] == 1
        assert metered.only.quality == "exact"
        assert calls == [1]
    finally:
        instrumentation.uninstall()
        del openai.OpenAI.request


def test_p2__a_peer_that_skips_our_hook__cannot_bypass_the_gate(
    init: Init, fake: FakeProvider
) -> None:
    """A peer that calls the SDK's own method, kept from before `init`: the hook is put on top."""
    bare = openai.OpenAI.request

    def peer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bare(self, *args, **kwargs)

    pg = init()
    metered = Metered(pg)
    openai.OpenAI.request = peer  # type: ignore[method-assign]
    try:
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert metered.only.quality == "exact"
    finally:
        instrumentation.uninstall()
        del openai.OpenAI.request


def test_p2__a_call_without_a_user__is_counted_on_a_line_of_its_own(
    init: Init, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_missing_user="warn"`: metered on the reserved user, said once."""
    pg = init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert [(row.user_id, row.calls) for row in pg.report()] == [("(none)", 2)]
    assert caplog.text.count("has no user") == 1


@pytest.mark.parametrize(("policy", "user"), [("ignore", "(none)"), ("shared", "shared")])
def test_p2__a_call_without_a_user__follows_the_setting(
    policy: str, user: str, init: Init, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """In silence on the reserved user, or on the user that the setting names."""
    pg = init(on_missing_user=policy)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert [row.user_id for row in pg.report()] == [user]
    assert "no user" not in caplog.text


def test_p2__a_call_without_a_user__can_be_refused(init: Init, fake: FakeProvider) -> None:
    """`on_missing_user="block"` raises with `no_user` before anything is sent."""
    from paygent import PaygentLimitExceeded

    init(on_missing_user="block")
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with pytest.raises(PaygentLimitExceeded) as caught:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert caught.value.guard_result.gate_reason == "no_user"
    assert fake.requests == []


@pytest.mark.parametrize("bad", [None, "", "x" * 256, 3.5, object(), b"bytes", True])
def test_p2__a_bad_user_id__is_treated_as_missing_and_never_raises(
    bad: Any, init: Init, fake: FakeProvider
) -> None:
    """None, empty, too long or of another type: the provider's answer, on the reserved user."""
    pg = init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id=bad):
            answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.id == "chatcmpl-fake"
    assert [row.user_id for row in pg.report()] == ["(none)"]


def test_p2__calls_after_shutdown__pass_and_are_not_ours(init: Init, fake: FakeProvider) -> None:
    """A call belongs to the Paygent that began it; after `shutdown` calls pass."""
    pg = init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        pg.shutdown()
        assert (
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES).id == "chatcmpl-fake"
        )
    assert Paygent.get_instance() is None
    assert not pg.is_initialized


def test_p2__a_second_init__takes_over(init: Init, fake: FakeProvider, tmp_path: Any) -> None:
    """The first is shut down and has what it metered; later calls go to the second."""
    first = init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            second = init()
            assert not first.is_initialized
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert second.get_usage("u1").period_cost_nano == 2 * 450_000
    assert [row.calls for row in second.report()] == [2]


def test_p2__switched_off__nothing_is_patched_and_no_file_made(
    init: Init, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch, db_path: str
) -> None:
    """`PAYGENT_DISABLED=1`: no patch, no file, every verb answers."""
    import os

    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    request = openai.OpenAI.request
    pg = init()
    assert openai.OpenAI.request is request
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES).id
    assert pg.record_event("u1", cost=1).cost_total == 1.0
    assert pg.get_usage("u1").period_cost == 0.0
    assert pg.health()["mode"] == "off"
    pg.shutdown()
    assert not os.path.exists(os.path.dirname(db_path))
