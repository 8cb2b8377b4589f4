"""Patches of other people's classes and modules: put in, known again, and taken out.

A patch is taken out only where nobody has patched over it since; where somebody has, our wrapper
stays inside theirs. So every wrapper looks at the switch that it was made with, and does nothing
but pass calls on when that is off.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, Protocol

from paygent.failopen import attempt

_INHERITED = object()  # stands for what the patched class took from a base
_WRAPPERS_MAX = 32  # of others around ours that are looked through
_MOCKS = ("unittest.mock", "mock.mock")  # the second is the same as a package
_NO_FIELDS: Mapping[str, Any] = {}


class Switch:
    """Whether the wrappers that look at it do their work."""

    __slots__ = ("is_on",)

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on


ALWAYS_ON = Switch(True)
"""For wrappers that nobody switches off."""


class Patch(NamedTuple):
    """One attribute that was replaced.

    Attributes:
        owner: The class or module that has it.
        name: Its name.
        original: What stood there.
        wrapper: What stands there now.
    """

    owner: Any
    name: str
    original: Any
    wrapper: Any


class Patches:
    """The patches of one `Instrumentation`, in the order in which they were put in.

    Attributes:
        lock: Held by who patches.
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
        self._left: dict[int, Any] = {}  # by the identity of a patch: whose place it was left to
        self._undo: dict[str, Callable[[], None]] = {}

    def renew_after_fork(self) -> None:
        """Have a lock of its own in the child: a thread that is not there may hold this one."""
        self.lock = threading.RLock()

    def put(self, owner: Any, name: str, wrapper: Any) -> Patch:
        """Put a wrapper in the place of a class's or module's own or inherited attribute."""
        patch = Patch(owner, name, vars(owner).get(name, _INHERITED), wrapper)
        setattr(owner, name, wrapper)
        self._wrappers[id(wrapper)] = wrapper
        self._put_in.append(patch)
        return patch

    def is_ours(self, value: Any) -> bool:
        """Tell whether something is a wrapper that was put in and not taken out."""
        return self._wrappers.get(id(value)) is value and value is not None

    def has_provider(self, package: str) -> bool:
        """Tell whether the application has registered a provider in a package."""
        return any(f"{module}.".startswith(f"{package}.") for module in self.provided)

    def take_out(self, patch: Patch) -> None:
        """Take one patch out, and forget it."""
        self._put_in = [each for each in self._put_in if each is not patch]
        self._left.pop(id(patch), None)
        self._wrappers.pop(id(patch.wrapper), None)
        _restore(patch)

    def do_once(self, name: str, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Do something that is no patch, unless it is done, and have it undone with the patches."""
        if name not in self._undo:
            do()
            self._undo[name] = undo

    def displaced(self) -> Iterator[Patch]:
        """Find the patches that nothing leads to any more, the last one first: something else
        stands there, to which the place was not left, and does not show that it goes through ours.
        """
        for each in reversed(tuple(self._put_in)):
            if self._is_reached(each):
                self._left.pop(id(each), None)
            elif self._left.get(id(each), each) is not _standing(each):
                yield each

    def _is_reached(self, patch: Patch) -> bool:
        value = _standing(patch)
        if is_mock(value):
            return True
        for _ in range(_WRAPPERS_MAX):
            if value is None or self.is_ours(value):
                break
            value = getattr(value, "__wrapped__", None)
        return self.is_ours(value)

    def put_back(self, patch: Patch) -> bool:
        """Put a wrapper in its place again where what it had replaced was put back; false where
        something else stands there.
        """
        if vars(patch.owner).get(patch.name, _INHERITED) is not patch.original:
            return False
        setattr(patch.owner, patch.name, patch.wrapper)
        return True

    def leave(self, patch: Patch) -> None:
        """Leave a place to what stands there now; what goes through our wrapper still does. It is
        watched again when something else stands there, and taken out where our wrapper does.
        """
        self._left[id(patch)] = _standing(patch)

    def take_out_all(self) -> None:
        """Take every patch out, the last one first; one that cannot be is counted and stays."""
        for undo in reversed(self._undo.values()):
            attempt("unpatch", undo)
        self._undo.clear()
        for patch in reversed(self._put_in):
            attempt("unpatch", _restore, patch)
        self._put_in.clear()
        self._left.clear()
        self._wrappers.clear()


def is_mock(value: Any) -> bool:
    """Tell whether an application's test has put a mock somewhere: for a while, and to look at it
    there. One that keeps the signature of a function (`autospec`) is a function with a mock in it.
    """
    inside = getattr(value, "__dict__", _NO_FIELDS).get("mock") if callable(value) else None
    return type(value).__module__ in _MOCKS or type(inside).__module__ in _MOCKS


def _standing(patch: Patch) -> Any:
    """Return what stands at the place of a patch now; None for nothing."""
    return vars(patch.owner).get(patch.name)


def _restore(patch: Patch) -> None:
    if vars(patch.owner).get(patch.name) is not patch.wrapper:
        return  # somebody has patched over it: their chain goes through ours, which passes on
    if patch.original is _INHERITED:
        delattr(patch.owner, patch.name)
    else:
        setattr(patch.owner, patch.name, patch.original)


def as_function(method: Any) -> Callable[..., Any]:
    """Return a method of a class as a function that takes the object first.

    What other code has put into a class may be a descriptor that learns its object only when it is
    looked up on it; or none (a mock, a `functools.partial`), which is called without its object.
    """
    if type(method) is FunctionType:  # proxies call themselves instances of it
        return method
    look_up = getattr(type(method), "__get__", None)

    @functools.wraps(method)
    def function(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = method if look_up is None else look_up(method, owner, type(owner))
        return bound(*args, **kwargs)

    return function


class Hook(Protocol):
    """What is patched when one module has been imported."""

    @property
    def name(self) -> str:
        """What it is called in counts and logs."""

    @property
    def module(self) -> str:
        """Whose import it waits for."""

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Patch a module that has been imported; called again when it is imported anew.

        Args:
            module: The module.
            patches: Where patches are put in.
            arguments_only: Gate and meter nothing, but take the `paygent_*` arguments out of calls.
        """
