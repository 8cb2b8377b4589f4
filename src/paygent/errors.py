"""The exceptions and warnings that applications can see.

During a call only `PaygentLimitExceeded` reaches the application. Other methods
raise `InvalidValue` for bad input.

    Exception
     +-- PaygentLimitExceeded            a call was refused
     +-- ValueError
     |    +-- InvalidValue               bad input, every broken rule at once
     +-- Warning
          +-- UserWarning
               +-- PaygentWarning
                    +-- PaygentBackendUnreachable   at `init`
                    +-- PaygentAuthInvalid          at `init`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paygent.core.validation import InvalidValue

if TYPE_CHECKING:
    from paygent.types import GuardResult

__all__ = [
    "InvalidValue",
    "PaygentAuthInvalid",
    "PaygentBackendUnreachable",
    "PaygentLimitExceeded",
    "PaygentWarning",
]


class PaygentLimitExceeded(Exception):
    """A call was refused before a token was sent, by a limit or a policy; nothing was spent.

    Attributes:
        guard_result: The limit, the amounts spent and held, and whether trying again can help.
    """

    def __init__(self, guard_result: GuardResult) -> None:
        self.guard_result = guard_result
        super().__init__(guard_result.message or str(guard_result.gate_reason))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.guard_result,))


class PaygentWarning(UserWarning):
    """A problem that the team should know about and that does not stop the application."""


class PaygentBackendUnreachable(PaygentWarning):
    """The backend was unreachable at `init`; calls proceed, and events wait on this
    machine until it accepts them. Raised with `strict_backend`, otherwise a warning."""


class PaygentAuthInvalid(PaygentWarning):
    """The backend rejected the API key at `init`; calls proceed, and events wait on this
    machine until it accepts them. Raised with `strict_backend`, otherwise a warning."""
