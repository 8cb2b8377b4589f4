"""The shortcut: calls of a known lane are read by one look-up, and their answers by a few fields.

A call that went the whole way (`wrapper.py`) leaves a shortcut for those like it: same user and
session as the application names them, same client, operation and model. The next one takes its lane
from there, so route, provider, plan, session and price need not be found again, and `Meter.start`
decides on it. Whatever is unusual about a call sends it the whole way.
"""

from __future__ import annotations

from os import getpid
from threading import get_ident
from typing import Any

from paygent.client.accounts.user_state import Hold, Lane
from paygent.client.context.identity import Identity
from paygent.client.context.scopes import Scope, current, current_source
from paygent.client.instrument.http_sdks.outcome import end_answered, end_failed
from paygent.client.instrument.http_sdks.request import (
    CARRIER_HEADER,
    RAW_HEADER,
    Prepared,
    ask_for_usage,
)
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.client.metering.nesting import enclosing, tasks
from paygent.client.runtime.event_loops import caller
from paygent.core.records import COUNT_MAX
from paygent.core.request_size import PART_WEIGHT, sizes_of
from paygent.failopen import attempt, diagnostics

_NOBODY = Identity()
_UNUSUAL_FIELDS = frozenset({"n", "best_of", "background"})  # a sum of answers, a later usage


class Shortcut:
    """What is known of a call before it is read.

    Attributes:
        lane: Its lane.
        base_url: The client's URL object, kept so that its identity is not reused.
        session: The user's open session, where the call does not name one; else None.
        no_headers: The type of `options.headers` where the application gives none.
        prepared: The prepared call that left this, without its body.
        is_unattributed: It has no user, which is logged once and counted.
    """

    __slots__ = (
        "base_url", "identity", "is_unattributed", "lane", "max_tokens_names", "no_headers",
        "prepared", "read", "session",
    )  # fmt: skip

    def __init__(self, call: Call, lane: Lane, prepared: Prepared, base_url: Any) -> None:
        request = call.request
        template = Request(
            request.provider, request.route, request.model, None, generates=request.generates
        )
        self.lane = lane
        self.base_url = base_url
        self.identity = call.identity
        self.is_unattributed = False
        self.max_tokens_names = prepared.route.max_tokens_names
        self.no_headers: type = dict
        self.prepared = prepared._replace(request=template)
        assert prepared.route.read_plain is not None  # the caller has checked
        self.read = prepared.route.read_plain
        self.session: Any = None


def begin(
    meter: Meter, hold: Hold, client: Any, options: Any, is_stream: object, is_async: bool
) -> Shortcut | None:
    """Begin a call by its shortcut; None sends it the whole way, with nothing held.

    Args:
        meter: The meter.
        hold: A new hold, which is filled in.
        client, options: As the SDK passes them.
        is_stream: Whether it asks for a stream (any value that is true).
        is_async: Whether the caller is a coroutine.
    """
    try:
        if meter.deferred_ends.waiting or (meter.may_be_forked and meter.pid != getpid()):
            return None
        if enclosing.get() is not None or tasks:
            return None
        source = current.get()
        while type(source) is Scope and source.has_ended:
            source = source.outer
        if source is None:
            identity = _NOBODY
        elif type(source) is not Scope:
            return None
        elif source.outer is not None and nesting.yield_hooks:
            return None  # perhaps an integration's call encloses this one
        else:
            identity = source.identity
        fields = options.__dict__
        headers, body = fields["headers"], fields["json_data"]
        given: dict[str, Any] | None = headers if type(headers) is dict else None
        carrier: Any = given.get(CARRIER_HEADER) if given else None
        if carrier is not None:
            identity = carrier.identity.merged_with(identity)
        if identity.metadata is not None or type(body) is not dict or fields.get("extra_json"):
            return None
        base_url, model, url = client._base_url, body.get("model"), fields["url"]
        if type(model) is not str:
            return None
        shortcut: Shortcut | None = meter.shortcuts.get(
            (
                identity.user_id,
                identity.session_id,
                identity.plan,
                model,
                url,
                id(base_url),
                is_stream,
            )
        )
        if shortcut is None or shortcut.base_url is not base_url:
            return None
        if not _UNUSUAL_FIELDS.isdisjoint(body):
            return None
        if given is None:
            if type(headers) is not shortcut.no_headers:
                return None
        else:
            for name in given:
                if name.lower() == RAW_HEADER:
                    return None
        lane = shortcut.lane
        user = lane.user
        at_us = meter.clock_ns() // 1000
        if at_us >= user.stale_us:
            return None
        if shortcut.session is not None:
            idle_us = at_us - user.session_used_us
            if user.open_session is not shortcut.session or idle_us > user.session_timeout_us:
                return None
            if idle_us > 0:
                user.session_used_us = at_us
        text_bytes, parts, caches = sizes_of(body)
        if parts or caches:
            if lane.plan.pre_call_estimate:
                return None
            text_bytes += parts * PART_WEIGHT
        max_tokens = 0
        for name in shortcut.max_tokens_names:
            value = body.get(name)
            if value is not None:
                if type(value) is not int or not 0 < value <= COUNT_MAX:
                    return None
                max_tokens = value
                break
        if text_bytes > COUNT_MAX:
            return None
        owner = caller() if is_async else get_ident()
        if not meter.start(hold, lane, at_us, text_bytes, max_tokens, owner):
            return None
        if given and carrier is not None:
            options.headers = {name: given[name] for name in given if name != CARRIER_HEADER}
        if shortcut.is_unattributed:
            meter.count_missing_user()
        return shortcut
    except Exception as error:  # noqa: BLE001 - as `attempt`, which would cost as much
        diagnostics.record_error("begin", error)
        return None


