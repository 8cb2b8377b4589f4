-- What a batch changes: users, sessions, plans, events, accounts and rollups.

-- name: product^
-- What booking needs to know of the product; the two flags spare most batches a search.
SELECT
    COALESCE((SELECT p.default_plan FROM products AS p WHERE p.product_id = :product_id), '') AS default_plan,
    COALESCE((SELECT p.timezone FROM products AS p WHERE p.product_id = :product_id), 'UTC') AS timezone,
    EXISTS (
        SELECT 1 FROM corrections AS c /*sqlite INDEXED BY corrections_waiting */
        WHERE c.product_id = :product_id AND c.waiting = 1
    ) AS has_waiting,
    (SELECT p.tag_keys FROM products AS p WHERE p.product_id = :product_id) AS tag_keys;

-- name: lock_product!
-- Creates the product of a local store, and makes others who change its plans wait.
INSERT INTO products (product_id, name, slug, created_us)
VALUES (:product_id, :product_id, :product_id, :now_us)
ON CONFLICT (product_id) DO UPDATE SET product_id = excluded.product_id;

-- name: lock_users!
-- Creates users on first sight and locks the rows of all, in order: whoever books for a user, opens an account or
-- assigns a plan has the row first. On SQLite the transaction has the whole database. PostgreSQL locks the row of a
-- conflict before it reads the condition, and writes no new version of it then.
INSERT INTO users (product_id, user_id, paygent_user_id, created_us)
SELECT :product_id, k.user_id, k.paygent_user_id, :now_us
FROM rows(user_id TEXT, paygent_user_id TEXT) AS k
WHERE true
ON CONFLICT (product_id, user_id) DO /*sqlite NOTHING */ /*postgres UPDATE SET user_id = excluded.user_id WHERE false */;

-- name: touch_user!
-- Shows processes that know a user that something other than spend has changed.
UPDATE users SET changed_us = :now_us
WHERE product_id = :product_id AND user_id = :user_id AND changed_us < :now_us;

-- name: note_holders!
-- Runs last in a transaction, with the rows in order: whoever waits here for another waits for nothing else.
INSERT INTO holders (product_id, holder, booked_through, seen_us)
SELECT :product_id, k.holder, k.booked_through, :now_us
FROM rows(holder TEXT, booked_through BIGINT) AS k
WHERE true
ON CONFLICT (product_id, holder) DO UPDATE SET
    booked_through = CASE
        WHEN excluded.booked_through > holders.booked_through THEN excluded.booked_through
        ELSE holders.booked_through END,
    seen_us = excluded.seen_us;

-- name: forget_holders!
-- Drops the processes that have not been seen for long.
DELETE FROM holders WHERE product_id = :product_id AND seen_us < :before_us;

