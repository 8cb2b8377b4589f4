"""One call counts once, however many layers of code wrap it.

A request may pass several of our wrappers: that of `request` in a class and in a subclass that
overrides it, or one that other code kept and put back around ours. Or the call is a gateway's own
function, and the SDK that it calls below is a part of it. A context variable holds the outermost of
them while it is open; the wrappers inside let their requests pass. So it is with an unmetered call,
which the policy is applied to once; but what can be metered inside of it is.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any

from paygent.client.context.scopes import propagate, reset_or_ignore


class Gateway:
    """One run of a gateway's own function, which is the call. SDKs' hooks are inactive in its
    `with` block, which may be entered again.

    Threads and tasks that were started inside may inherit it and outlive the function: then it is
    closed, and their calls are their own.

    Attributes:
        is_open: The function has not returned.
        in_front: The gateway's own requests count as parts of its call.
        is_metered: It is metered; otherwise it has passed the policy for unmetered calls.
    """

    __slots__ = ("_token", "in_front", "is_metered", "is_open")

    def __init__(self) -> None:
        self.is_open = self.in_front = self.is_metered = True

    def __enter__(self) -> None:
        self.is_open = True
        self._token = inside.set(self)

    def __exit__(self, *error: object) -> None:
        leave(self, self._token)

    def close(self) -> None:
        """Close it, in every context that inherited it."""
        self.is_open = False

    def sends(self) -> bool:
        """Return whether the gateway itself makes the current request."""
        return True


class OpenRequest:
    """A request of an SDK that is under way. As a `Gateway`, it may be inherited and closed, and
    metered or not; one that is not is entered by itself.
    """

    __slots__ = (
        "_client", "_options", "_token", "is_answered", "is_metered", "is_open", "layers",
    )  # fmt: skip

    def __init__(self, client: Any, options: Any, layer: Any, *, is_metered: bool = True) -> None:
        self._client = client
        self._options = options
        self.layers = [layer]  # our wrappers that the request is in now
        self.is_open = True
        self.is_metered = is_metered
        self.is_answered = False  # a request has passed an inner layer, and was not an error

    def __enter__(self) -> None:
        self._token = inside.set(self)

    def __exit__(self, *error: object) -> None:
        leave(self, self._token)

    def includes(self, client: Any, options: Any, layer: Any) -> bool:
        """Return whether a request that reaches our wrapper `layer` is this one on its way, or its
        repetition after an error: it has the same client, or is a copy of another client.
        """
        # What follows an answer, or enters a wrapper while this one is in it, is another request.
        is_another = self.is_answered or any(layer is entered for entered in self.layers)
        if is_another or not self.is_open:
            return False
        # Other instrumentation may copy the options, and send the copy by a client of its own.
        body = getattr(options, "json_data", None)
        is_copy = body is not None and body is getattr(self._options, "json_data", None)
        return client is self._client or options is self._options or is_copy

    def close(self) -> None:
        """Close it. A context that has inherited it may live as long as the process, so it no
        longer refers to the client and the prompt.
        """
        self.is_open = False
        self._client = self._options = None
        self.layers = []


class InnerLayer:
    """A layer inside of the outermost one, entered while an open request is in it."""

    __slots__ = ("_layer", "_layers", "_request")

    def __init__(self, request: OpenRequest, layer: Any) -> None:
        self._request = request
        self._layers = request.layers  # unlocked: a request passes one layer after the other
        self._layer = layer

    def __enter__(self) -> None:
        self._layers.append(self._layer)

    def __exit__(self, kind: object, *error: object) -> None:
        self._layers.remove(self._layer)
        if kind is None:
            self._request.is_answered = True


inside: ContextVar[Gateway | OpenRequest | None] = ContextVar("paygent_inside", default=None)
"""The outermost call or request around the current code."""
propagate(inside)  # an SDK may send its request on a thread of its own


def leave(layer: Gateway | OpenRequest, token: Token[Gateway | OpenRequest | None]) -> None:
    """Close a call or request, in every context that inherited it."""
    layer.close()
    reset_or_ignore(token)


def current_gateway() -> Gateway | None:
    """Return the call of the gateway in which the current code runs, if any."""
    enclosing = inside.get()
    return enclosing if isinstance(enclosing, Gateway) and enclosing.is_open else None


def is_admitted() -> bool:
    """Return whether the current code is a part of an unmetered call, which the policy for those
    has let pass.
    """
    gateway = current_gateway()
    if gateway is None or gateway.is_metered or not gateway.in_front:
        return False
    return gateway.sends()
