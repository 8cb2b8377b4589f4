"""The messages of `/sync` and `/leases` for the OpenAPI document; `core/message_json.py` reads and
writes them.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from paygent.core.event_json import EVENTS_MAX
from paygent.core.message_json import (
    ACCOUNTS_MAX,
    HOLDER_CHARS_MAX,
    QUESTIONS_MAX,
    RECORDS_MAX,
)
from paygent.core.validation import NAME_CHARS_MAX
from paygent.server.api.event_schema import USAGE_EVENT
from paygent.server.api.schemas import Answer

_INT_MAX = (1 << 63) - 1
_TEXT = {"type": "string", "maxLength": NAME_CHARS_MAX}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": _INT_MAX}

_ACCOUNT = {
    "type": "array",
    "description": "Index of a limit, index of a window, and the session id of a session limit.",
    "prefixItems": [{"type": "integer"}, {"type": "integer"}, _TEXT],
    "minItems": 2,
    "maxItems": 3,
}
_QUESTION = {
    "type": "object",
    "required": ["user_id"],
    "properties": {
        "user_id": {**_TEXT, "minLength": 1},
        "accounts": {"type": "array", "items": _ACCOUNT, "maxItems": ACCOUNTS_MAX},
        "period_start_us": _NUMBER,
        "version": {**_TEXT, "description": "Of the figures that the process has."},
    },
}
_TABLES = {
    "limits": {
        "type": "array",
        "description": "Rows of metric, scope, model and window.",
        "items": {"type": "array", "items": _TEXT, "minItems": 4, "maxItems": 4},
    },
    "windows": {
        "type": "array",
        "description": "Rows of start and end.",
        "items": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
    },
    "questions": {"type": "array", "items": _QUESTION, "maxItems": QUESTIONS_MAX},
}
_COMMON = {
    "at_us": {**_NUMBER, "description": "The process's clock."},
    "holder": {"type": "string", "maxLength": HOLDER_CHARS_MAX},
    "news_since_us": _NUMBER,
    "plans_version": _TEXT,
    **_TABLES,
}

LEASES_BODY: dict[str, Any] = {"type": "object", "properties": _COMMON}
SYNC_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        **_COMMON,
        "number": {**_NUMBER, "description": "Of the batch, among those of its holder."},
        "events": {"type": "array", "items": USAGE_EVENT, "maxItems": EVENTS_MAX},
        "records": {
            "type": "array",
            "description": "Sessions and price lists, and plans of users who have none.",
            "items": {"type": "object", "required": ["k"], "properties": {"k": _TEXT}},
            "maxItems": RECORDS_MAX,
        },
    },
}


class SyncedPlan(Answer):
    """The newest version of a plan."""

    version: int
    document: dict[str, Any]


class SyncedUser(Answer):
    """The state of a user. What is missing has its default; money is nano-dollars."""

    user_id: str
    plan: str = ""
    own: dict[str, Any] | None = Field(None, description="The user's own version of the plan.")
    subscription: dict[str, Any] | None = None
    sdk_enabled: bool = True
    paused: bool = False
    paused_reason: str = ""
    open_session: dict[str, Any] | None = None
    spent: list[int] = Field([], description="For each account of the question.")
    shadow: list[int] = Field([], description="The part of it that blocked calls spent.")
    period_start_us: int = 0
    by_model: dict[str, list[int]] = Field({}, description="Tokens and nano-dollars by model.")
    version: str = ""


class Synced(Answer):
    """The answer to a message. Users with unchanged figures are left out; so are the plans, unless
    `plans_version` is a new one.
    """

    booked_through: int = Field(0, description="The holder's last batch that is included.")
    duplicates: list[str] = Field([], description="Events that had been booked before.")
    users: list[SyncedUser] = Field([])
    plans: dict[str, SyncedPlan] | None = None
    plans_version: str = ""
    default_plan: str = ""
    changed: list[str] = Field([], description="Users with a changed plan, override or switch.")
    news_until_us: int = 0