-- name: add_plan!
-- Adds a version, unless the newest one has the same document (applications configure at every start) or is younger
-- (a dead process's journal arrives late).
INSERT INTO plans (product_id, name, version, plan_id, document, created_us)
SELECT :product_id, :name, COALESCE(newest.version, 0) + 1, COALESCE(latest.plan_id, :plan_id), :document, :at_us
FROM (
    SELECT MAX(p.version) AS version FROM plans AS p WHERE p.product_id = :product_id AND p.name = :name
) AS newest
LEFT JOIN plans AS latest
    ON latest.product_id = :product_id AND latest.name = :name AND latest.version = newest.version
WHERE COALESCE(latest.created_us, 0) <= :at_us
  AND (COALESCE(latest.document, '') <> :document OR latest.deleted_us IS NOT NULL);

-- name: put_default_plan!
-- The last change wins.
UPDATE products SET default_plan = :default_plan, default_plan_us = :at_us
WHERE product_id = :product_id AND default_plan_us <= :at_us;

-- name: put_tag_keys!
UPDATE products SET tag_keys = :tag_keys WHERE product_id = :product_id;

-- name: add_price_list!
-- The first document stays: a price id names one list for ever.
INSERT INTO price_lists (product_id, price_id, document, first_us)
VALUES (:product_id, :price_id, :document, :at_us)
ON CONFLICT (product_id, price_id) DO NOTHING;

-- name: assign_plan!
-- The last change wins, but an assignment with keeps = 1 applies only to a user without one. Runs with the user's row
-- locked.
UPDATE users SET
    plan = :plan, own = :own, period_start_us = :period_start_us, period_end_us = :period_end_us, renews = :renews,
    assigned_us = :at_us
WHERE product_id = :product_id AND user_id = :user_id
  AND (plan IS NULL OR (:keeps = 0 AND COALESCE(assigned_us, 0) <= :at_us));

-- name: add_assignment!
-- Two changes at one microsecond are one.
INSERT INTO assignments (product_id, user_id, assigned_us, plan, period_start_us, period_end_us, renews)
VALUES (:product_id, :user_id, :at_us, :plan, :period_start_us, :period_end_us, :renews)
ON CONFLICT (product_id, user_id, assigned_us) DO UPDATE SET
    plan = excluded.plan, period_start_us = excluded.period_start_us, period_end_us = excluded.period_end_us,
    renews = excluded.renews;

-- name: assignments_of
-- The plans that users had over time, oldest first.
SELECT a.user_id, a.assigned_us, a.plan, a.period_start_us, a.period_end_us, a.renews
FROM rows(user_id TEXT) AS k
CROSS JOIN assignments AS a
WHERE a.product_id = :product_id AND a.user_id = k.user_id
ORDER BY a.user_id, a.assigned_us;

-- name: put_sessions!
INSERT INTO sessions (product_id, user_id, session_id, implicit, started_us, used_us, ended_us)
SELECT :product_id, k.user_id, k.session_id, k.implicit, k.started_us, k.used_us, k.ended_us
FROM rows(
    user_id TEXT, session_id TEXT, implicit INTEGER, started_us BIGINT, used_us BIGINT, ended_us BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, user_id, session_id) DO UPDATE SET
    implicit = excluded.implicit,
    started_us = CASE WHEN excluded.started_us < sessions.started_us THEN excluded.started_us ELSE sessions.started_us END,
    used_us = CASE WHEN excluded.used_us > sessions.used_us THEN excluded.used_us ELSE sessions.used_us END,
    ended_us = CASE WHEN excluded.ended_us > sessions.ended_us THEN excluded.ended_us ELSE sessions.ended_us END;

-- name: use_sessions!
-- started_us and used_us enclose every event of the session, so that its events are found by time. For a session
-- that the application names, used_us is set :margin_us beyond its last event, so that few events change the row.
INSERT INTO sessions (product_id, user_id, session_id, implicit, started_us, used_us)
SELECT :product_id, k.user_id, k.session_id, 0, k.started_us, k.used_us
FROM rows(user_id TEXT, session_id TEXT, started_us BIGINT, used_us BIGINT) AS k
WHERE true
ON CONFLICT (product_id, user_id, session_id) DO UPDATE SET
    started_us = CASE WHEN excluded.started_us < sessions.started_us THEN excluded.started_us ELSE sessions.started_us END,
    used_us = CASE
        WHEN excluded.used_us <= sessions.used_us THEN sessions.used_us
        WHEN sessions.implicit = 1 THEN excluded.used_us
        ELSE excluded.used_us + :margin_us END
WHERE excluded.used_us > sessions.used_us OR excluded.started_us < sessions.started_us;

-- name: claim_ids
-- Returns the ids that were not claimed before.
INSERT INTO event_ids (product_id, event_id, user_id, at_us, booked_user_id)
SELECT :product_id, k.event_id, k.user_id, k.at_us, k.booked_user_id
FROM rows(event_id TEXT, user_id TEXT, at_us BIGINT, booked_user_id TEXT) AS k
WHERE true -- or SQLite would read ON CONFLICT as a part of a join
ON CONFLICT (product_id, event_id, user_id) DO NOTHING
RETURNING user_id, event_id;

-- name: locate_events
-- Where events are, by id alone: one id may have been sent for several users.
SELECT i.event_id, COALESCE(i.booked_user_id, i.user_id) AS user_id, i.at_us
FROM rows(event_id TEXT) AS k
CROSS JOIN event_ids AS i
WHERE i.product_id = :product_id AND i.event_id = k.event_id
ORDER BY i.event_id, i.user_id;

-- name: events_at
-- All columns: they are read by name (`rows.event_of`).
SELECT e.*
FROM rows(user_id TEXT, at_us BIGINT, event_id TEXT) AS k
CROSS JOIN events AS e
WHERE e.product_id = :product_id AND e.user_id = k.user_id AND e.at_us = k.at_us AND e.event_id = k.event_id;

-- name: corrections_of
SELECT c.corrects, c.event_id, c.user_id, c.at_us, c.quality, c.restates, c.waiting
FROM rows(event_id TEXT) AS k
CROSS JOIN corrections AS c /*sqlite INDEXED BY corrections_by_original */
WHERE c.product_id = :product_id AND c.corrects = k.event_id
ORDER BY c.corrects, c.event_id;

-- name: add_corrections!
INSERT INTO corrections (product_id, user_id, event_id, corrects, at_us, quality, restates, waiting)
SELECT :product_id, k.user_id, k.event_id, k.corrects, k.at_us, k.quality, k.restates, k.waiting
FROM rows(
    user_id TEXT, event_id TEXT, corrects TEXT, at_us BIGINT, quality TEXT, restates INTEGER, waiting INTEGER
) AS k
WHERE true;

-- name: end_waiting!
UPDATE corrections SET waiting = 0
FROM rows(user_id TEXT, event_id TEXT) AS k
WHERE true AND corrections.product_id = :product_id AND corrections.user_id = k.user_id
  AND corrections.corrects = k.event_id AND corrections.waiting = 1;

-- name: accounts_between
-- The accounts that count something of a user and session in a span of time.
SELECT
    a.user_id, a.session_id, a.end_us, a.start_us, a.metric, a.scope, a.model, a.window_rule, a.spent, a.shadow
FROM rows(user_id TEXT, session_id TEXT, from_us BIGINT, to_us BIGINT) AS k
CROSS JOIN accounts AS a
WHERE a.product_id = :product_id AND a.user_id = k.user_id AND a.session_id = k.session_id
  AND a.end_us > k.from_us AND a.start_us <= k.to_us;

-- name: book_accounts!
-- Adds to accounts, and opens those that are new with what their window has seen. A settlement is always booked: caps
-- are not checked here.
INSERT INTO accounts (
    product_id, user_id, session_id, end_us, start_us, metric, scope, model, window_rule, spent, shadow
)
SELECT
    :product_id, k.user_id, k.session_id, k.end_us, k.start_us, k.metric, k.scope, k.model, k.window_rule, k.spent,
    k.shadow
FROM rows(
    user_id TEXT, session_id TEXT, end_us BIGINT, start_us BIGINT, metric TEXT, scope TEXT, model TEXT,
    window_rule TEXT, spent BIGINT, shadow BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, user_id, session_id, end_us, start_us, metric, scope, model, window_rule) DO UPDATE SET
    spent = accounts.spent + excluded.spent,
    shadow = accounts.shadow + excluded.shadow;

-- name: roll_up_users!
INSERT INTO rollup_user (
    product_id, span, user_id, period_start_us, model, provider, plan, calls, input_tokens, output_tokens,
    cached_input_tokens, cost_nano, partial_calls, estimated_calls, unpriced_calls, shadow_calls, shadow_cost_nano
)
SELECT
    :product_id, k.span, k.user_id, k.period_start_us, k.model, k.provider, k.plan, k.calls, k.input_tokens,
    k.output_tokens, k.cached_input_tokens, k.cost_nano, k.partial_calls, k.estimated_calls, k.unpriced_calls,
    k.shadow_calls, k.shadow_cost_nano
FROM rows(
    span TEXT, user_id TEXT, period_start_us BIGINT, model TEXT, provider TEXT, plan TEXT, calls BIGINT,
    input_tokens BIGINT, output_tokens BIGINT, cached_input_tokens BIGINT, cost_nano BIGINT, partial_calls BIGINT,
    estimated_calls BIGINT, unpriced_calls BIGINT, shadow_calls BIGINT, shadow_cost_nano BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, span, user_id, period_start_us, model, provider, plan) DO UPDATE SET
    calls = rollup_user.calls + excluded.calls,
    input_tokens = rollup_user.input_tokens + excluded.input_tokens,
    output_tokens = rollup_user.output_tokens + excluded.output_tokens,
    cached_input_tokens = rollup_user.cached_input_tokens + excluded.cached_input_tokens,
    cost_nano = rollup_user.cost_nano + excluded.cost_nano,
    partial_calls = rollup_user.partial_calls + excluded.partial_calls,
    estimated_calls = rollup_user.estimated_calls + excluded.estimated_calls,
    unpriced_calls = rollup_user.unpriced_calls + excluded.unpriced_calls,
    shadow_calls = rollup_user.shadow_calls + excluded.shadow_calls,
    shadow_cost_nano = rollup_user.shadow_cost_nano + excluded.shadow_cost_nano;

-- name: roll_up_products!
INSERT INTO rollup_product (
    product_id, span, model, provider, plan, slot, calls, input_tokens, output_tokens, cached_input_tokens, cost_nano,
    partial_calls, estimated_calls, unpriced_calls, shadow_calls, shadow_cost_nano
)
SELECT
    :product_id, k.span, k.model, k.provider, k.plan, :slot, k.calls, k.input_tokens, k.output_tokens,
    k.cached_input_tokens, k.cost_nano, k.partial_calls, k.estimated_calls, k.unpriced_calls, k.shadow_calls,
    k.shadow_cost_nano
FROM rows(
    span TEXT, model TEXT, provider TEXT, plan TEXT, calls BIGINT, input_tokens BIGINT, output_tokens BIGINT,
    cached_input_tokens BIGINT, cost_nano BIGINT, partial_calls BIGINT, estimated_calls BIGINT, unpriced_calls BIGINT,
    shadow_calls BIGINT, shadow_cost_nano BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, span, model, provider, plan, slot) DO UPDATE SET
    calls = rollup_product.calls + excluded.calls,
    input_tokens = rollup_product.input_tokens + excluded.input_tokens,
    output_tokens = rollup_product.output_tokens + excluded.output_tokens,
    cached_input_tokens = rollup_product.cached_input_tokens + excluded.cached_input_tokens,
    cost_nano = rollup_product.cost_nano + excluded.cost_nano,
    partial_calls = rollup_product.partial_calls + excluded.partial_calls,
    estimated_calls = rollup_product.estimated_calls + excluded.estimated_calls,
    unpriced_calls = rollup_product.unpriced_calls + excluded.unpriced_calls,
    shadow_calls = rollup_product.shadow_calls + excluded.shadow_calls,
    shadow_cost_nano = rollup_product.shadow_cost_nano + excluded.shadow_cost_nano;

-- name: add_gate_events
-- Returns the events that are new.
INSERT INTO gate_events (
    product_id, user_id, gate_event_id, session_id, at_us, status, gate_reason, model, blocked, usage_ppm,
    current_value, limit_value, message, metadata, calls
)
SELECT
    :product_id, k.user_id, k.gate_event_id, k.session_id, k.at_us, k.status, k.gate_reason, k.model, k.blocked,
    k.usage_ppm, k.current_value, k.limit_value, k.message, k.metadata, k.calls
FROM rows(
    user_id TEXT, gate_event_id TEXT, session_id TEXT, at_us BIGINT, status TEXT, gate_reason TEXT, model TEXT,
    blocked INTEGER, usage_ppm BIGINT, current_value TEXT, limit_value TEXT, message TEXT, metadata TEXT, calls BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, user_id, gate_event_id) DO NOTHING
RETURNING user_id, gate_event_id;

-- name: roll_up_gates!
INSERT INTO rollup_gate (
    product_id, day, user_id, gate_reason, soft, hard, refused_calls, shadow_calls, shadow_cost_nano
)
SELECT
    :product_id, k.day, k.user_id, k.gate_reason, k.soft, k.hard, k.refused_calls, k.shadow_calls, k.shadow_cost_nano
FROM rows(
    day TEXT, user_id TEXT, gate_reason TEXT, soft BIGINT, hard BIGINT, refused_calls BIGINT, shadow_calls BIGINT,
    shadow_cost_nano BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, day, user_id, gate_reason) DO UPDATE SET
    soft = rollup_gate.soft + excluded.soft,
    hard = rollup_gate.hard + excluded.hard,
    refused_calls = rollup_gate.refused_calls + excluded.refused_calls,
    shadow_calls = rollup_gate.shadow_calls + excluded.shadow_calls,
    shadow_cost_nano = rollup_gate.shadow_cost_nano + excluded.shadow_cost_nano;

-- name: put_unmetered_calls!
-- A late or repeated record has no greater number.
INSERT INTO unmetered_calls (product_id, day, model, operation, process, since_us, calls)
SELECT :product_id, k.day, k.model, k.operation, k.process, k.since_us, k.calls
FROM rows(day TEXT, model TEXT, operation TEXT, process TEXT, since_us BIGINT, calls BIGINT) AS k
WHERE true
ON CONFLICT (product_id, day, model, operation, process, since_us) DO UPDATE SET calls = excluded.calls
WHERE excluded.calls > unmetered_calls.calls;

-- name: roll_up_tags!
INSERT INTO rollup_tag (
    product_id, span, tag_key, tag_value, slot, calls, input_tokens, output_tokens, cached_input_tokens, cost_nano,
    partial_calls, estimated_calls, unpriced_calls, shadow_calls, shadow_cost_nano
)
SELECT
    :product_id, k.span, k.tag_key, k.tag_value, :slot, k.calls, k.input_tokens, k.output_tokens,
    k.cached_input_tokens, k.cost_nano, k.partial_calls, k.estimated_calls, k.unpriced_calls, k.shadow_calls,
    k.shadow_cost_nano
FROM rows(
    span TEXT, tag_key TEXT, tag_value TEXT, calls BIGINT, input_tokens BIGINT, output_tokens BIGINT,
    cached_input_tokens BIGINT, cost_nano BIGINT, partial_calls BIGINT, estimated_calls BIGINT, unpriced_calls BIGINT,
    shadow_calls BIGINT, shadow_cost_nano BIGINT
) AS k
WHERE true
ON CONFLICT (product_id, span, tag_key, tag_value, slot) DO UPDATE SET
    calls = rollup_tag.calls + excluded.calls,
    input_tokens = rollup_tag.input_tokens + excluded.input_tokens,
    output_tokens = rollup_tag.output_tokens + excluded.output_tokens,
    cached_input_tokens = rollup_tag.cached_input_tokens + excluded.cached_input_tokens,
    cost_nano = rollup_tag.cost_nano + excluded.cost_nano,
    partial_calls = rollup_tag.partial_calls + excluded.partial_calls,
    estimated_calls = rollup_tag.estimated_calls + excluded.estimated_calls,
    unpriced_calls = rollup_tag.unpriced_calls + excluded.unpriced_calls,
    shadow_calls = rollup_tag.shadow_calls + excluded.shadow_calls,
    shadow_cost_nano = rollup_tag.shadow_cost_nano + excluded.shadow_cost_nano;
