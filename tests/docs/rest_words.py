"""What docs/reference/rest.md says beyond the OpenAPI document: the groups of routes, meanings of
fields that carry no description there, refusals of single routes, and an example of each request.
"""

from __future__ import annotations

from typing import Any, NamedTuple

GROUPS = {
    "events": ("Events", "What calls cost, and which calls reached a gate."),
    "sync": ("Sync", "The messages of the SDK, for a process that admits calls itself; other"
             " systems use the other groups."),
    "users": ("Users", "The users of a product, by the ids of your application."),
    "usage": ("Usage", "What one user has spent, for you or for the user's own page."),
    "reports": ("Reports", "Who cost what, over all users. Every surface answers with the same"
                " figures."),
    "plans": ("Plans", "Limits, prices and rules. A plan is named once and gets a new version"
              " with each change."),
    "overrides": ("Overrides", "Limits of one user that are raised for a time."),
    "revenue": ("Revenue", "What users paid, to compare with what they cost."),
    "keys": ("Keys", "Credentials of a product. The text of a key is shown once."),
    "products": ("Products", "The tenants of a backend: no product sees another one's data."),
    "health": ("Health", "For probes and collectors; without a key."),
}  # fmt: skip
"""Heading and first sentence of each group, by its tag and in the order of the page."""

OBJECTS = {
    "UsageEvent": "A usage event, as the SDK records it for each call.",
    "Question": "What a process asks about one user; a message has at most one for each.",
}
"""Descriptions of objects that the document does not name."""

_LIMIT_WINDOW = "`period`, `session`, `day` or a rolling one such as `rolling:24h`."
_PLAN_NAME = "Name of the plan that applies now."
_FIRST_DAY = "First day; the first of this month without it."
_LAST_DAY = "Day after the last one; until today, inclusive, without it."
_MODEL = "The model that answered, by the provider's or your own name."

