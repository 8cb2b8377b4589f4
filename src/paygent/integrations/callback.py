"""The user that a framework's callback names: the shared part of these callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paygent.client.context.identity import Identity, Metadata

if TYPE_CHECKING:
    from paygent.client.api.paygent import Paygent


class UserCallback:
    """A framework's callback that names the user of the framework's model calls."""

    def __init__(
        self, pg: Paygent, user_id: Any, session_id: Any = None, metadata: Metadata = None
    ) -> None:
        self.pg = pg
        # Read once: an unusable id is logged when the callback is made.
        self._identity = Identity(user_id, session_id, None, metadata)

    @property
    def user_id(self) -> str | None:
        """The user of the calls; None for an id that cannot be used."""
        return self._identity.user_id
