"""Patches of other packages' classes and modules: put in, recognised, and taken out.

A patch is taken out only where no other code has patched over it since; otherwise its wrapper stays
inside theirs. So every wrapper checks the switch that it was created with, and only passes calls on
when that is off.
"""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from paygent.core.notices import Notice
from paygent.failopen import attempt

_NOTHING = object()
_INHERITED = object()  # in place of an original that the patched class took from a base
_WRAPPERS_MAX = 32  # wrappers of other code that are followed down to ours
_MOCKS = ("unittest.mock", "mock.mock")  # the second is the same as a package


@dataclass(slots=True, eq=False)
class Switch:
    """Whether the wrappers that check it do their work."""

    is_on: bool


ALWAYS_ON = Switch(True)  # for wrappers that are never switched off


@dataclass(slots=True, eq=False)
class Patch:
    """One attribute that was replaced.

    Attributes:
        owner: Its class or module.
        name: Its name.
        original: The object that was replaced.
        wrapper: The object that replaces it.
        when_displaced: What to log where other code has replaced the wrapper.
        left_to: The object of other code in its place that was reported, and left there.
    """

    owner: Any
    name: str
    original: Any
    wrapper: Any
    when_displaced: Notice = Notice.HOOK_DISPLACED
    left_to: Any = _NOTHING


class Patches:
    """The patches of one `Instrumentation`, in the order in which they were put in.

    Attributes:
        lock: Held while patching.
        switch: On while calls are gated and metered.
        provided: Modules of the providers that the application has registered.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.switch = Switch(False)
        self.provided: set[str] = set()
        # By identity: a proxy around a wrapper may call itself equal to it.
        self._wrappers: dict[int, Any] = {}
        self._put_in: list[Patch] = []
        self._undo: dict[str, Callable[[], None]] = {}

    def renew_after_fork(self) -> None:
        """Replace the lock in a child: a thread of the parent may have held it."""
        self.lock = threading.RLock()

    def put(
        self, owner: Any, name: str, wrapper: Any, when_displaced: Notice = Notice.HOOK_DISPLACED
    ) -> Patch:
        """Replace an own or inherited attribute of a class or module by a wrapper."""
        original = vars(owner).get(name, _INHERITED)
        patch = Patch(owner, name, original, wrapper, when_displaced)
        setattr(owner, name, wrapper)
        self._wrappers[id(wrapper)] = wrapper
        self._put_in.append(patch)
        return patch

    def is_ours(self, value: Any) -> bool:
        """Return whether an object is a wrapper that was put in and not taken out."""
        return self._wrappers.get(id(value)) is value and value is not None

    def has_patched(self, owner: Any, name: str) -> bool:
        """Return whether an attribute was patched, and the patch was not taken out."""
        return any(patch.owner is owner and patch.name == name for patch in self._put_in)

    def has_provider(self, package: str) -> bool:
        """Return whether the application has registered a provider in a package."""
        return any(f"{module}.".startswith(f"{package}.") for module in self.provided)

    def take_out(self, patch: Patch) -> None:
        """Take one patch out, and forget it."""
        self._put_in = [other for other in self._put_in if other is not patch]
        self._wrappers.pop(id(patch.wrapper), None)
        _restore(patch)

    def do_once(self, name: str, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Do something other than a patch, unless it is done; it is undone with the patches."""
        if name not in self._undo:
            do()
            self._undo[name] = undo

    def displaced(self) -> Iterator[Patch]:
        """Find the patches that calls no longer reach, the last one first: another object is in
        their place, and does not lead to our wrapper. Each such object is reported once.
        """
        for patch in reversed(tuple(self._put_in)):
            current = _current(patch)
            if self.leads_to_ours(current):
                patch.left_to = _NOTHING
            elif patch.left_to is not current:
                patch.left_to = current
                yield patch

    def is_reached(self, patch: Patch) -> bool:
        """Return whether calls reach our wrapper at the place of a patch; see `leads_to_ours`."""
        return self.leads_to_ours(_current(patch))

    def leads_to_ours(self, value: Any) -> bool:
        """Return whether an object is our wrapper, or calls it by `__wrapped__`, or is a mock."""
        if is_mock(value):
            return True
        for _ in range(_WRAPPERS_MAX):
            if value is None or self.is_ours(value):
                break
            value = getattr(value, "__wrapped__", None)
        return self.is_ours(value)

    def put_back(self, patch: Patch) -> bool:
        """Replace the original by its wrapper again; return False where another object is."""
        if vars(patch.owner).get(patch.name, _INHERITED) is not patch.original:
            return False
        setattr(patch.owner, patch.name, patch.wrapper)
        patch.left_to = _NOTHING
        return True

    def take_out_all(self) -> None:
        """Take every patch out, the last one first; a failure is counted and stays in place."""
        for undo in reversed(self._undo.values()):
            attempt("unpatch", undo)
        self._undo.clear()
        for patch in reversed(self._put_in):
            attempt("unpatch", _restore, patch)
        self._put_in.clear()
        self._wrappers.clear()


def is_mock(value: Any) -> bool:
    """Return whether an object is a mock, which a test puts in place and then inspects."""
    # One that keeps the signature of a function (`autospec`) is a function with a mock in it.
    inside = getattr(value, "__dict__", {}).get("mock") if callable(value) else None
    return type(value).__module__ in _MOCKS or type(inside).__module__ in _MOCKS


def _current(patch: Patch) -> Any:
    """Return the object at the place of a patch; None for none."""
    return vars(patch.owner).get(patch.name)


def _restore(patch: Patch) -> None:
    if _current(patch) is not patch.wrapper:
        return  # other code has patched over it, and its chain goes through our wrapper
    if patch.original is _INHERITED:
        delattr(patch.owner, patch.name)
    else:
        setattr(patch.owner, patch.name, patch.original)


def as_function(method: Any) -> Callable[..., Any]:
    """Return a method of a class as a function that takes the object first."""
    if type(method) is FunctionType:  # proxies call themselves instances of it
        return method
    # What other code has put into a class may be a descriptor, which gets the object when it is
    # looked up; or none (a mock, a `functools.partial`), which is called without the object.
    look_up = getattr(type(method), "__get__", None)

    @functools.wraps(method)
    def function(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = method if look_up is None else look_up(method, owner, type(owner))
        return bound(*args, **kwargs)

    return function


class Hook(ABC):
    """Patches one module once it has been imported.

    Attributes:
        name: Used in counts and logs.
        module: The module that it waits for.
        takes_arguments: It removes the `paygent_*` arguments from calls, so it is also installed
            while Paygent is disabled, with the switch off.
    """

    name: str
    module: str
    takes_arguments = False

    @abstractmethod
    def install(self, module: ModuleType, patches: Patches) -> None:
        """Patch a module that has been imported; called again after each further import."""

    def restore(  # noqa: B027
        self, module: ModuleType, displaced: Sequence[Patch], patches: Patches
    ) -> None:
        """Patch a module again, that was patched before, where other code must not stay in place.

        Args:
            module: The module.
            displaced: Patches of any hook that were displaced since the last check.
            patches: Where `install` has put the patches.
        """
