"""Which SDKs are patched, where, and the proof that the patch is in place.

An SDK is patched when `init` finds it imported, otherwise in the moment after its import; Paygent
itself imports none. The patch goes to the class in the method resolution order that owns `request`,
because another instrumentation may have put its own there: a patch further down would never be
called. A self-check runs after each patch and whenever a client is made. Providers that the
application registered are patched in the same way, at the methods that it names (`custom.py`).

| SDK | from | patched | beside others |
|---|---|---|---|
| openai | 1.60 | `request` of `SyncAPIClient` and `AsyncAPIClient`, or its owner | any order |
| anthropic | 0.40 | the same names in its own package | any order |
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from paygent.failopen import attempt, failures
from paygent.instrument import anthropic, openai
from paygent.instrument.custom import Target, find, say_missing, targets_of, wrap_method
from paygent.instrument.funnel import wrap_async, wrap_resource, wrap_sync

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from paygent.providers import ProviderRegistry

SDKS: tuple[Any, ...] = (openai, anthropic)

_INHERITED = object()  # stands for a method that the patched class took from a base


class Instrumentation:
    """The patches of this process. Installed once, however many `Paygent`s come and go."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wrappers: set[Callable[..., Any]] = set()
        self._undo: list[tuple[type, str, Any, Any]] = []
        self._patched: set[str] = set()
        self._arguments_only = False
        self._finder: _AfterImport | None = None
        self._hooks: dict[str, list[Any]] = {}
        self._registry: ProviderRegistry | None = None
        self._provided: dict[Target, tuple[type, str, Any, Any]] = {}
        self._bare: dict[Any, Any] = {}  # wrappers of registered providers, and what is in them

    @property
    def is_installed(self) -> bool:
        """Whether SDKs are patched, or will be when they are imported."""
        return self._finder is not None and not self._arguments_only

    def install(self, arguments_only: bool = False) -> None:
        """Patch what is imported and see to what is imported later; idempotent.

        Args:
            arguments_only: Gate and meter nothing, but take the `paygent_*` arguments out of calls,
                which the SDKs would refuse (Paygent is switched off).
        """
        with self._lock:
            if arguments_only and self.is_installed:
                return
            if not arguments_only and self._arguments_only:
                self._patched.clear()
            self._arguments_only = arguments_only
            hooks = self._hooks_now()
            self._hooks.update(hooks)
            for module in self._hooks.keys() - hooks.keys():
                del self._hooks[module]
            if self._finder is None:
                self._finder = _AfterImport(self._hooks, self._patch_all)
                sys.meta_path.insert(0, self._finder)
            for module, patched in hooks.items():
                if module in sys.modules and _is_imported(sys.modules[module]):
                    self._patch_all(patched)

    def _hooks_now(self) -> dict[str, list[Any]]:
        """Return what is patched in which module: our own SDKs and what is registered by now."""
        hooks: dict[str, list[Any]] = {sdk.module: [sdk] for sdk in SDKS}
        for target in targets_of(self._registry.all()) if self._registry is not None else ():
            hooks.setdefault(target.module, []).append(target)
        return hooks

    def provide(self, registry: ProviderRegistry | None) -> None:
        """Have the application's providers patched by `install`, in place of those of before."""
        with self._lock:
            for undo in reversed(self._provided.values()):
                self._undo.remove(undo)
                _restore(*undo)
            self._provided.clear()
            self._bare.clear()
            self._registry = registry

    def uninstall(self) -> None:
        """Restore what was patched, where nobody has patched over it since."""
        with self._lock:
            if self._finder is not None and self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            self._finder = None
            self._arguments_only = False
            for undo in reversed(self._undo):
                _restore(*undo)
            self._undo.clear()
            self._provided.clear()
            self._bare.clear()
            self._wrappers.clear()
            self._patched.clear()

    def _patch_all(self, patched: list[Any]) -> None:
        for each in list(patched):
            if isinstance(each, Target):
                attempt(f"patch:{each.config.name}", self._patch_target, each)
            else:
                self._patch(each)

    def _patch_target(self, target: Target) -> None:
        """Put gate and meter around a method of a registered provider."""
        with self._lock:
            found = find(target, sys.modules[target.module])
            if self._finder is None:
                return
            if found is None:
                say_missing(target)
                return
            owner, method = found
            if target in self._provided and self._provided[target][0] is owner:
                return  # a reload of the module would have made another class
            original = owner.__dict__.get(target.method, _INHERITED)
            if original is _INHERITED:  # from a base that may be registered too, as another
                method = self._bare.get(method, method)
            wrapper = wrap_method(target, method, lambda: self.is_installed)
            self._replace(owner, target.method, original, wrapper)
            self._provided[target] = self._undo[-1]
            self._bare[wrapper] = method
            if owner.__dict__.get(target.method) is not wrapper:
                say_missing(target)

    def _patch(self, sdk: Any) -> None:
        attempt(f"patch:{sdk.name}", self._patch_sdk, sdk)

    def _patch_sdk(self, sdk: Any) -> None:
        with self._lock:
            if sdk.name in self._patched or self._finder is None:
                return
            self._patched.add(sdk.name)
            if self._arguments_only:
                self._patch_resources(sdk)
                return
            package = sys.modules[sdk.module]
            for class_name in sdk.clients:
                self._patch_owner(sdk, getattr(package, class_name))
            base = importlib.import_module(sdk.base_module)
            for class_name in sdk.base_clients:
                self._watch_clients(sdk, getattr(base, class_name))
            self._patch_resources(sdk)
            for class_name in sdk.clients:
                if not self.is_hooked(getattr(package, class_name)):
                    failures.say(f"unhooked:{sdk.name}", "the hook in %s is not in place", sdk.name)

    def _patch_owner(self, sdk: Any, client_class: type) -> None:
        owner = _owner(client_class)
        original = owner.__dict__["request"]
        if original in self._wrappers:
            return
        wrap = wrap_async if inspect.iscoroutinefunction(inspect.unwrap(original)) else wrap_sync
        self._replace(owner, "request", original, wrap(original, sdk))

    def _replace(self, owner: type, name: str, original: Any, wrapper: Any) -> None:
        setattr(owner, name, wrapper)
        self._wrappers.add(wrapper)
        self._undo.append((owner, name, original, wrapper))

    def _watch_clients(self, sdk: Any, base_class: type) -> None:
        """Have every new client checked: its class may own a `request` that we have not seen."""
        original = base_class.__dict__["__init__"]
        if original in self._wrappers:
            return

        @functools.wraps(original)
        def init(client: Any, *args: Any, **kwargs: Any) -> None:
            original(client, *args, **kwargs)
            if _owner(type(client)).__dict__["request"] not in self._wrappers:
                attempt(f"self_check:{sdk.name}", self._hook_again, sdk, type(client))

        self._replace(base_class, "__init__", original, init)

    def _hook_again(self, sdk: Any, client_class: type) -> None:
        """Put the hook on top of what has displaced it; the funnel sees to it that a call counts
        once.
        """
        with self._lock:
            if self._finder is None:
                return
            owner = _owner(client_class)
            failures.say(
                f"hook_displaced:{sdk.name}",
                "%s.request was replaced by other code; the hook is put on top of it",
                owner.__name__,
            )
            self._patch_owner(sdk, client_class)
            if not self.is_hooked(client_class):
                failures.say(f"unhooked:{sdk.name}", "the hook in %s is not in place", sdk.name)

    def is_hooked(self, client_class: type) -> bool:
        """Tell whether a call of a client of this class reaches the funnel first."""
        return _owner(client_class).__dict__["request"] in self._wrappers

    def _patch_resources(self, sdk: Any) -> None:
        """Have the resource methods take the `paygent_*` arguments; a version lacks some modules or
        classes.
        """
        for module_name, class_names in sdk.resources.items():
            try:
                module = importlib.import_module(module_name)
            except ImportError:
                continue
            for class_name in class_names:
                resource = getattr(module, class_name, None)
                if isinstance(resource, type):
                    self._patch_resource(sdk, resource)

    def _patch_resource(self, sdk: Any, resource: type) -> None:
        for name in sdk.resource_methods:
            original = resource.__dict__.get(name)
            if callable(original) and original not in self._wrappers:
                is_coroutine = inspect.iscoroutinefunction(original)
                wrapper = wrap_resource(original, is_coroutine=is_coroutine)
                self._replace(resource, name, original, wrapper)


def _restore(owner: type, name: str, original: Any, wrapper: Any) -> None:
    """Take a patch out, unless somebody has patched over it since."""
    if owner.__dict__.get(name) is not wrapper:
        return
    if original is _INHERITED:
        delattr(owner, name)
    else:
        setattr(owner, name, original)


def _owner(client_class: type) -> type:
    """Return the class in the resolution order that defines `request`."""
    return next(each for each in client_class.__mro__ if "request" in each.__dict__)


def _is_imported(module: ModuleType) -> bool:
    """Tell whether a module's import has finished (another thread may be in it)."""
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)


class _AfterImport:
    """Finds the SDKs' modules as everyone else would, and calls back after their import."""

    def __init__(self, sdks: dict[str, Any], then: Callable[[Any], None]) -> None:
        self._sdks = sdks
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an SDK's own spec with a loader that calls back; None for other modules."""
        sdk = self._sdks.get(name)
        if sdk is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                loader = spec.loader
                if loader is not None and hasattr(loader, "exec_module"):
                    spec.loader = cast(
                        Any, _CallingBack(loader, functools.partial(self._then, sdk))
                    )
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


instrumentation = Instrumentation()
"""The process's patches."""
