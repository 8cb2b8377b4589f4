-- The ledger's schema, for both engines. The key of every table starts with product_id, so tenants are separate by
-- construction; what grows with users has user_id next, so that it can be distributed by user. Money is nano-dollars,
-- times are microseconds since 1970 UTC; days and months are ISO 8601 text in the product's time zone.
--
-- A sum that leaves 64 bits is an error: of PostgreSQL by itself, of SQLite, which would go on with a float, by a CHECK.
--
-- /*sqlite …*/ and /*postgres …*/ are read by that engine alone. On PostgreSQL every TEXT has the collation "C", so that
-- both engines sort alike.

-- tag_keys: the metadata keys that rollup_tag holds, as a JSON object, each with its first day.
CREATE TABLE products (
    product_id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    contact_name TEXT,
    contact_email TEXT,
    timezone TEXT NOT NULL DEFAULT 'UTC',
    default_plan TEXT,
    default_plan_us BIGINT NOT NULL DEFAULT 0,
    tag_keys TEXT,
    created_us BIGINT NOT NULL
);

-- key_hash is the SHA-256 of the whole key: a key cannot be read back from here.
CREATE TABLE api_keys (
    product_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    revoked_us BIGINT,
    PRIMARY KEY (product_id, key_id)
);

CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (product_id, key_hash);

-- Logins of the dashboard. login_hash is the SHA-256 of the secret in the browser; a login ends with its key.
CREATE TABLE logins (
    product_id TEXT NOT NULL,
    login_hash TEXT NOT NULL,
    key_id TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, login_hash)
);

CREATE INDEX logins_by_expiry ON logins (product_id, expires_us);

-- Pages of the dashboard with their filters, under names; a product has few.
CREATE TABLE saved_views (
    product_id TEXT NOT NULL,
    view_id TEXT NOT NULL,
    name TEXT NOT NULL,
    page TEXT NOT NULL,
    query TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, view_id)
);

CREATE UNIQUE INDEX saved_views_by_name ON saved_views (product_id, name, page);

-- The outcome of each product's last audit.
CREATE TABLE audits (
    product_id TEXT NOT NULL PRIMARY KEY,
    at_us BIGINT NOT NULL,
    differences BIGINT NOT NULL
);

-- Secrets that all servers of a database share, such as the one that signs usage tokens.
CREATE TABLE server_secrets (
    name TEXT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL,
    created_us BIGINT NOT NULL
);

-- Every version of a plan; deleted_us hides a plan whose name is not used any more.
CREATE TABLE plans (
    product_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    plan_id TEXT NOT NULL,
    document TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    deleted_us BIGINT,
    PRIMARY KEY (product_id, name, version)
);

CREATE INDEX plans_by_id ON plans (product_id, plan_id);

CREATE TABLE price_lists (
    product_id TEXT NOT NULL,
    price_id TEXT NOT NULL,
    document TEXT NOT NULL,
    first_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, price_id)
);

-- assigned_us is the ledger's time of the assignment, whatever clock its sender has; changed_us is its time of the last
-- change of plan, overrides or switches, which processes that know the user look for. 0 is never.
CREATE TABLE users (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    paygent_user_id TEXT NOT NULL,
    name TEXT,
    plan TEXT,
    own TEXT,
    period_start_us BIGINT,
    period_end_us BIGINT,
    renews TEXT,
    sdk_enabled INTEGER NOT NULL DEFAULT 1,
    paused INTEGER NOT NULL DEFAULT 0,
    paused_reason TEXT,
    created_us BIGINT NOT NULL,
    assigned_us BIGINT,
    changed_us BIGINT NOT NULL DEFAULT 0,
    erased_us BIGINT,
    PRIMARY KEY (product_id, user_id)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;

CREATE INDEX users_by_plan ON users (product_id, plan, user_id);

CREATE INDEX users_by_change ON users (product_id, changed_us) WHERE changed_us > 0;

-- The processes that deliver batches, each by a name of its own, and the number of the last one that was booked. Both
-- are written in the transaction that books it, so that a reading of spend shows which batches it includes.
CREATE TABLE holders (
    product_id TEXT NOT NULL,
    holder TEXT NOT NULL,
    booked_through BIGINT NOT NULL,
    seen_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, holder)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;

CREATE INDEX holders_by_time ON holders (product_id, seen_us);

-- The history of assignments: the plan that a late event ran under, and the price that a user paid.
CREATE TABLE assignments (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    assigned_us BIGINT NOT NULL,
    plan TEXT NOT NULL,
    period_start_us BIGINT,
    period_end_us BIGINT,
    renews TEXT,
    PRIMARY KEY (product_id, user_id, assigned_us)
) /*sqlite WITHOUT ROWID */;

-- A limit that is raised until a time: by a cap of its own, or by an amount that is added.
CREATE TABLE overrides (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    override_id TEXT NOT NULL,
    metric TEXT NOT NULL,
    scope TEXT NOT NULL,
    model TEXT NOT NULL,
    window_rule TEXT NOT NULL,
    cap BIGINT,
    added BIGINT,
    until_us BIGINT NOT NULL,
    reason TEXT,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, user_id, override_id)
) /*sqlite WITHOUT ROWID */;

