"""The patches: put in once, taken out exactly, and in place whatever is imported when."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered
from tests.promises.scripts import run

from paygent import Paygent, ProviderConfig, ProviderRegistry, paygent_context
from paygent.client.instrument import registry
from paygent.client.instrument.http_sdks.hook import SdkHook
from paygent.client.instrument.openai import routes as openai_names
from paygent.client.instrument.patching.patches import Patches
from paygent.client.instrument.registry import Instrumentation, instrumentation
from paygent.client.instrument.threads import PoolHook
from paygent.failopen import diagnostics
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]


def patched_names() -> dict[str, Any]:
    """Everything that is patched, as it stands in its class now."""
    found: dict[str, Any] = {}
    for sdk in registry.SDKS:
        base = importlib.import_module(sdk.base_module)
        for name in sdk.base_clients:
            for method in ("request", "__init__"):
                found[f"{sdk.name}.{name}.{method}"] = vars(getattr(base, name))[method]
        for module_name, class_names in sdk.resources.items():
            try:
                module = importlib.import_module(module_name)
            except ImportError:  # this version of the SDK has it elsewhere
                continue
            for name in class_names:
                for method in sdk.resource_methods:
                    resource = getattr(module, name, None)
                    if resource is not None and method in vars(resource):
                        found[f"{module_name}.{name}.{method}"] = vars(resource)[method]
    return found


# -- in and out


def test_install__twice__patches_once_and_uninstall_restores_exactly() -> None:
    """Every method is the very object again that it was."""
    before, finders = patched_names(), list(sys.meta_path)
    own = Instrumentation()
    assert own.is_installed is False
    own.install()
    once = patched_names()
    own.install()
    assert patched_names() == once
    assert own.is_installed is True
    assert all(once[name] is not before[name] for name in before)
    own.uninstall()
    own.uninstall()
    assert patched_names() == before
    assert (own.is_installed, sys.meta_path) == (False, finders)


def test_install__the_wrappers__look_like_what_they_wrap() -> None:
    """Name, signature and kind stay for tools that inspect them."""
    import inspect

    before = patched_names()
    own = Instrumentation()
    own.install()
    after = patched_names()
    own.uninstall()
    for name, method in before.items():
        assert after[name].__wrapped__ is method
        assert inspect.signature(after[name]) == inspect.signature(method)
        assert inspect.iscoroutinefunction(after[name]) == inspect.iscoroutinefunction(method)


def test_uninstall__where_somebody_patched_over__leaves_theirs() -> None:
    """A peer's patch that came later is not thrown away."""
    from openai._base_client import SyncAPIClient

    own = Instrumentation()
    original = vars(SyncAPIClient)["request"]
    own.install()
    ours = vars(SyncAPIClient)["request"]

    def peer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    SyncAPIClient.request = peer  # type: ignore[method-assign]
    try:
        own.uninstall()
        assert vars(SyncAPIClient)["request"] is peer
    finally:
        SyncAPIClient.request = original  # type: ignore[method-assign]


def test_install__an_sdk_that_is_still_being_imported__is_patched_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may be in the middle of the import, found before our finder was there."""
    (tmp_path / "made_up_slow.py").write_text(
        "import made_up_gate\nmade_up_gate.inside.set()\nmade_up_gate.go_on.wait(30)\n"
        "class Client:\n    def ask(self):\n        return 'answer'\n"
    )
    gate: Any = ModuleType("made_up_gate")
    gate.inside, gate.go_on = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "made_up_gate", gate)
    monkeypatch.syspath_prepend(str(tmp_path))
    providers = ProviderRegistry()
    providers.register(ProviderConfig("slow", "made_up_slow", "Client", "ask"))
    importing = threading.Thread(target=importlib.import_module, args=("made_up_slow",))
    importing.start()
    assert gate.inside.wait(30)
    own = Instrumentation()
    own.provide(providers)
    own.install()
    gate.go_on.set()
    importing.join(30)
    for thread in threading.enumerate():
        if thread.name == "paygent-import":
            thread.join(30)
    module: Any = sys.modules.pop("made_up_slow")
    assert hasattr(module.Client.ask, "__wrapped__")
    own.uninstall()
    assert not hasattr(module.Client.ask, "__wrapped__")


def test_install__an_sdk_whose_import_fails__is_left() -> None:
    """What was waited for has not come, which is Python's to tell and nothing of ours."""
    own = Instrumentation()
    own.install()
    own._awaited["made_up_nowhere"] = [PoolHook("made_up_nowhere", "Nothing", starts=(), takes=())]
    own._install_in("made_up_nowhere")
    assert not [kind for kind in diagnostics.counts if kind.startswith("patch")]
    own.uninstall()


