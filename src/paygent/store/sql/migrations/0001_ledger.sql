-- The ledger's schema. The key of every table starts with product_id, so tenants are separate by construction.
-- Money is nano-dollars, times are microseconds since 1970 UTC; days are ISO 8601 text.

CREATE TABLE plans (
    product_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, name, version)
);

CREATE TABLE users (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    plan TEXT,
    own TEXT,
    period_start_us BIGINT,
    period_end_us BIGINT,
    renews TEXT,
    sdk_enabled INTEGER NOT NULL DEFAULT 1,
    created_us BIGINT NOT NULL,
    assigned_us BIGINT,
    PRIMARY KEY (product_id, user_id)
);

CREATE TABLE sessions (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    implicit INTEGER NOT NULL,
    started_us BIGINT NOT NULL,
    used_us BIGINT NOT NULL,
    ended_us BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (product_id, user_id, session_id)
);

-- A user may have had thousands of sessions; few of them are open.
CREATE INDEX sessions_open ON sessions (product_id, user_id, started_us) WHERE implicit = 1 AND ended_us = 0;

-- session_id precedes the window in the key, so that the accounts of an event are found without reading those of
-- the user's other sessions.
CREATE TABLE accounts (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    metric TEXT NOT NULL,
    scope TEXT NOT NULL,
    model TEXT NOT NULL,
    window_rule TEXT NOT NULL,
    start_us BIGINT NOT NULL,
    end_us BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    PRIMARY KEY (product_id, user_id, session_id, metric, scope, model, window_rule, start_us)
);

-- Ids are claimed here, not by the key of events: events will be partitioned by month, and a unique key of a
-- partitioned table must contain the partition column.
CREATE TABLE event_ids (
    product_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (product_id, event_id)
);

-- corrects: id of the event that this one corrects. The original may be stored later, or have been dropped with
-- its month, so there is no foreign key.
-- restates: 1 on a correction that came with the figures of the whole; an original that is stored after it adds
-- nothing.
CREATE TABLE events (
    product_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    model_key TEXT NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL,
    period_start_us BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_tokens_nano BIGINT NOT NULL,
    cost_tools_nano BIGINT NOT NULL,
    quality TEXT NOT NULL,
    source TEXT NOT NULL,
    price_id TEXT NOT NULL,
    latency_ms BIGINT NOT NULL,
    blocked INTEGER NOT NULL,
    cost_explicit INTEGER NOT NULL,
    tool_calls TEXT,
    description TEXT,
    metadata TEXT,
    details TEXT,
    corrects TEXT,
    restates INTEGER NOT NULL,
    PRIMARY KEY (product_id, event_id)
);

CREATE INDEX events_by_user ON events (product_id, user_id, at_us);

-- For reports by tag, which read the events of their days.
CREATE INDEX events_by_day ON events (product_id, day);

CREATE INDEX events_by_original ON events (product_id, corrects) WHERE corrects IS NOT NULL;

-- A row is written once and never changed: a price id names one list for ever.
CREATE TABLE price_lists (
    product_id TEXT NOT NULL,
    price_id TEXT NOT NULL,
    document TEXT NOT NULL,
    first_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, price_id)
);

CREATE TABLE rollup_day (
    product_id TEXT NOT NULL,
    day TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL,
    calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    doubtful_calls BIGINT NOT NULL,
    PRIMARY KEY (product_id, day, user_id, model, provider, plan)
);

CREATE TABLE rollup_period (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    period_start_us BIGINT NOT NULL,
    model TEXT NOT NULL,
    calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    PRIMARY KEY (product_id, user_id, period_start_us, model)
);