MEANINGS = {
    # parameters
    "key_id": "Id of the key, as `GET /keys` lists it.",
    "plan_id": "Id of the plan, as `GET /config/plans` lists it.",
    "override_id": "Id of the override.",
    "period": "Span of time: the calendar month in the product's time zone, the one before, or the"
    " user's billing period.",
    "breakdown": "What a row is about.",
    "plan": "Name of the assigned plan.",
    "status": "`soft_gate` is a warning, `hard_gate` a refusal.",
    "gate_reason": "The limit that decided: `total_spend`, `session_spend` or `model_limit:MODEL`.",
    "blocked_only": "Whether to leave out calls that ran without being marked as blocked.",
    "GET revenue.user_id": "Only this user's entries.",
    # all objects
    "user_id": "The application's id of the user.",
    "external_user_id": "The application's id of the user.",
    "paygent_user_id": "The ledger's id of the user; it survives an erasure.",
    "session_id": "The conversation; null outside of any.",
    "paused": "Whether the application is to refuse the user's calls.",
    "paused_reason": "As given with the pause.",
    "reason": "Why, for people.",
    "sdk_enabled": "False lets the user's calls pass unmetered and unlimited.",
    "renews": "How the billing period renews; `auto` is by its own length, by calendar month where"
    " it spans one.",
    "billing_period": "The current one.",
    "calls": "Number of calls.",
    "input_tokens": "Input tokens, including cached ones.",
    "output_tokens": "Output tokens, including reasoning.",
    "total_tokens": "Their sum.",
    "last_call_at": "Start of the last call.",
    "current_usage": "Usage in the billing period.",
    "metric": "What is limited.",
    "scope": "Whether the limit is one for the user, or one for each session.",
    "window": _LIMIT_WINDOW,
    "currency": "The only one.",
    "created_at": "When it was created.",
    "cost": "What the calls cost, in dollars.",
    "cost_nano": "The same in nano-dollars, exactly.",
    "amount": "What was paid or refunded, in dollars.",
    "amount_nano": "The same in nano-dollars, exactly.",
    "period_start": "Start of the span, inclusive.",
    "period_end": "End of the span, exclusive.",
    "start": "Start, inclusive, in UTC.",
    "end": "End, exclusive, in UTC.",
    "source": "Where the entry comes from, such as the name of your billing system.",
    # answers and requests
    "Accepted.accepted": "New ones, stored now.",
    "Accepted.duplicates": "Those that had been stored before.",
    "ChangedUser.name": "A name for lists; null removes it.",
    "ChangedUser.paused": "Whether the application is to refuse the user's calls.",
    "ChangedUser.reason": "Why the user is paused; a resumed user has none.",
    "CreatedKey.id": "Names the key in lists and logs.",
    "CreatedKey.api_key": "The text of the key; only this answer has it.",
    "CreatedProduct.api_key": "The text of an admin key; only this answer has it.",
    "DeletedPlan.id": "Id of the plan.",
    "DeletedPlan.deleted": "Always true.",
    "ErasedUser.pseudonym": "The random id that replaces the user's own everywhere.",
    "GateEvent.id": "Id of the gate event.",
    "GateEvent.status": "`soft_gate` is a warning, `hard_gate` a refusal.",
    "GateEvent.timestamp": "When the call reached the gate.",
    "GateEvent.usage_pct": "Share of the limit that is used: 1.0 is all of it.",
    "GateEvent.current_value": "What is used, in dollars, tokens or calls.",
    "GateEvent.limit_value": "The cap, in the same unit.",
    "GateEvent.model": "The model that was called.",
    "GateEvent.blocked": "Whether the call was refused, or would have been with enforced limits.",
    "GateEvent.message": "A sentence for people.",
    "GateEvent.metadata": "Of the call.",
    "GateEventPage.events": "The page, newest first.",
    "Health.status": "Always `ok`.",
    "Health.capabilities": "Features beyond the first ones, for clients to check.",
    "Health.version": "Version of the server.",
    "Key.id": "Names the key in lists and logs.",
    "Key.name": "As given.",
    "Key.scope": "What the key may do.",
    "Key.revoked_at": "Null while the key is valid.",
    "Keys.keys": "Oldest first.",
    "LimitUsage.model": "The model that the limit counts; null for all.",
    "LimitUsage.resets_at": "End of the window; null for rolling ones and for sessions.",
    "LimitUsage.reached": "Whether it is used up.",
    "LimitUsage.reached_at": "When it will be reached at the pace so far in its window, or since"
    " the user came. Null if it is reached, or not in this window, within the first hour, and for"
    " rolling ones and sessions.",
    "Limits.plan": "The plan that applies.",
    "Limits.limits": "Of the plan, with overrides.",
    "LimitUsage.used": "Used in the window that is open now; null for a limit of each session.",
    "LimitName.model": "Only calls of this model; null for all.",
    "NewGateEvent.id": "Id of the gate event; it is stored once.",
    "NewGateEvent.paygent_user_id": "Accepted and not used.",
    "NewKey.scope": "What the key may do.",
    "NewKey.name": "A name for lists.",
    "NewOverride.limit": "The limit by name, or by its identity: an object with `metric`, `scope`,"
    " `model` and `window`. Names are `total_spend`, `session_spend` and `model_limit:MODEL`.",
    "NewOverride.until": "When the override ends; in the future.",
    "NewPlan.name": "A new one creates a plan, an existing one adds a version.",
    "NewPlans.plans": "Names must differ.",
    "NewProduct.name": "A name for people; the id is made by the server.",
    "NewProduct.contact_name": "For your own records.",
    "NewProduct.contact_email": "For your own records.",
    "NewRevenue.id": "Such as the number of the invoice; it is stored once for its user.",
    "NewRevenue.amount": "Dollars, not negative; a refund is a positive amount, too.",
    "NewRevenue.kind": "`refund` is subtracted.",
    "NewRevenue.period_start": "Start of what was paid for.",
    "NewRevenue.period_end": "Its end, exclusive.",
    "NewSubscription.plan_id": "Id of the plan.",
    "NewSubscription.period_start": "Start of the first billing period; required if the plan has a"
    " `max_spend_per_period`, otherwise without one it is the UTC calendar month.",
    "NewSubscription.period_end": "Its end, exclusive.",
    "NewUsageToken.expires_in_s": "Seconds until the token ends.",
    "NewUser.name": "A name for lists.",
    "Override.id": "Id of the override.",
    "Override.limit": "Identity of the limit.",
    "Override.until": "When the override ends.",
    "Override.cap": "The raised cap, in dollars, tokens or calls; null with `add`.",
    "Override.add": "What is added to the plan's cap; null with `cap`.",
    "Overrides.overrides": "Those that apply now.",
    "OwnUsage.plan": _PLAN_NAME,
    "OwnUsage.limits": "The limits of the plan, with overrides applied.",
    "Plan.id": "Id of the plan; all its versions share it.",
    "Plan.name": "Its name.",
    "Plan.version": "Counts the changes, from 1.",
    "Plan.…": "All [plan fields](#plan-fields), amounts also as `…_nano`. A plan may be sent back"
    " as it is.",
    "NewPlan.…": "Any of the [plan fields](#plan-fields). `id`, `version` and `created_at` are"
    " ignored; an amount in nano-dollars (`price_nano`) counts where the field is absent or shows"
    " the same.",
    "Plans.plans": "Newest versions.",
    "Product.id": "Public id; its keys contain it.",
    "Product.name": "As given.",
    "Product.slug": "The name as a part of addresses.",
    "Product.contact_name": "As given.",
    "Product.contact_email": "As given.",
    "Product.timezone": "Days and months of usage are in this zone.",
    "Products.products": "The one product of the key.",
    "Problem.title": "The phrase of the status.",
    "Problem.status": "The status code.",
    "Problem.detail": "A sentence for people.",
    "Problem.errors": "Every value that breaks a rule.",
    "FieldProblem.value": "The value, shortened; null if it is missing.",
    "FieldProblem.rule": "The rule, to follow the name of the field in a sentence.",
    "Ready.status": "`ok`; a server that is not ready answers 503.",
    "Revenue.id": "Id of the entry.",
    "Revenue.kind": "`payment` or `refund`.",
    "Revenue.source": "As given; `plan_price` for the plan's price.",
    "RevenuePage.revenue": "The page.",
    "Session.plan": _PLAN_NAME,
    "SessionUsage.period_cost": "What the period's calls cost, in dollars.",
    "SessionUsage.period_cost_nano": "The same in nano-dollars, exactly.",
    "SessionUsage.period_tokens_total": "Input and output.",
    "SessionUsage.period_tokens_by_model": "Tokens by model, as limits name models.",
    "SessionUsage.period_cost_by_model": "Dollars by model.",
    "SessionUsage.period_cost_by_model_nano": "The same in nano-dollars.",
    "Subscription.plan": "Name of the plan.",
    "Subscription.billing_period": "The current one, or the last one if it has ended.",
    "SyncMessage.at_us": "The process's clock, in microseconds since 1970 UTC, as all times here;"
    " rolling windows end then. The server's if absent.",
    "SyncMessage.holder": "A name that the process makes up; another start takes another name.",
    "SyncMessage.number": "Counts the process's batches, from 1; one without an answer is sent"
    " again under its number.",
    "SyncMessage.news_since_us": "`news_until_us` of the last answer, or 0: asks for `changed`.",
    "SyncMessage.plans_version": "Of the last answer; the plans are left out while it is the same.",
    "SyncMessage.limits": "The limits that accounts refer to: metric, scope, model (`\"\"` is all)"
    " and window of each.",
    "SyncMessage.windows": "The windows that accounts refer to: start and end of each.",
    "SyncMessage.questions": "The users to answer about.",
    "SyncMessage.events": "What the process's calls cost.",
    "SyncMessage.records": "Sessions (`k` is `session`), price lists (`prices`) and plans for"
    " users without one (`assign` with `keeps`); with an `admin` key also `plan`, `default_plan`"
    " and other assignments.",
    "Question.user_id": "The application's id of the user, who is created if unknown.",
    "Question.accounts": "What to sum: index of a limit, index of a window, and the session id of a"
    " session limit.",
    "Question.period_start_us": "Start of the period of `by_model`.",
    "Question.version": "Of the user's last answer about these accounts; the user is left out while"
    " it is the same.",
    "Synced.booked_through": "Number of the holder's last batch that the figures include.",
    "Synced.duplicates": "Ids of events that had been booked before.",
    "Synced.users": "The users that were asked about, with figures that are new.",
    "Synced.plans": "Newest versions by name; absent if `plans_version` is the one that was sent.",
    "Synced.plans_version": "Names these plans and the default plan.",
    "Synced.default_plan": "Plan of users without an assigned one.",
    "Synced.changed": "Users with a plan, override or switch that has changed; at most 1,000, and"
    " the next answer goes on behind them.",
    "Synced.news_until_us": "Up to when `changed` goes.",
    "SyncedPlan.version": "Counts the changes, from 1.",
    "SyncedPlan.document": "The plan, exactly.",
    "SyncedUser.own": "The user's own version of the plan, with overrides.",
    "SyncedUser.subscription": "`start_us` and `end_us` of the first billing period, and `renews`.",
    "SyncedUser.open_session": "The session that goes on without an id: `session_id`, `started_us`"
    " and `used_us`.",
    "SyncedUser.spent": "For each account of the question, in its unit: nano-dollars, tokens or"
    " calls.",
    "SyncedUser.shadow": "The part of it that blocked calls spent; absent if there is none.",
    "SyncedUser.period_start_us": "As in the question.",
    "SyncedUser.by_model": "Tokens and nano-dollars by model since then.",
    "SyncedUser.version": "Names these figures.",
    "Usage.period": "The whole days that are counted.",
    "Usage.timezone": "Of the product.",
    "Usage.breakdown": "As asked for.",
    "Usage.rows": "Dearest model, latest session or oldest day first.",
    "UsageRow.model": "With `breakdown=model`; null for events without a model.",
    "UsageRow.session_id": "With `breakdown=session`; null for events outside of sessions.",
    "UsageRow.day": "With `breakdown=day`: YYYY-MM-DD.",
    "UsageRow.last_call_at": "With `breakdown=session`: start of its last call.",
    "MarginReport.report": "Which report it is.",
    "MarginReport.by": "The key.",
    "MarginReport.from": "Start of the span, inclusive.",
    "MarginReport.to": "End of the span, exclusive.",
    "MarginReport.timezone": "Months begin in this zone.",
    "MarginReport.as_of": "When the report was made.",
    "MarginReport.rows": "In the order that was asked for.",
    "MarginReport.total": "The sums over all rows, also those of other pages.",
    "MarginReport.shares": "By user: what the dearest 1, 5 and 10 percent of the users cost.",
    "MarginRow.user": "With the key `user`.",
    "MarginRow.plan": "With the key `plan`.",
    "MarginRow.month": "With the key `month`: YYYY-MM.",
    "revenue": "What was paid for the time, in dollars.",
    "revenue_nano": "The same in nano-dollars, exactly.",
    "revenue_source": "Whether it was recorded, or is the price of plans; null without any.",
    "margin": "Revenue less cost, in dollars.",
    "margin_nano": "The same in nano-dollars, exactly.",
    "margin_pct": "The margin as a fraction of the revenue: 0.4 is 40 %; null without revenue.",
    "projected_cost": "The cost at the end of the time at the pace so far, in dollars.",
    "projected_cost_nano": "The same in nano-dollars.",
    "projected_margin": "Revenue less projected cost, in dollars.",
    "projected_margin_nano": "The same in nano-dollars.",
    "percent": "Of the users, the dearest first.",
    "users": "How many users that are.",
    "GET reports/margin.by": "What to group by.",
    "GET reports/margin.from": "First day, or a time; the first of this month without it.",
    "GET reports/margin.to": "Day after the last one, or a time; the end of this month without it.",
    "GET reports/margin.period": "In their place: the user's billing period, or the calendar"
    " month.",
    "GET reports/margin.user": "Only this user.",
    "GET reports/margin.plan": "Only revenue and cost on this plan.",
    "GET reports/margin.sort": "`margin`, `cost`, `revenue`, `projected_cost`, `projected_margin`,"
    " `calls` or the key; descending with a `-` before it. Without it `margin`, or by time.",
    "GET reports/margin.format": "CSV has all rows.",
    "SpendReport.report": "Which report it is.",
    "SpendReport.by": "The keys.",
    "SpendReport.from": "Start of the span, inclusive.",
    "SpendReport.to": "End of the span, exclusive.",
    "SpendReport.timezone": "Days and months begin in this zone.",
    "SpendReport.as_of": "When the report was made.",
    "SpendReport.rows": "In the order that was asked for.",
    "SpendReport.total": "The sums over all rows, also those of other pages.",
    "SpendRow.user": "With the key `user`.",
    "SpendRow.model": "With the key `model`; null for usage without one.",
    "SpendRow.provider": "With the key `provider`; null for usage without one.",
    "SpendRow.plan": "With the key `plan`: the plan at the time of the calls.",
    "SpendRow.session": "With the key `session`; null for usage outside of sessions.",
    "SpendRow.day": "With the key `day`: YYYY-MM-DD.",
    "SpendRow.month": "With the key `month`: YYYY-MM.",
    "SpendRow.…": "With a key `tag:KEY`, under its name: the value as text; null without one.",
    "SpendRow.period": "With the key `period`: start of the user's billing period.",
    "cached_input_tokens": "The part of the input that was read from a cache.",
    "partial_calls": "Calls of which a part of the usage is known.",
    "estimated_calls": "Calls of which the usage was estimated.",
    "unpriced_calls": "Calls of a model without a price.",
    "shadow_calls": "Calls that ran past a limit without enforcement.",
    "shadow_cost": "What those cost: what enforcement would have saved.",
    "shadow_cost_nano": "The same in nano-dollars, exactly.",
    "GET reports/spend.from": "First day, or a time; the first of this month without it.",
    "GET reports/spend.to": "Day after the last one, or a time; until now without it.",
    "GET reports/spend.period": "In their place: the user's billing period, or the calendar month.",
    "GET reports/spend.user": "Only usage of this user.",
    "GET reports/spend.model": "Only usage of this model, as rows name it.",
    "GET reports/spend.provider": "Only usage of this provider.",
    "GET reports/spend.plan": "Only usage on this plan.",
    "GET reports/spend.session": "Only usage in this session.",
    "GET reports/spend.sort": "`cost`, `calls`, a kind of tokens, or a time among the keys;"
    " descending with a `-` before it. The first of the keys is possible, too. Without it `-cost`,"
    " or by time where the first key is one.",
    "GET reports/spend.format": "CSV has all rows.",
    "soft": "Warnings: calls past the warn line of a limit.",
    "hard": "Calls that reached a hard gate, refused or not.",
    "refused_calls": "Calls that were refused.",
    "exact": "Calls with exact figures.",
    "partial": "Calls of which a part of the usage is known.",
    "estimated": "Calls of which the usage was estimated.",
    "unpriced": "Calls of a model without a price.",
    "unmetered": "Calls that have passed without an event, since no adapter can meter them.",
    "GateReport.report": "Which report it is.",
    "GateReport.by": "The keys.",
    "GateReport.from": "Start of the span, inclusive.",
    "GateReport.to": "End of the span, exclusive.",
    "GateReport.timezone": "Days and months begin in this zone.",
    "GateReport.as_of": "When the report was made.",
    "GateReport.rows": "In the order that was asked for.",
    "GateReport.total": "The sums over all rows, also those of other pages.",
    "QualityReport.report": "Which report it is.",
    "QualityReport.by": "The keys.",
    "QualityReport.from": "Start of the span, inclusive.",
    "QualityReport.to": "End of the span, exclusive.",
    "QualityReport.timezone": "Days and months begin in this zone.",
    "QualityReport.as_of": "When the report was made.",
    "QualityReport.rows": "In the order that was asked for.",
    "QualityReport.total": "The sums over all rows, also those of other pages.",
    "GateRow.user": "With the key `user`.",
    "GateRow.reason": "With the key `reason`: a `gate_reason`; null for events without one.",
    "GateRow.day": "With the key `day`: YYYY-MM-DD.",
    "GateRow.month": "With the key `month`: YYYY-MM.",
    "QualityRow.model": "With the key `model`; null for calls without one. Unmetered calls have the"
    " name that the application gave.",
    "QualityRow.provider": "With the key `provider`; null for unmetered calls.",
    "QualityRow.operation": "With the key `operation`; null for metered calls.",
    "QualityRow.day": "With the key `day`: YYYY-MM-DD.",
    "QualityRow.month": "With the key `month`: YYYY-MM.",
    "QualitySums.calls": "Metered calls: exact, partial, estimated and unpriced ones.",
    "QualityRow.calls": "Metered calls: exact, partial, estimated and unpriced ones.",
    "GET reports/gates.from": _FIRST_DAY,
    "GET reports/gates.to": _LAST_DAY,
    "GET reports/gates.period": "In their place: the user's billing period, or the calendar month.",
    "GET reports/gates.user": "Only calls of this user.",
    "GET reports/gates.reason": "Only calls with this `gate_reason`.",
    "GET reports/gates.sort": "`soft`, `hard`, `refused_calls`, `shadow_calls`, `shadow_cost`, or a"
    " time among the keys; descending with a `-` before it. The first of the keys is possible, too."
    " Without it `-refused_calls`, or by time where the first key is one.",
    "GET reports/gates.format": "CSV has all rows.",
    "GET reports/quality.from": _FIRST_DAY,
    "GET reports/quality.to": _LAST_DAY,
    "GET reports/quality.period": "In their place: the calendar month.",
    "GET reports/quality.model": "Only calls of this model, as rows name it.",
    "GET reports/quality.provider": "Only calls of this provider.",
    "GET reports/quality.operation": "Only calls of this operation; empty for metered calls.",
    "GET reports/quality.sort": "One of the figures, or a time among the keys; descending with a"
    " `-` before it. The first of the keys is possible, too. Without it `-calls`, or by time where"
    " the first key is one.",
    "GET reports/quality.format": "CSV has all rows.",
    "UsageEvent.id": "Made by the sender, and stored once for its user.",
    "UsageEvent.timestamp": "When the call began.",
    "UsageEvent.model": _MODEL + " Null for other costs.",
    "UsageEvent.provider": "The provider that answered.",
    "UsageEvent.cached_input_tokens": "The part of the input that was read from a cache.",
    "UsageEvent.cache_write_tokens": "The part of the input that was written to a cache.",
    "UsageEvent.reasoning_tokens": "The part of the output that was spent on thinking.",
    "UsageEvent.total_tokens": "Input and output; alone, it is counted as input.",
    "UsageEvent.tool_calls": "Names of tools that were charged; at most 1,000.",
    "UsageEvent.cost_tokens": "Dollars for tokens and the provider's fees. The server computes no"
    " cost: an event with tokens and no `cost_…` field is booked at $0, with the quality `unpriced`"
    " unless it names another.",
    "UsageEvent.cost_tools": "Dollars for tools at the plan's prices.",
    "UsageEvent.cost_total": "Their sum; alone, it is the cost of tokens.",
    "UsageEvent.metadata": "At most 16 keys and 1,000 bytes; the excess is dropped.",
    "UsageEvent.source": "`manual` for an entry that is no metered call.",
    "UsageEvent.description": "Free text of a manual entry; cut after 2,000 characters.",
    "UsageEvent.cost_explicit": "Whether the application gave the cost, rather than prices.",
    "UsageEvent.quality": "How reliable the figures are.",
    "UsageEvent.price_id": "The price list that the cost was computed with.",
    "UsageEvent.latency_ms": "Milliseconds from begin to settlement.",
    "UsageEvent.blocked": "Whether the call ran past a hard gate.",
    "UsageToken.token": "The token; only this answer has it.",
    "UsageToken.expires_at": "When the token ends.",
    "User.name": "A name for lists.",
    "Users.users": "The page, by id.",
}  # fmt: skip
"""Meaning of `OBJECT.FIELD`, or of a field of that name in every object without one."""

