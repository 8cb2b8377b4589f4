"""The import hook: modules are found, run and left as if nobody had looked."""

from __future__ import annotations

import copy
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from paygent.client.instrument.patching.import_hook import AfterImport


class Finder(importlib.abc.MetaPathFinder):
    """Finds one made-up module."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the module, or None for others."""
        if name != "made_up_later":
            return None
        return importlib.machinery.ModuleSpec(name, self.loader)


class Loader(importlib.abc.Loader):
    """Runs nothing."""

    note = "the real one"

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module something."""
        module.ran = True  # type: ignore[attr-defined]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """An import hook for one module, whose call-backs are listed."""
    called: list[Any] = []
    awaited = {"made_up_later": True}
    finder = AfterImport(awaited, called.append)
    monkeypatch.setattr(sys, "meta_path", [finder, object(), Finder(Loader()), *sys.meta_path])
    yield called
    sys.modules.pop("made_up_later", None)


def test_import_hook__after_the_import__calls_back_and_leaves_the_real_loader(
    later: list[Any],
) -> None:
    """The module is as if nobody had looked."""
    module: Any = importlib.import_module("made_up_later")
    assert (module.ran, later) == (True, ["made_up_later"])
    assert type(module.__spec__.loader) is Loader
    assert type(module.__loader__) is Loader


def test_import_hook__a_reload__is_safe(later: list[Any]) -> None:
    """A reloaded module is called back for again, and has its real loader again."""
    module = importlib.import_module("made_up_later")
    importlib.reload(module)
    assert later == ["made_up_later"] * 2
    assert type(module.__spec__.loader) is Loader  # type: ignore[union-attr]


def test_import_hook__what_tools_ask_of_the_loader__is_answered(later: list[Any]) -> None:
    """Until the import is over the loader in the spec answers for the real one."""
    spec = sys.meta_path[0].find_spec("made_up_later", None)
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.note == "the real one"  # type: ignore[attr-defined]
    assert sys.meta_path[0].find_spec("something_else", None) is None


def test_import_hook__a_module_without_a_spec__is_run_all_the_same(later: list[Any]) -> None:
    """Odd importers make modules without one."""
    spec = sys.meta_path[0].find_spec("made_up_later", None)
    assert spec is not None
    assert spec.loader is not None
    bare = ModuleType("made_up_later")
    spec.loader.exec_module(bare)
    assert (later, type(bare.__loader__)) == (["made_up_later"], Loader)


def test_import_hook__copied_while_it_imports__is_the_real_loader_again(later: list[Any]) -> None:
    """Tools copy specs and loaders."""
    spec = sys.meta_path[0].find_spec("made_up_later", None)
    assert spec is not None
    assert copy.copy(spec.loader).note == "the real one"  # type: ignore[union-attr]


def test_import_hook__beside_a_finder_that_asks_all_others__ends(
    later: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two asks the other; the module is found once, and both see it."""

    class Asks(importlib.abc.MetaPathFinder):
        def __init__(self) -> None:
            self.asked = 0

        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            self.asked += 1
            others = [each for each in sys.meta_path if each is not self]
            specs = (each.find_spec(name, path) for each in others if hasattr(each, "find_spec"))
            return next((spec for spec in specs if spec is not None), None)

    peer = Asks()
    monkeypatch.setattr(sys, "meta_path", [peer, *sys.meta_path])
    importlib.import_module("made_up_later")
    assert (later, peer.asked) == (["made_up_later"], 2)


@pytest.mark.parametrize("loader", [None, SimpleNamespace()])
def test_import_hook__a_loader_of_another_kind__is_left_alone(
    loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A namespace package has no code that we could wait for."""
    hook = AfterImport({"made_up_later": True}, print)
    monkeypatch.setattr(sys, "meta_path", [hook, Finder(loader)])
    spec = hook.find_spec("made_up_later", None)
    assert spec is not None
    assert spec.loader is loader


def test_import_hook__a_module_that_is_not_there__is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app without the SDK gets Python's own ImportError."""
    hook = AfterImport({"made_up_nowhere": True}, print)
    monkeypatch.setattr(sys, "meta_path", [hook, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="made_up_nowhere"):
        importlib.import_module("made_up_nowhere")
