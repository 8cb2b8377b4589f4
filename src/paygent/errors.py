"""The exceptions and warnings that applications meet.

During a call only `PaygentLimitExceeded` reaches the application. What configures (`init`, plans,
`record_event`) raises `InvalidValue` for bad input.
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
    """A call was refused by a limit before a token was sent; nothing was spent.

    Attributes:
        guard_result: Which limit, what is spent and held, and whether trying again can help.
    """

    def __init__(self, guard_result: GuardResult) -> None:
        self.guard_result = guard_result
        super().__init__(guard_result.message or str(guard_result.gate_reason))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.guard_result,))


class PaygentWarning(UserWarning):
    """Something that a team should know and that does not stop their application."""


class PaygentBackendUnreachable(PaygentWarning):
    """The backend could not be reached when `init` asked; calls go on and are metered locally."""


class PaygentAuthInvalid(PaygentWarning):
    """The backend refused the API key when `init` asked; calls go on and are metered locally."""
