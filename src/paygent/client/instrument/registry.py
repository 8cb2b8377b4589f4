"""Which patches are installed in this process, and when.

A hook waits for a module: it is installed when `init` finds the module imported, otherwise right
after its import. Paygent itself imports none of them: hooks are installed under a lock, for which a
thread that is importing one of the modules may wait.

| hook | from | patched |
|---|---|---|
| openai | 1.60 | `request` of `SyncAPIClient` and `AsyncAPIClient`, or its owner |
| anthropic | 0.40 | the same names in its own package |
| litellm | 1.60 | its functions and streams; hooks below let them pass (`litellm/`) |
| websockets | 14 | connections to the Realtime and Responses APIs (`realtime/`) |
| SDKs without a hook | | nothing; their import is logged (`uninstrumented.py`) |
| threads and pools | | `Thread.start`, and submission to executors and pools (`threads.py`) |
| registered providers | | the methods that the application names (`callables/registered.py`) |
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from paygent.client.instrument import threads, uninstrumented
from paygent.client.instrument.anthropic import routes as anthropic_routes
from paygent.client.instrument.callables.registered import Target, TargetHook, targets_of
from paygent.client.instrument.http_sdks.hook import ArgumentsHook, SdkHook
from paygent.client.instrument.http_sdks.route import Sdk
from paygent.client.instrument.litellm.hook import LiteLLMHook
from paygent.client.instrument.openai import routes as openai_routes
from paygent.client.instrument.patching.import_hook import AfterImport, after_import, is_under_way
from paygent.client.instrument.patching.patches import Hook, Patch, Patches
from paygent.client.instrument.realtime.hook import HOOKS as REALTIME_HOOKS
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics

if TYPE_CHECKING:
    from paygent.client.runtime.providers import ProviderRegistry

SDKS: tuple[Sdk, ...] = (openai_routes, anthropic_routes)


def _create_hooks() -> list[Hook]:
    sdk_hooks = [SdkHook(sdk) for sdk in SDKS]
    argument_hooks = [
        ArgumentsHook(sdk_hook, module)
        for sdk_hook in sdk_hooks
        for module in sdk_hook.sdk.resources
    ]
    return [*sdk_hooks, *argument_hooks, *REALTIME_HOOKS, LiteLLMHook(), *uninstrumented.HOOKS]


class Instrumentation:
    """The patches of this process. Installed once, however many `Paygent`s come and go."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._thread_patches = Patches()  # apart, since an application may not want them
        self._own: list[Hook] = []
        self._installed: dict[Hook, ModuleType] = {}  # the modules that our own hooks have patched
        self._registry: ProviderRegistry | None = None
        self._provided: dict[Target, TargetHook] = {}
        self._bare: dict[Any, Any] = {}  # registered providers' originals, by their wrappers
        self._awaited: dict[str, list[Hook]] = {}
        self._finder: AfterImport | None = None
        self._propagates_user = True  # to threads and pools

    @property
    def is_installed(self) -> bool:
        """Whether SDKs are patched, or will be when they are imported."""
        return self._patches.switch.is_on

    def install(self, arguments_only: bool = False) -> None:
        """Patch imported modules now and others after their import; idempotent. While Paygent is
        disabled, only the hooks that remove the `paygent_*` arguments, which SDKs would refuse.
        """
        with self._patches.lock:
            if arguments_only and self.is_installed:
                return
            self._patches.switch.is_on = not arguments_only
            self._thread_patches.switch.is_on = self._propagates_user and not arguments_only
            self._own = self._own or _create_hooks()
            self._await()
            if self._finder is None:
                # First in the list, or another finder would import the module unnoticed.
                self._finder = AfterImport(self._awaited, self._install_in)
                sys.meta_path.insert(0, self._finder)
            for module in self._awaited:
                if is_under_way(module) and not self._finder.handles(module):
                    after_import(module, self._install_in)
                elif module in sys.modules and not is_under_way(module):
                    self._install_in(module)

    def _await(self) -> None:
        """Note the modules that hooks wait for."""
        registered = targets_of(self._registry.all()) if self._registry is not None else ()
        for target in registered:
            self._provided.setdefault(target, TargetHook(target, self._bare))
        self._patches.provided = {target.module for target in registered}
        thread_hooks = threads.HOOKS if self._thread_patches.switch.is_on else ()
        awaited: dict[str, list[Hook]] = {}
        for hook in (*self._own, *self._provided.values(), *thread_hooks):
            if self.is_installed or hook.takes_arguments:
                awaited.setdefault(hook.module, []).append(hook)
        self._awaited = awaited  # a new dict: the finder reads it without a lock
        if self._finder is not None:
            self._finder.awaited = awaited

    def _install_in(self, module: str) -> None:
        with self._patches.lock:
            for hook in self._awaited.get(module, ()) if self._finder is not None else ():
                attempt(f"patch:{hook.name}", self._install, hook)

    def _install(self, hook: Hook) -> None:
        module = sys.modules.get(hook.module)
        if module is None:
            return  # its import has failed
        hook.install(module, self._thread_patches if hook in threads.HOOKS else self._patches)
        if hook in self._own:
            self._installed[hook] = module

    def check(self) -> None:
        """Verify that patches are in place; log displaced ones and restore them where that is safe.

        Another library, or a test of the application, may have put back the original, or something
        else. That is logged once for each package. Where the original is back, the patch is put
        back too. Anything else is left alone, unless a hook does more (`Hook.restore`); patches of
        threads and pools are always left alone. Any thread may call this; it takes a few
        microseconds per patch.
        """
        lock = self._patches.lock
        if not lock.acquire(blocking=False):  # held for as long as the import of an SDK takes
            return
        try:
            if self.is_installed:
                self._check()
        finally:
            lock.release()

    def _check(self) -> None:
        packages = {module.partition(".")[0] for module in self._awaited}
        provided = [id(hook.patch) for hook in self._provided.values()]
        displaced = list(self._patches.displaced())
        replaced = [
            patch for patch in displaced if not attempt("self_check", self._patches.put_back, patch)
        ]
        # Also without displaced patches: a class below the patched one may have a new `request`.
        for hook in self._own:
            module = self._installed.get(hook)
            # Another module of the name is still being imported: its hook is yet to be installed.
            if module is not None and module is sys.modules.get(hook.module):
                attempt("self_check", hook.restore, module, replaced, self._patches)
        for patch in displaced:
            # In any other module, the application reused its own name for a LiteLLM function.
            if id(patch) in provided or _package_of(patch) in packages:
                if patch not in replaced:
                    _warn_displaced(patch, Notice.HOOK_PUT_BACK)
                elif self._patches.is_reached(patch):
                    _warn_displaced(patch, Notice.HOOK_RESTORED)
                else:
                    _warn_displaced(patch, patch.when_displaced)
        for patch in self._thread_patches.displaced():
            _warn_displaced(patch, patch.when_displaced)

    def provide(self, registry: ProviderRegistry | None, *, propagates_user: bool = True) -> None:
        """Choose the application's providers, and whether threads and pools get the user, for the
        next `install`. Patches chosen before too stay in place, since calls go on meanwhile.
        """
        with self._patches.lock:
            self._propagates_user = propagates_user
            if not propagates_user:
                self._thread_patches.take_out_all()
            kept = set(targets_of(registry.all())) if registry is not None else set()
            for target in [target for target in reversed(self._provided) if target not in kept]:
                patch = self._provided.pop(target).patch
                if patch is not None:
                    self._patches.take_out(patch)
                    self._bare.pop(patch.wrapper, None)
            self._registry = registry

    def renew_after_fork(self) -> None:
        """Replace the locks in a forked child."""
        self._patches.renew_after_fork()
        self._thread_patches.renew_after_fork()

    def uninstall(self) -> None:
        """Restore the originals; a wrapper that other code has patched over passes calls on."""
        with self._patches.lock:
            if self._finder is not None and self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            self._finder = None  # an import that is under way installs nothing any more
            for patches in (self._patches, self._thread_patches):
                patches.switch.is_on = False
                patches.take_out_all()
            self._own = []
            self._installed.clear()
            self._provided.clear()
            self._bare.clear()


def _package_of(patch: Patch) -> str:
    """Return the package of a patch's class or module."""
    owner = patch.owner
    module = owner.__module__ if isinstance(owner, type) else owner.__name__
    return str(module).partition(".")[0]


def _warn_displaced(patch: Patch, notice: Notice) -> None:
    package, owner = _package_of(patch), patch.owner.__name__.rpartition(".")[2]
    diagnostics.warn_once(notice, owner, patch.name, subject=package)


instrumentation = Instrumentation()
"""The process's patches."""