CREATE TABLE sessions (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    implicit INTEGER NOT NULL,
    started_us BIGINT NOT NULL,
    used_us BIGINT NOT NULL,
    ended_us BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (product_id, user_id, session_id)
) /*sqlite WITHOUT ROWID */;

-- A user may have had thousands of sessions; few of them are open.
CREATE INDEX sessions_open ON sessions (product_id, user_id, started_us) WHERE implicit = 1 AND ended_us = 0;

-- For a report about a session that names no user.
CREATE INDEX sessions_by_id ON sessions (product_id, session_id);

-- One counter for each limit of a user in one window. The end of the window precedes the rest of the key, so that the
-- accounts of an event are found without reading those of the windows that have passed.
CREATE TABLE accounts (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    end_us BIGINT NOT NULL,
    start_us BIGINT NOT NULL,
    metric TEXT NOT NULL,
    scope TEXT NOT NULL,
    model TEXT NOT NULL,
    window_rule TEXT NOT NULL,
    spent BIGINT NOT NULL /*sqlite CHECK (typeof(spent) = 'integer') */,
    shadow BIGINT NOT NULL /*sqlite CHECK (typeof(shadow) = 'integer') */,
    PRIMARY KEY (product_id, user_id, session_id, end_us, start_us, metric, scope, model, window_rule)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;

-- Claimed ids, and where their events are: an id is claimed for the user it was sent for, in the transaction that
-- counts its event. A correction may be booked on another user, its original's (booked_user_id). The id precedes the
-- user, so that an event is found by its id alone; ids are made in the order of time, so rows are added at the end.
CREATE TABLE event_ids (
    product_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    booked_user_id TEXT,
    PRIMARY KEY (product_id, event_id, user_id)
) /*sqlite WITHOUT ROWID */;

-- For erasing a user: the corrections that they sent for another user's event.
CREATE INDEX event_ids_booked_elsewhere ON event_ids (product_id, user_id) WHERE booked_user_id IS NOT NULL;

-- corrects: id of the event that this one corrects. The original may be stored later, or have been dropped with its
-- month, so there is no foreign key.
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
    gate_reason TEXT NOT NULL,
    corrects TEXT/*postgres ,
    PRIMARY KEY (product_id, user_id, at_us, event_id) */
) /*postgres PARTITION BY RANGE (at_us) */;

/*postgres CREATE TABLE events_other PARTITION OF events DEFAULT; */

-- An index without the event's id has half the size, and it is where an event costs most: its place is that of its user.
-- That an id is stored once is the work of event_ids.
/*sqlite CREATE INDEX events_by_user ON events (product_id, user_id, at_us); */

-- For reports by tag, which read the events of their days. On PostgreSQL it has a condition, always true, so that it is
-- not chosen for a statement without it: there one index of an empty partition is as good as another.
CREATE INDEX events_by_day ON events (product_id, day) /*postgres WHERE day > '' */;

-- Corrections by their original. restates: it came with the figures of the whole. waiting: its original is not stored
-- yet; one that restates lets the original add nothing when it comes.
CREATE TABLE corrections (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    corrects TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    quality TEXT NOT NULL,
    restates INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    PRIMARY KEY (product_id, user_id, event_id)
) /*sqlite WITHOUT ROWID */;

CREATE INDEX corrections_by_original ON corrections (product_id, corrects);

CREATE INDEX corrections_waiting ON corrections (product_id) WHERE waiting = 1;

CREATE TABLE gate_events (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    gate_event_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    status TEXT NOT NULL,
    gate_reason TEXT NOT NULL,
    model TEXT NOT NULL,
    blocked INTEGER NOT NULL,
    usage_ppm BIGINT NOT NULL,
    current_value TEXT NOT NULL,
    limit_value TEXT NOT NULL,
    message TEXT NOT NULL,
    metadata TEXT,
    calls BIGINT NOT NULL,
    PRIMARY KEY (product_id, user_id, gate_event_id)
);

