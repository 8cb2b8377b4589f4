"""What is patched in this process, and when.

A hook waits for a module: it is installed when `init` finds the module imported, otherwise in the
moment after its import. Paygent itself imports none of them.

| hook | from | patched |
|---|---|---|
| openai | 1.60 | `request` of `SyncAPIClient` and `AsyncAPIClient`, or its owner |
| anthropic | 0.40 | the same names in its own package |
| litellm | 1.60 | its functions and streams; what is below stands back (`litellm.py`) |
| websockets | 14 | connections to the Realtime and Responses APIs (`sockets.py`) |
| SDKs without a hook | | nothing; their import is said (`noticed.py`) |
| threads and pools | | `Thread.start`, what gives work to executors and pools (`carriers.py`) |
| registered providers | | the methods that the application names (`custom.py`) |
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from paygent.client.instrument import threads, uninstrumented
from paygent.client.instrument.anthropic import routes as anthropic_routes
from paygent.client.instrument.callables.registered import Target, TargetHook, targets_of
from paygent.client.instrument.http_sdks.hook import SdkHook
from paygent.client.instrument.litellm.hook import LiteLLMHook
from paygent.client.instrument.openai import routes as openai_routes
from paygent.client.instrument.patching.import_hook import (
    AfterImport,
    after_import,
    is_imported,
    is_under_way,
)
from paygent.client.instrument.patching.patches import Hook, Patch, Patches
from paygent.client.instrument.realtime.hook import HOOKS as REALTIME_HOOKS
from paygent.failopen import attempt, diagnostics

if TYPE_CHECKING:
    from paygent.client.runtime.providers import ProviderRegistry

SDKS: tuple[Any, ...] = (openai_routes, anthropic_routes)


class Instrumentation:
    """The patches of this process. Installed once, however many `Paygent`s come and go.

    Attributes:
        carries_user: Whether threads and pools take the user along.
    """

    def __init__(self) -> None:
        self._patches = Patches()
        self._carriers = Patches()  # apart, since an application may not want them
        self._own: list[Hook] = []
        self._registry: ProviderRegistry | None = None
        self._provided: dict[Target, TargetHook] = {}
        self._bare: dict[Any, Any] = {}  # wrappers of registered providers, and what is in them
        self._awaited: dict[str, list[Hook]] = {}
        self._finder: AfterImport | None = None
        self._arguments_only = False
        self.carries_user = True

    @property
    def is_installed(self) -> bool:
        """Whether SDKs are patched, or will be when they are imported."""
        return self._patches.switch.is_on

    def install(self, arguments_only: bool = False) -> None:
        """Patch what is imported and see to what is imported later; idempotent.

        Args:
            arguments_only: Gate and meter nothing, but take the `paygent_*` arguments out of calls,
                which the SDKs would refuse (Paygent is switched off).
        """
        with self._patches.lock:
            if arguments_only and self.is_installed:
                return
            self._arguments_only = arguments_only
            self._patches.switch.is_on = not arguments_only
            self._carriers.switch.is_on = self.carries_user and not arguments_only
            self._own = self._own or [
                *(SdkHook(sdk) for sdk in SDKS),
                *REALTIME_HOOKS,
                LiteLLMHook(),
                *uninstrumented.HOOKS,
            ]
            self._await()
            if self._finder is None:
                self._finder = AfterImport(self._awaited, self._install_in)
                sys.meta_path.insert(0, self._finder)
            for module in self._awaited:
                if is_under_way(module) and not self._finder.is_told_of(module):
                    after_import(module, self._install_in)
                elif is_imported(module) and not is_under_way(module):
                    self._install_in(module)

    def _await(self) -> None:
        """Note which modules are waited for. The finder looks into the dict without a lock, so it
        gets a new one.
        """
        registered = targets_of(self._registry.all()) if self._registry is not None else ()
        for target in registered:
            self._provided.setdefault(target, TargetHook(target, self._bare))
        self._patches.provided = {target.module for target in registered}
        in_threads = threads.HOOKS if self._carriers.switch.is_on else ()
        awaited: dict[str, list[Hook]] = {}
        for hook in (*self._own, *self._provided.values(), *in_threads):
            awaited.setdefault(hook.module, []).append(hook)
        self._awaited = awaited
        if self._finder is not None:
            self._finder.awaited = awaited

    def _install_in(self, module: str) -> None:
        """Install the hooks that have waited for a module."""
        with self._patches.lock:
            for hook in self._awaited.get(module, ()) if self._finder is not None else ():
                attempt(f"patch:{hook.name}", self._install, hook)

    def _install(self, hook: Hook) -> None:
        module = sys.modules.get(hook.module)
        if module is None:
            return  # its import, which was waited for, has failed
        patches = self._carriers if hook in threads.HOOKS else self._patches
        hook.install(module, patches, arguments_only=self._arguments_only)

    def check(self) -> None:
        """Look whether calls still come through what was patched, and mend it where they do not.

        Another library, or a test of the application's, may have put back what it found before us,
        or replaced it. Each SDK is said once. A hook goes back where what it had replaced is back,
        and around a function of LiteLLM's own that is new there. What others have put there is left
        alone, and everything elsewhere is; only the `request` of a client's class gets a hook on
        top of that, before its next call (`sdk.py`).

        Takes a few microseconds per patch, and may be called from any thread. Does nothing while
        another one patches, which may take as long as the import of an SDK.
        """
        lock = self._patches.lock
        if not lock.acquire(blocking=False):
            return
        try:
            if self.is_installed:
                self._check()
        finally:
            lock.release()

    def _check(self) -> None:
        kept = [hook.patch for hook in self._provided.values()]
        for patch in self._patches.displaced():
            attempt("self_check", self._mend, patch, kept)
        for patch in self._carriers.displaced():
            self._carriers.leave(patch)
            _say_displaced(patch)

    def _mend(self, patch: Patch, kept: list[Patch | None]) -> None:
        """Put one patch back, or leave its place to what stands there."""
        packages = {module.partition(".")[0] for module in self._awaited}
        is_kept = any(patch is each for each in kept)
        if not self._patches.put_back(patch):
            self._patches.leave(patch)
            for hook in self._own:
                if isinstance(hook, LiteLLMHook):
                    hook.mend(patch, self._patches)
        # Elsewhere an application gave its own name new sense.
        if is_kept or _package_of(patch) in packages:
            _say_displaced(patch)

    def provide(self, registry: ProviderRegistry | None, *, carries_user: bool = True) -> None:
        """Have what an application chose patched by `install`, in place of what was before. What
        was chosen before too stays in place: calls go on meanwhile.

        Args:
            registry: Its own providers.
            carries_user: Whether threads and pools take the user along.
        """
        with self._patches.lock:
            self.carries_user = carries_user
            if not carries_user:
                self._carriers.take_out_all()
            kept = set(targets_of(registry.all())) if registry is not None else set()
            for target in [each for each in reversed(self._provided) if each not in kept]:
                patch = self._provided.pop(target).patch
                if patch is not None:
                    self._patches.take_out(patch)
                    self._bare.pop(patch.wrapper, None)
            self._registry = registry

    def renew_after_fork(self) -> None:
        """Have locks of its own in a forked child."""
        for patches in (self._patches, self._carriers):
            patches.renew_after_fork()

    def uninstall(self) -> None:
        """Restore what was patched; where somebody has patched over it since, it passes calls on
        from now on.
        """
        with self._patches.lock:
            if self._finder is not None and self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            self._finder = None
            for patches in (self._patches, self._carriers):
                patches.switch.is_on = False
                patches.take_out_all()
            self._own = []
            self._provided.clear()
            self._bare.clear()


def _package_of(patch: Patch) -> str:
    """Return the package whose class or module has a patch."""
    owner = patch.owner
    module = owner.__module__ if isinstance(owner, type) else owner.__name__
    return str(module).partition(".")[0]


def _say_displaced(patch: Patch) -> None:
    package = _package_of(patch)
    diagnostics.warn_once(
        f"hook_displaced:{package}",
        "%s.%s was replaced by other code; calls through that may not be seen",
        package,
        patch.name,
    )


instrumentation = Instrumentation()
"""The process's patches."""