def ask_for_stream_usage(shortcut: Shortcut, options: Any) -> bool:
    """Request the usage of a stream where it does not report it unasked; return whether that was
    added, so that the application must not see it.
    """
    if not shortcut.prepared.asks_for_usage:
        return False
    return bool(attempt("stream_usage", ask_for_usage, options))


def end(meter: Meter, hold: Hold, shortcut: Shortcut, answer: Any, drops_chunk: bool) -> bool:
    """End a call with its answer, now or when its stream ends; return False where that fails."""
    try:
        if not shortcut.prepared.is_stream:
            counts = shortcut.read(answer, hold.lane.answerers)
            if counts is not None:
                meter.finish(hold, counts)
                return True
        call = _as_call(meter, hold, shortcut)
        call.drops_usage_chunk = drops_chunk
        end_answered(meter, call, shortcut.prepared, answer)
        return True
    except Exception as error:  # noqa: BLE001 - as in `begin`
        diagnostics.record_error("settle", error)
        return False


def end_raised(
    meter: Meter, hold: Hold, shortcut: Shortcut | None, error: BaseException | None
) -> None:
    """End a call that raised, before or after it was sent, or in the middle of its end; without an
    error, one of which a step has failed.
    """
    figures = hold.figures
    if figures is not None:
        meter.finish(hold, figures[1:], reports=False)  # again: nothing is counted twice
    elif not hold.is_open:
        return
    elif shortcut is None:
        meter.cancel(hold)
    elif error is not None:
        end_failed(meter, _as_call(meter, hold, shortcut), shortcut.prepared, error)
    else:
        meter.settle(_as_call(meter, hold, shortcut), None)


def _as_call(meter: Meter, hold: Hold, shortcut: Shortcut) -> Call:
    return hold.call or meter.as_call(hold, shortcut.prepared.request, shortcut.identity)


def remember(meter: Meter, call: Call, prepared: Prepared, client: Any, options: Any) -> None:
    """Leave a shortcut for calls like one that has gone the whole way, where there may be one."""
    request, user, identity = call.request, call.user, call.identity
    body = options.json_data
    lane = user.lanes.get(call.lane.key)
    if (
        prepared.route.read_plain is None
        or prepared.is_raw
        or lane is None
        or request.tier
        or type(body) is not dict
        or request.body is None
        or getattr(options, "extra_json", None)  # completes the body
        or identity.metadata is not None
        or call.gate_reason
        or not call.user.known
        or call.plan.tool_costs_nano  # the names of called tools are needed
        or not lane.resolved.is_certain
        or not _UNUSUAL_FIELDS.isdisjoint(body)
        or not (identity.plan is None or identity.plan == user.plan_name)
    ):
        return
    base_url = client._base_url
    shortcut = Shortcut(call, lane, prepared, base_url)
    named = request.identity if request.identity is not None else _NOBODY
    source = current_source()
    if type(source) is Scope:
        named = source.identity if request.identity is None else named.merged_with(source.identity)
    elif source is not None:
        return
    opened = user.open_session
    own_session = opened.session_id if opened is not None else None
    # Another identity may be in effect by now than when the call began.
    if (named.session_id or own_session) != lane.session_id:
        return
    if named.session_id is None:
        shortcut.session = opened
    if named.user_id is None:
        if not meter.admits_missing_user or user.user_id != meter.fallback_user_id:
            return
        shortcut.is_unattributed = True
    elif named.user_id != user.user_id:
        return
    if not options.headers:
        shortcut.no_headers = type(options.headers)
    meter.shortcuts[
        named.user_id,
        named.session_id,
        named.plan,
        body.get("model"),
        options.url,
        id(base_url),
        prepared.is_stream,
    ] = shortcut