CREATE INDEX gate_events_by_time ON gate_events (product_id, user_id, at_us, gate_event_id);

-- For the newest of all users.
CREATE INDEX gate_events_latest ON gate_events (product_id, at_us, gate_event_id, user_id);

-- How many calls each process has seen that no adapter could meter, in quarters of an hour; a number only grows, so
-- it may be written again. day is that of since_us.
CREATE TABLE unmetered_calls (
    product_id TEXT NOT NULL,
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    operation TEXT NOT NULL,
    process TEXT NOT NULL,
    since_us BIGINT NOT NULL,
    calls BIGINT NOT NULL /*sqlite CHECK (typeof(calls) = 'integer') */,
    PRIMARY KEY (product_id, day, model, operation, process, since_us)
) /*sqlite WITHOUT ROWID */;

-- What a user paid or was paid back for a span of time; refunds are negative.
CREATE TABLE revenue (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    revenue_id TEXT NOT NULL,
    amount_nano BIGINT NOT NULL,
    kind TEXT NOT NULL,
    period_start_us BIGINT NOT NULL,
    period_end_us BIGINT NOT NULL,
    source TEXT,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, user_id, revenue_id)
) /*sqlite WITHOUT ROWID */;

CREATE INDEX revenue_by_period ON revenue (product_id, period_start_us, user_id, revenue_id);

-- For margins: what is for a span of time has not ended before it.
CREATE INDEX revenue_by_end ON revenue (product_id, period_end_us);

CREATE INDEX revenue_by_user ON revenue (product_id, user_id, period_start_us, revenue_id);

-- Ids of users that were erased, as keyed hashes, and the pseudonym under which their sums stay: events of the old id
-- that arrive late are booked there.
CREATE TABLE erased_users (
    product_id TEXT NOT NULL,
    id_hash TEXT NOT NULL,
    pseudonym TEXT NOT NULL,
    until_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, id_hash)
);

-- Requests with an Idempotency-Key and their answers, kept for a day. A row without an answer is a claim: the request
-- that wrote claim_id is running, and alone stores the answer or gives the key back.
CREATE TABLE idempotency_keys (
    product_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    claim_id TEXT NOT NULL,
    status INTEGER,
    answer TEXT,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, idempotency_key)
);

CREATE INDEX idempotency_keys_by_time ON idempotency_keys (product_id, created_us);

-- While its backend is away, the processes of a host keep in their local store what it does not have: in the outbox the
-- records themselves, in the order in which they are sent, and in a namespace of its own, `<product>~<number>`, the
-- ledger of the outage. kept_answers are the backend's last figures, which those are added to; user_id '' has the plans.
--
-- last_row and last_event count the records, and the events among them, that were ever put into the outbox: a row's
-- number is never used again, so that a process that has sent rows and was then stopped deletes those and no others.
CREATE TABLE outages (
    product_id TEXT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    last_row BIGINT NOT NULL DEFAULT 0,
    last_event BIGINT NOT NULL DEFAULT 0
);

-- events: how many of the records through this one are events, so that they need not be counted.
CREATE TABLE outbox (
    product_id TEXT NOT NULL,
    row_number BIGINT NOT NULL,
    kind TEXT NOT NULL,
    events BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (product_id, row_number)
);

CREATE TABLE kept_answers (
    product_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    as_of_us BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (product_id, user_id)
) /*sqlite WITHOUT ROWID */;

