"""Calls back after the import of awaited modules, since Paygent imports no SDK itself.

A finder is first in `sys.meta_path`: it finds the module through the other finders, and gives it a
loader that calls back once the module has run. A thread waits for imports that began earlier.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from threading import Thread
from types import ModuleType
from typing import Any, cast

from paygent.failopen import attempt


def is_under_way(name: str) -> bool:
    """Return whether a module is being imported, by any thread."""
    return bool(getattr(_spec_of(name), "_initializing", False))


def _spec_of(name: str) -> Any:
    """Return the spec of a module without loading a lazy one, which any attribute access does."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    return object.__getattribute__(module, "__dict__").get("__spec__")


def after_import(name: str, then: Callable[[str], None]) -> None:
    """Call back once an import has ended that was under way before the finder was in place."""

    def wait() -> None:
        # Python has no public way to wait for an import; this is what `import` itself does.
        bootstrap: Any = importlib._bootstrap
        attempt("import", bootstrap._lock_unlock_module, name)
        then(name)

    # A separate thread waits, since the import may be waiting for the current one.
    Thread(target=wait, name="paygent-import", daemon=True).start()


class AfterImport:
    """A finder that delegates to the others, and calls back after the import of some modules."""

    def __init__(self, awaited: Mapping[str, Any], then: Callable[[str], None]) -> None:
        self.awaited = awaited  # names of modules
        self._then = then  # called with the name of a module that has been imported
        self._here = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an awaited module's own spec with a loader that calls back; None for others."""
        searched: set[str] = self._here.__dict__.setdefault("searched", set())
        if name not in self.awaited or name in searched:
            return None  # another finder may delegate to all others too: no endless recursion
        searched.add(name)
        try:
            # `importlib.util.find_spec` would start with this finder again.
            others = [finder for finder in sys.meta_path if finder is not self]
            finders = (finder for finder in others if hasattr(finder, "find_spec"))
            specs = (finder.find_spec(name, path, target) for finder in finders)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            searched.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = cast(Any, _CallingBack(spec.loader, functools.partial(self._then, name)))
        return spec

    def handles(self, name: str) -> bool:
        """Return whether the import of a module that is under way will call back."""
        return isinstance(getattr(_spec_of(name), "loader", None), _CallingBack)


class _CallingBack:
    """A loader that calls back after the real one."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module with the real loader."""
        return cast("ModuleType | None", self._loader.create_module(spec))

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, give it its real loader back, and call back."""
        self._loader.exec_module(module)
        # Tools such as `inspect` and `pkgutil` look at the loader.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._then()

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # while it is copied
            raise AttributeError(name)
        return getattr(self._loader, name)