SAME_AS = {
    "CreatedKey": "Key",
    "CreatedProduct": "Product",
    "LimitIdentity": "LimitName",
    "LeasesMessage": "SyncMessage",
    "NewGateEvent": "GateEvent",
}
"""Objects that take the meanings of another one, where they have none of their own."""

REFUSALS: dict[str, tuple[tuple[int, str, str], ...]] = {
    "POST /events/batch": (
        (422, "invalid-value", "an event breaks a rule, and none of the batch is booked"),
        (422, "rejected", "the ledger cannot take a record of the batch; do not repeat it"),
        (503, "unavailable", "too many batches are waiting; repeat it"),
    ),
    "POST /gate-events/batch": (
        (422, "invalid-value", "an event breaks a rule, and none of the batch is stored"),
    ),
    "POST /sync": (
        (403, "insufficient-scope", "a key with the scope `sdk` must not change plans"),
        (422, "invalid-value", "a field breaks a rule, and nothing is booked"),
        (422, "rejected", "the ledger cannot take a record of the batch; do not repeat it"),
        (503, "unavailable", "too many batches are waiting; repeat it"),
    ),
    "POST /leases": ((422, "invalid-value", "a field breaks a rule, or belongs to `/sync`"),),
    "GET /users/{user_id}/gate-events": ((404, "not-found", "unknown user"),),
    "POST /users": ((409, "exists", "there is a user with this id"),),
    "GET /users/{user_id}": ((404, "not-found", "unknown user"),),
    "PATCH /users/{user_id}": (
        (404, "not-found", "unknown user"),
        (422, "invalid-value", "a `reason` without `paused`, and the user is not paused"),
    ),
    "DELETE /users/{user_id}": ((404, "not-found", "unknown user"),),
    "POST /users/{user_id}/subscription": (
        (404, "not-found", "unknown user or plan"),
        (422, "invalid-value", "the plan needs a period, or it is none"),
    ),
    "GET /users/{user_id}/session": ((404, "not-found", "unknown user; GET creates none"),),
    "GET /users/{user_id}/usage": (
        (404, "not-found", "unknown user"),
        (422, "invalid-value", "`to` is not after `from`, or more than ten years after it"),
    ),
    "GET /reports/margin": (
        (422, "invalid-value", "`to` is not after `from`, or more than ten years after it; `cursor`"
         " is of another report"),
    ),
    "GET /reports/gates": (
        (422, "invalid-value", "`from` or `to` is not the start of a day; `to` is not after `from`,"
         " or more than ten years after it; `cursor` is of another report"),
    ),
    "GET /reports/quality": (
        (422, "invalid-value", "`from` or `to` is not the start of a day; `to` is not after `from`,"
         " or more than ten years after it; `cursor` is of another report"),
    ),
    "GET /reports/spend": (
        (422, "invalid-value", "`to` is not after `from`, or more than ten years after it; `cursor`"
         " is of another report; or there are more than 500,000 events for what the rollups do not"
         " hold"),
    ),
    "GET /users/{user_id}/limits": ((404, "not-found", "unknown user"),),
    "POST /users/{user_id}/usage-token": ((404, "not-found", "unknown user"),),
    "GET /usage": (
        (401, "unauthorized", "the token is not valid, or has expired"),
        (404, "not-found", "the user was erased"),
    ),
    "POST /config/plans": (
        (422, "invalid-value", "a plan breaks a rule, and none is written"),
    ),
    "PATCH /config/plans/{plan_id}": ((404, "not-found", "unknown plan"),),
    "DELETE /config/plans/{plan_id}": (
        (404, "not-found", "unknown plan"),
        (409, "in-use", "users have this plan"),
    ),
    "POST /users/{user_id}/overrides": (
        (404, "not-found", "unknown user"),
        (422, "invalid-value", "neither or both of `cap` and `add`, or an unknown limit"),
    ),
    "GET /users/{user_id}/overrides": ((404, "not-found", "unknown user"),),
    "DELETE /users/{user_id}/overrides/{override_id}": (
        (404, "not-found", "unknown user or override"),
    ),
    "POST /keys/{key_id}/rotate": (
        (404, "not-found", "unknown key"),
        (409, "revoked", "the key is revoked"),
    ),
    "DELETE /keys/{key_id}": ((404, "not-found", "unknown key"),),
    "POST /products": ((403, "setup-only", "the token is missing or wrong"),),
    "GET /ready": ((503, "unavailable", "the database cannot be used now"),),
}  # fmt: skip
"""What a route refuses in its own way: status, kind and reason."""