-- What each event adds to the rollups: the definition that audits and reports share. Of EXISTS, PostgreSQL would make
-- one search through the corrections of all products.
CREATE VIEW event_figures AS
SELECT
    e.product_id, e.event_id, e.day, e.at_us, e.user_id, e.session_id, e.period_start_us, e.model_key AS model,
    e.provider, e.plan, CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END AS calls, e.input_tokens, e.output_tokens,
    e.cached_input_tokens, e.cost_tokens_nano + e.cost_tools_nano AS cost_nano,
    CASE WHEN e.quality = 'partial' AND e.corrects IS NULL AND (
        SELECT 1 FROM corrections AS c
        WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.user_id = e.user_id AND c.quality = 'exact'
        LIMIT 1
    ) IS NULL THEN 1 ELSE 0 END AS partial_calls,
    CASE WHEN e.quality = 'estimated' AND e.corrects IS NULL AND (
        SELECT 1 FROM corrections AS c
        WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.user_id = e.user_id AND c.quality = 'exact'
        LIMIT 1
    ) IS NULL THEN 1 ELSE 0 END AS estimated_calls,
    CASE WHEN e.quality = 'unpriced' AND e.corrects IS NULL AND (
        SELECT 1 FROM corrections AS c
        WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.user_id = e.user_id AND c.quality = 'exact'
        LIMIT 1
    ) IS NULL THEN 1 ELSE 0 END AS unpriced_calls,
    CASE WHEN e.blocked = 1 AND e.corrects IS NULL THEN 1 ELSE 0 END AS shadow_calls,
    CASE WHEN e.blocked = 1 THEN e.cost_tokens_nano + e.cost_tools_nano ELSE 0 END AS shadow_cost_nano,
    e.metadata, e.corrects, e.blocked, e.gate_reason
FROM events AS e;

-- Rollups: sums of events, changed in the transaction that stores them. A call is partial, estimated or unpriced while
-- neither its own figures nor those of a correction are exact.

-- Every event counts in two rows: in that of its day ('2026-10-03') and in that of its month ('2026-10'). A span of time
-- is read as its whole months and the days that are left. The span precedes the user: reports about all users read few
-- spans, those about one look up each.
CREATE TABLE rollup_user (
    product_id TEXT NOT NULL,
    span TEXT NOT NULL,
    user_id TEXT NOT NULL,
    period_start_us BIGINT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL,
    calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(input_tokens) = 'integer') */,
    output_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(output_tokens) = 'integer') */,
    cached_input_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(cached_input_tokens) = 'integer') */,
    cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(cost_nano) = 'integer') */,
    partial_calls BIGINT NOT NULL,
    estimated_calls BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    shadow_calls BIGINT NOT NULL,
    shadow_cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(shadow_cost_nano) = 'integer') */,
    PRIMARY KEY (product_id, span, user_id, period_start_us, model, provider, plan)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;

-- The same of the whole product, for days alone. Its rows are hot: each writer has a slot of its own, and a reader sums them.
CREATE TABLE rollup_product (
    product_id TEXT NOT NULL,
    span TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL,
    slot INTEGER NOT NULL,
    calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(input_tokens) = 'integer') */,
    output_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(output_tokens) = 'integer') */,
    cached_input_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(cached_input_tokens) = 'integer') */,
    cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(cost_nano) = 'integer') */,
    partial_calls BIGINT NOT NULL,
    estimated_calls BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    shadow_calls BIGINT NOT NULL,
    shadow_cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(shadow_cost_nano) = 'integer') */,
    PRIMARY KEY (product_id, span, model, provider, plan, slot)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;

-- The same by the value of each declared metadata key, from the key's first day on; '' is none.
CREATE TABLE rollup_tag (
    product_id TEXT NOT NULL,
    span TEXT NOT NULL,
    tag_key TEXT NOT NULL,
    tag_value TEXT NOT NULL,
    slot INTEGER NOT NULL,
    calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(input_tokens) = 'integer') */,
    output_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(output_tokens) = 'integer') */,
    cached_input_tokens BIGINT NOT NULL /*sqlite CHECK (typeof(cached_input_tokens) = 'integer') */,
    cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(cost_nano) = 'integer') */,
    partial_calls BIGINT NOT NULL,
    estimated_calls BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    shadow_calls BIGINT NOT NULL,
    shadow_cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(shadow_cost_nano) = 'integer') */,
    PRIMARY KEY (product_id, span, tag_key, tag_value, slot)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;

-- Calls that reached a gate: sums of gate events, and (shadow_*) of the events of calls that ran past one. The day
-- precedes the user, as in rollup_user.
CREATE TABLE rollup_gate (
    product_id TEXT NOT NULL,
    day TEXT NOT NULL,
    user_id TEXT NOT NULL,
    gate_reason TEXT NOT NULL,
    soft BIGINT NOT NULL,
    hard BIGINT NOT NULL,
    refused_calls BIGINT NOT NULL,
    shadow_calls BIGINT NOT NULL,
    shadow_cost_nano BIGINT NOT NULL /*sqlite CHECK (typeof(shadow_cost_nano) = 'integer') */,
    PRIMARY KEY (product_id, day, user_id, gate_reason)
) /*sqlite WITHOUT ROWID */ /*postgres WITH (fillfactor = 70) */;