@pytest.mark.parametrize("kind", ["mock", "object"])
def test_install__where_something_without_a_binding_stands__calls_it_as_python_does(
    kind: str, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of the application's may have put a mock into a class: it gets no object."""
    from openai.resources.chat.completions import Completions

    class Answers:
        def __call__(self) -> str:
            return "answer"

    stand = Mock(return_value="answer") if kind == "mock" else Answers()
    monkeypatch.setattr(Completions, "create", stand)
    init()
    with openai.OpenAI(api_key="k") as client:
        found: Any = client.chat.completions.create()  # type: ignore[call-overload]
    assert found == "answer"


def test_client__whose_hook_was_taken_out_by_another_library__is_hooked_again(
    init: Init, fake: FakeProvider
) -> None:
    """Another library puts back what it had found before us, and our hook is gone: the next check
    puts it back, also for clients that were made before.
    """
    from openai._base_client import SyncAPIClient

    bare = vars(SyncAPIClient)["request"]
    pg = init()
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
        SyncAPIClient.request = bare  # type: ignore[method-assign]
        instrumentation.check()
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert metered.only.user_id == "u1"
    assert diagnostics.counts["hook_restored:openai"] == 1


def test_uninstall__where_one_patch_cannot_be_taken_out__takes_out_the_others(
    swallowed: Swallowed,
) -> None:
    """An odd class of another library costs the application nothing."""

    class Stubborn(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            if name in vars(cls) and vars(cls)[name] is not None:
                raise TypeError("no")
            super().__setattr__(name, value)

    class Odd(metaclass=Stubborn):
        ask: Any = None

    class Plain:
        def ask(self) -> str:
            return "plain"

    swallowed.expect("unpatch")
    patches, bare = Patches(), Plain.ask
    patches.put(Plain, "ask", lambda self: "ours")
    patches.put(Odd, "ask", lambda self: "ours")
    patches.take_out_all()
    assert Plain.ask is bare


def test_patches__what_is_done_once__is_undone_once() -> None:
    """However often it is asked for in between."""
    done: list[str] = []
    patches = Patches()
    for _ in range(3):
        patches.do_once("x", lambda: done.append("do"), lambda: done.append("undo"))
    patches.take_out_all()
    patches.take_out_all()
    assert done == ["do", "undo"]


def test_fork__while_another_thread_patches__the_child_can_patch(init: Init) -> None:
    """The thread that holds the lock is not there in the child."""
    init()
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with instrumentation._patches.lock:
            held.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:  # no test runs on here
        signal.alarm(20)
        instrumentation.install()
        os._exit(0)
    go_on.set()
    thread.join(30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_install__without_the_sdk__patches_nothing_and_imports_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app without a provider SDK gets none."""
    for name in ("openai", "anthropic"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    own = Instrumentation()
    own.install()
    assert not {"openai", "anthropic"} & set(sys.modules)
    own.uninstall()


# -- the proof


def test_client__of_a_subclass__is_metered(init: Init, fake: FakeProvider) -> None:
    """An app's own client class goes through the funnel as its base does."""

    class OwnClient(openai.OpenAI):
        """A client of the application's."""

    metered = Metered(init())
    with OwnClient(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert metered.only.quality == "exact"
    assert "hook_displaced:openai" not in diagnostics.counts


def test_client__of_a_subclass_with_its_own_request__is_hooked_and_counts_once(
    init: Init, fake: FakeProvider
) -> None:
    """A class that owns `request` is hooked when its first client is made: it displaced nothing."""

    class OwnRequest(openai.OpenAI):
        """A client that overrides the funnel."""

        def request(self, *args: Any, **kwargs: Any) -> Any:
            return super().request(*args, **kwargs)

    original = vars(OwnRequest)["request"]
    metered = Metered(init())
    for _ in range(2):
        with OwnRequest(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert [event.quality for event in metered.events] == ["exact"] * 2
    assert "hook_displaced:openai" not in diagnostics.counts
    owner: Any = OwnRequest
    ours = owner.request
    owner.request = original
    OwnRequest(api_key="k", base_url=fake.openai_url).close()
    assert owner.request is not original
    owner.request = ours
    assert diagnostics.counts["hook_restored:openai"] == 1
    instrumentation.uninstall()
    assert vars(OwnRequest)["request"] is original


async def test_client__async_with_its_own_request__is_noticed_and_counts_once(
    init: Init, fake: FakeProvider
) -> None:
    """The same for async clients."""

    class OwnRequest(openai.AsyncOpenAI):
        """A client that overrides the funnel."""

        async def request(self, *args: Any, **kwargs: Any) -> Any:
            return await super().request(*args, **kwargs)

    metered = Metered(init())
    url = fake.openai_url
    async with (
        OwnRequest(api_key="k", base_url=url, max_retries=0) as client,
        paygent_context("u1"),
    ):
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert metered.only.quality == "exact"


@pytest.mark.parametrize("place", ["before", "after", "client"])
async def test_client__async_behind_a_plain_function__counts_each_call_once(
    place: str, init: Init, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other code's `request` may return the awaitable of the SDK's own, put in at any moment."""
    from openai._base_client import AsyncAPIClient

    def forward(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: original(*args, **kwargs)

    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
        owner: Any = client if place == "client" else AsyncAPIClient
        with monkeypatch.context() as other:
            if place == "before":
                other.setattr(owner, "request", forward(owner.request))
            metered = Metered(init())
            if place != "before":
                other.setattr(owner, "request", forward(owner.request))
            instrumentation.check()
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            assert [event.quality for event in metered.events] == ["exact"]
            fake.script(Answer(status=500))
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert len(metered.events) == 1
    instrumentation.uninstall()  # last: else our wrapper stays inside the other code's


def test_client__made_after_uninstrument__is_not_hooked(init: Init) -> None:
    """A class that was watched is let go."""
    pg = init()
    watched = openai.OpenAI.__init__
    pg.uninstrument()
    assert openai.OpenAI.__init__ is watched  # the client's own; its base class is what we watch

    class OwnRequest(openai.OpenAI):
        """A client that overrides the funnel."""

        def request(self, *args: Any, **kwargs: Any) -> Any:
            return super().request(*args, **kwargs)

    original = vars(OwnRequest)["request"]
    OwnRequest(api_key="k", base_url="http://127.0.0.1:9").close()
    assert vars(OwnRequest)["request"] is original


def test_hook_again__after_uninstall__does_nothing() -> None:
    """A client made by a thread while another uninstalls is left alone."""
    own = Instrumentation()
    before = vars(openai.OpenAI.__mro__[1])["request"]
    SdkHook(openai_names)._hook_again(openai.OpenAI, own._patches)
    own._install_in("openai")
    assert vars(openai.OpenAI.__mro__[1])["request"] is before


async def test_client__with_a_request_of_its_own__is_noticed_and_counts_once(
    init: Init, fake: FakeProvider
) -> None:
    """Some instrumentations give one client a `request`, which hides what its class has; set before
    `init` or after it, in sync and async clients.
    """
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as before:
        bare = before.request
        before.request = lambda *args, **kwargs: bare(*args, **kwargs)  # type: ignore[method-assign]
        pg = init()
        metered = Metered(pg)
        for _ in range(2):
            before.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert [event.quality for event in metered.events] == ["exact"] * 2
        pg.uninstrument()
        before.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert len(metered.events) == 2
        pg.instrument()
    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
        ours = client.request

        async def request(*args: Any, **kwargs: Any) -> Any:
            return await ours(*args, **kwargs)

        client.request = request  # type: ignore[method-assign]
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert [event.quality for event in metered.events] == ["exact"] * 3
    assert diagnostics.counts["hook_restored:openai"] == 2


def test_uninstrument__where_somebody_has_patched_over__passes_calls_on(
    init: Init, fake: FakeProvider
) -> None:
    """Our wrapper stays inside theirs, and counts nothing until `instrument`; then once."""
    pg = init()
    metered = Metered(pg)
    owner: Any = openai.OpenAI.__mro__[1]
    ours = vars(owner)["request"]

    def peer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    owner.request = peer
    try:
        pg.uninstrument()
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            assert metered.events == []
            pg.instrument()
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            assert metered.only.quality == "exact"
    finally:
        instrumentation.uninstall()
        owner.request = ours.__wrapped__


# -- SDKs of other shapes


class FakeClient:
    """A client of a made-up SDK."""

    def __init__(self) -> None:
        self.base_url = "http://x"

    def request(self, cast_to: Any, options: Any) -> str:
        """Answer."""
        return "answer"


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A made-up SDK that lacks most of what ours knows."""
    client = type("Client", (FakeClient,), {})
    base = ModuleType("made_up._base_client")
    base.Base = FakeClient  # type: ignore[attr-defined]
    package = ModuleType("made_up")
    package.Client = client  # type: ignore[attr-defined]
    resources = ModuleType("made_up.resources")
    resources.NotAClass = object()  # type: ignore[attr-defined]
    resources.Chat = type("Chat", (), {"create": lambda self: 1, "parse": 5})  # type: ignore[attr-defined]
    for each in (package, base, resources):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    made = SimpleNamespace(
        name="made_up",
        module="made_up",
        base_module="made_up._base_client",
        clients=("Client",),
        base_clients=("Base",),
        resources={
            "made_up.resources": ("Chat", "Missing", "NotAClass"),
            "made_up.gone": ("Chat",),
        },
        resource_methods=("create", "parse", "stream"),
        package=package,
        chat=resources.Chat,
    )
    monkeypatch.setattr(registry, "SDKS", (made,))
    yield made


def test_install__modules_and_classes_that_a_version_lacks__are_passed_over(
    sdk: SimpleNamespace,
) -> None:
    """What is there is patched; what is not is no failure."""
    bare = vars(FakeClient)["request"]
    own = Instrumentation()
    own.install()
    assert vars(FakeClient)["request"] is not bare
    assert vars(sdk.chat)["parse"] == 5
    assert sdk.chat().create() == 1
    own.uninstall()
    assert vars(FakeClient)["request"] is bare


def test_install__while_another_thread_imports_a_resource_module__does_not_wait_for_it(
    sdk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that ends calls back, and waits for the lock that `install` holds."""
    (tmp_path / "made_up_slow.py").write_text(
        "import made_up_gate\nmade_up_gate.inside.set()\nmade_up_gate.go_on.wait(5)\n"
        "class Chat:\n    def create(self):\n        return 2\n"
    )
    gate: Any = ModuleType("made_up_gate")
    gate.inside, gate.go_on = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "made_up_gate", gate)
    monkeypatch.syspath_prepend(str(tmp_path))
    sdk.resources["made_up_slow"] = ("Chat",)
    importing = threading.Thread(target=importlib.import_module, args=("made_up_slow",))
    importing.start()
    assert gate.inside.wait(30)
    own = Instrumentation()
    own.install()
    assert importing.is_alive()
    gate.go_on.set()
    importing.join(30)
    for thread in threading.enumerate():
        if thread.name == "paygent-import":
            thread.join(30)
    chat: Any = sys.modules.pop("made_up_slow").__dict__["Chat"]
    assert hasattr(chat.create, "__wrapped__")
    assert chat().create() == 2
    own.uninstall()


RESOURCES = """
    import sys
    import {name}
    import {before}
    from paygent.client.instrument.registry import instrumentation
    modules = set(sys.modules)
    instrumentation.install()
    print(sorted(module for module in set(sys.modules) - modules if module.startswith("{name}")))
    import {after}
    for module, owner in (("{before}", "{before_class}"), ("{after}", "{after_class}")):
        methods = vars(getattr(sys.modules[module], owner))
        print(hasattr(methods.get("create", methods.get("generate")), "__wrapped__"))
"""


@pytest.mark.parametrize(
    ("name", "before", "before_class", "after", "after_class"),
    [
        ("openai", "openai.resources.batches", "Batches", "openai.resources.images", "Images"),
        (
            "openai",
            "openai.resources.embeddings",
            "Embeddings",
            "openai.resources.chat.completions",
            "AsyncCompletions",
        ),
        (
            "anthropic",
            "anthropic.resources.messages",
            "Messages",
            "anthropic.resources.beta.messages",
            "AsyncMessages",
        ),
    ],
)
def test_install__resource_modules__are_patched_whenever_they_are_imported(
    name: str, before: str, before_class: str, after: str, after_class: str
) -> None:
    """`init` itself imports no module of an SDK: those are large, and imported when first used."""
    code = textwrap.dedent(RESOURCES).format(
        name=name, before=before, before_class=before_class, after=after, after_class=after_class
    )
    out, _ = run(code)
    assert out.split() == ["[]", "True", "True"]


def test_install__an_sdk_of_an_unknown_shape__is_counted_and_left_alone(
    sdk: SimpleNamespace, swallowed: Swallowed
) -> None:
    """A version that moved everything does not break the app."""
    swallowed.expect("patch:made_up")
    del sdk.package.Client
    own = Instrumentation()
    own.install()
    assert diagnostics.counts["patch:made_up"] == 1
    own.uninstall()


def test_install__a_class_that_refuses_the_hook__is_said_loudly(
    sdk: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """No silent bypass: a class that drops what is set on it fails the self-check."""

    class Stubborn(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            """Drop what is set."""

    sdk.package.Client = Stubborn("Client", (FakeClient,), {"request": FakeClient.request})
    own = Instrumentation()
    own.install()
    assert "The hook in made_up is not in place" in caplog.text
    assert diagnostics.counts["unhooked:made_up"] == 1
    sdk.package.Client()
    assert diagnostics.counts["unhooked:made_up"] == 2
    own.uninstall()


LATER = """
    import importlib, sys, warnings
    import paygent
    pg = paygent.Paygent.init(db_path=sys.argv[1])
    assert "{name}" not in sys.modules
    import {name}
    spec = {name}.__spec__
    print(type(spec.loader).__module__, {name}.__loader__ is spec.loader, pg.is_instrumented)
    importlib.reload({name})
    print(type({name}.__spec__.loader).__module__)
    client = {name}.{client}(api_key="k", base_url=sys.argv[2], max_retries=0)
    {call}
    client.close()
    print([row.calls for row in pg.report()], sorted(pg.health()["counts"]))
    pg.shutdown()
"""
CALLS = {
    "openai": (
        "OpenAI",
        'client.chat.completions.create(model="gpt-4o", messages=[], paygent_user_id="u")',
    ),
    "anthropic": (
        "Anthropic",
        'client.messages.create(model="claude-x", max_tokens=5, messages=[], paygent_user_id="u")',
    ),
}


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_import__of_an_sdk_after_init__is_patched_and_has_its_real_loader(
    name: str, fake: FakeProvider, tmp_path: Path
) -> None:
    """In a fresh process: `init` imports no SDK, and the import that follows is hooked."""
    client, call = CALLS[name]
    code = textwrap.dedent(LATER).format(name=name, client=client, call=call)
    url = fake.openai_url if name == "openai" else fake.url
    out, _ = run(code, str(tmp_path / "x" / "local.db"), url)
    lines = out.splitlines()
    assert lines[0].endswith("_external True True")
    assert lines[1].endswith("_external")
    assert lines[2].startswith("[1] ")
    assert "unhooked" not in lines[2]


def test_install__by_many_threads_at_once__patches_once() -> None:
    """Two `init`s at a time leave one patch."""
    before = patched_names()
    own = Instrumentation()
    threads = [threading.Thread(target=own.install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each.__wrapped__ in before.values() for each in patched_names().values())
    own.uninstall()
    assert patched_names() == before