class Example(NamedTuple):
    """A request that succeeds.

    Attributes:
        path: What is requested, with values for its parameters; a `$NAME` is an id of before.
        body: The JSON, or None.
    """

    path: str
    body: Any = None


_EVENT = {
    "id": "event-1",
    "user_id": "ann",
    "session_id": "chat-7",
    "timestamp": "2026-11-05T12:00:00Z",
    "model": "gpt-4o",
    "input_tokens": 1200,
    "output_tokens": 300,
    "cost_tokens": 0.006,
    "metadata": {"team": "search"},
}
_GATE_EVENT = {
    "id": "gate-1",
    "user_id": "ann",
    "timestamp": "2026-11-05T12:00:00Z",
    "status": "soft_gate",
    "gate_reason": "total_spend",
    "usage_pct": 0.81,
    "current_value": 20.25,
    "limit_value": 25,
}
_QUESTION = {
    "limits": [["spend", "user", "", "period"]],
    "windows": [[1793491200000000, 1796083200000000]],
    "questions": [{"user_id": "ann", "accounts": [[0, 0]]}],
}
_PERIOD = {"period_start": "2026-11-15T00:00:00Z", "period_end": "2026-12-15T00:00:00Z"}

EXAMPLES = {
    "POST /events/batch": Example("/events/batch", [_EVENT]),
    "POST /gate-events/batch": Example("/gate-events/batch", [_GATE_EVENT]),
    "GET /users/{user_id}/gate-events": Example("/users/ann/gate-events?status=soft_gate&limit=20"),
    "POST /sync": Example(
        "/sync",
        {"holder": "web-1", "number": 1, "events": [{**_EVENT, "id": "event-2"}], **_QUESTION},
    ),
    "POST /leases": Example("/leases", {"holder": "web-1", **_QUESTION}),
    "POST /users": Example("/users", {"external_user_id": "bob", "name": "Bob"}),
    "GET /users": Example("/users?plan=pro&limit=50"),
    "GET /users/{user_id}": Example("/users/ann"),
    "PATCH /users/{user_id}": Example("/users/ann", {"paused": True, "reason": "chargeback"}),
    "DELETE /users/{user_id}": Example("/users/bob"),
    "POST /users/{user_id}/subscription": Example(
        "/users/ann/subscription", {"plan_id": "$PLAN_ID", **_PERIOD}
    ),
    "GET /users/{user_id}/limits": Example("/users/ann/limits"),
    "GET /users/{user_id}/session": Example("/users/ann/session"),
    "GET /users/{user_id}/usage": Example(
        "/users/ann/usage?from=2026-11-01&to=2026-12-01&breakdown=day"
    ),
    "GET /reports/margin": Example("/reports/margin?by=plan&from=2026-11-01&to=2026-12-01"),
    "GET /reports/gates": Example("/reports/gates?by=user,reason&from=2026-11-01&to=2026-12-01"),
    "GET /reports/quality": Example("/reports/quality?by=model&from=2026-11-01&to=2026-12-01"),
    "GET /reports/spend": Example("/reports/spend?by=user,model&from=2026-11-01&to=2026-12-01"),
    "POST /users/{user_id}/usage-token": Example("/users/ann/usage-token", {"expires_in_s": 600}),
    "GET /usage": Example("/usage"),
    "POST /config/plans": Example(
        "/config/plans",
        {
            "soft_gate_at": 0.8,
            "plans": [
                {"name": "pro", "max_spend_per_period": 25, "model_limits": {"gpt-4o": 50000}}
            ],
        },
    ),
    "GET /config/plans": Example("/config/plans"),
    "PATCH /config/plans/{plan_id}": Example(
        "/config/plans/$PLAN_ID", {"max_spend_per_period": 30, "price": 49}
    ),
    "DELETE /config/plans/{plan_id}": Example("/config/plans/$PLAN_ID"),
    "POST /users/{user_id}/overrides": Example(
        "/users/ann/overrides",
        {"limit": "total_spend", "add": 10, "until": "2099-01-01T00:00:00Z", "reason": "goodwill"},
    ),
    "GET /users/{user_id}/overrides": Example("/users/ann/overrides"),
    "DELETE /users/{user_id}/overrides/{override_id}": Example("/users/ann/overrides/$OVERRIDE_ID"),
    "POST /revenue": Example(
        "/revenue", [{"id": "invoice-1", "user_id": "ann", "amount": 49, **_PERIOD}]
    ),
    "GET /revenue": Example("/revenue?from=2026-11-01&to=2026-12-01"),
    "GET /keys": Example("/keys"),
    "POST /keys": Example("/keys", {"scope": "read", "name": "dashboard"}),
    "POST /keys/{key_id}/rotate": Example("/keys/$KEY_ID/rotate"),
    "DELETE /keys/{key_id}": Example("/keys/$KEY_ID"),
    "GET /products": Example("/products"),
    "POST /products": Example("/products", {"name": "Search"}),
    "GET /health": Example("/health"),
    "GET /ready": Example("/ready"),
    "GET /metrics": Example("/metrics"),
}
"""The example of each route."""
