"""The identity that a call made here would have."""

from __future__ import annotations

from typing import Any

from paygent.client.context.scopes import current_identity


def who() -> str | None:
    """Return the user of a call made here."""
    identity = current_identity()
    return identity.user_id if identity is not None else None


def place() -> tuple[Any, Any, Any, Any]:
    """Return the user, session, plan and metadata of a call made here."""
    identity = current_identity()
    if identity is None:
        return (None, None, None, None)
    return (identity.user_id, identity.session_id, identity.plan, identity.metadata)
