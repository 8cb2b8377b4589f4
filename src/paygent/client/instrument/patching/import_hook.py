"""Modules as they are imported: calls back after the import of those that are waited for.

Paygent imports no SDK itself. What is imported already is patched at once; for the rest a finder
stands first in `sys.meta_path`, finds the module as everyone else would, and lends it a loader that
calls back when the module has run. An import that has begun before is waited for by a thread.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from paygent.failopen import attempt

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def is_imported(name: str) -> bool:
    """Tell whether a module's import has begun."""
    return name in sys.modules


def is_under_way(name: str) -> bool:
    """Tell whether a module is being imported, here or by another thread."""
    return bool(getattr(_spec_of(name), "_initializing", False))


def _spec_of(name: str) -> Any:
    """Return the spec of a module, without waking one that loads itself when it is looked at."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    return object.__getattribute__(module, "__dict__").get("__spec__")


def after_import(name: str, then: Callable[[str], None]) -> None:
    """Call back once an import has ended that was under way before anybody could look.

    What waits is a thread of its own: the import may be waiting for this one.
    """

    def wait() -> None:
        bootstrap: Any = importlib._bootstrap
        attempt("import", bootstrap._lock_unlock_module, name)
        then(name)

    Thread(target=wait, name="paygent-import", daemon=True).start()


class AfterImport:
    """Finds modules as everyone else would, and calls back after the import of some."""

    def __init__(self, awaited: Mapping[str, Any], then: Callable[[str], None]) -> None:
        """Wait for nothing yet: it has to be put into `sys.meta_path`.

        Args:
            awaited: The names of the modules that are waited for.
            then: Called with the name of a module that has been imported.
        """
        self.awaited = awaited
        self._then = then
        self._here = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an awaited module's own spec with a loader that calls back; None for others."""
        asked: set[str] = self._here.__dict__.setdefault("asked", set())
        if name not in self.awaited or name in asked:
            return None  # or another finder asks all others, as this one does
        asked.add(name)
        try:
            spec = self._find(name, path, target)
        finally:
            asked.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            then = functools.partial(self._then, name)
            spec.loader = cast(Any, _CallingBack(spec.loader, then))
        return spec

    def is_told_of(self, name: str) -> bool:
        """Tell whether the import of a module that is under way will call back."""
        return isinstance(getattr(_spec_of(name), "loader", None), _CallingBack)

    def _find(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


class _CallingBack:
    """A loader that does what the real one does and then calls back."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave the making of the module to the real loader."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, give it its real loader back, and call back."""
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._then()

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # while it is copied
            raise AttributeError(name)
        return getattr(self._loader, name)
