"""Modules as they are imported: calls back after the import of those that are waited for.

Paygent imports no SDK itself. What is imported already is patched at once; for the rest a finder
stands first in `sys.meta_path`, finds the module as everyone else would, and lends it a loader that
calls back when the module has run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def is_imported(name: str) -> bool:
    """Tell whether a module's import has finished (another thread may be in it)."""
    module = sys.modules.get(name)
    if module is None:
        return False
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)


class AfterImport:
    """Finds modules as everyone else would, and calls back after the import of some."""

    def __init__(self, awaited: Mapping[str, Any], then: Callable[[str], None]) -> None:
        """Wait for nothing yet: it has to be put into `sys.meta_path`.

        Args:
            awaited: The names of the modules that are waited for; looked at anew each time.
            then: Called with the name of a module that has been imported.
        """
        self._awaited = awaited
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an awaited module's own spec with a loader that calls back; None for others."""
        if name not in self._awaited:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                loader = spec.loader
                if loader is not None and hasattr(loader, "exec_module"):
                    then = functools.partial(self._then, name)
                    spec.loader = cast(Any, _CallingBack(loader, then))
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
        return getattr(self._loader, name)
