-- Statements in the dialect that SQLite and PostgreSQL share. Statements that differ between engines, bulk input
-- above all, are in the file named after the engine.

-- name: latest_plans
-- The newest version of every plan; a product has few.
SELECT p.name, p.version, p.document
FROM plans AS p
WHERE p.product_id = :product_id
  AND p.version = (
      SELECT MAX(q.version) FROM plans AS q WHERE q.product_id = p.product_id AND q.name = p.name
  );

-- name: add_plan!
-- Adds a version, unless the newest one has the same document (applications configure at every start) or is
-- younger (a dead process's journal arrives late).
INSERT INTO plans (product_id, name, version, document, created_us)
SELECT :product_id, :name, COALESCE(newest.version, 0) + 1, :document, :at_us
FROM (
    SELECT MAX(version) AS version, MAX(created_us) AS created_us
    FROM plans
    WHERE product_id = :product_id AND name = :name
) AS newest
WHERE COALESCE(newest.created_us, 0) <= :at_us
  AND COALESCE((
      SELECT p.document FROM plans AS p
      WHERE p.product_id = :product_id AND p.name = :name AND p.version = newest.version
  ), '') <> :document;

-- name: assign_plan!
-- Last writer wins by time, but an assignment with keeps = 1 applies only to a user without one.
INSERT INTO users (
    product_id, user_id, plan, own, period_start_us, period_end_us, renews, created_us, assigned_us
)
VALUES (
    :product_id, :user_id, :plan, :own, :period_start_us, :period_end_us, :renews, :at_us, :at_us
)
ON CONFLICT (product_id, user_id) DO UPDATE SET
    plan = excluded.plan,
    own = excluded.own,
    period_start_us = excluded.period_start_us,
    period_end_us = excluded.period_end_us,
    renews = excluded.renews,
    assigned_us = excluded.assigned_us
WHERE users.plan IS NULL
   OR (:keeps = 0 AND COALESCE(users.assigned_us, 0) <= excluded.assigned_us);

-- name: put_session!
INSERT INTO sessions (product_id, user_id, session_id, implicit, started_us, used_us, ended_us)
VALUES (:product_id, :user_id, :session_id, :implicit, :started_us, :used_us, :ended_us)
ON CONFLICT (product_id, user_id, session_id) DO UPDATE SET
    implicit = excluded.implicit,
    used_us = CASE WHEN excluded.used_us > sessions.used_us THEN excluded.used_us ELSE sessions.used_us END,
    ended_us = CASE WHEN excluded.ended_us > sessions.ended_us THEN excluded.ended_us ELSE sessions.ended_us END;

-- name: sum_of_window^
-- The fold of the events that an account counts: for accounts that are not kept yet, and for rolling windows,
-- which never are.
SELECT
    COALESCE(SUM(cost_tokens_nano + cost_tools_nano), 0) AS cost_nano,
    COALESCE(SUM(input_tokens + output_tokens), 0) AS tokens,
    COUNT(*) - COUNT(corrects) AS calls,
    COALESCE(SUM(CASE WHEN blocked = 1 THEN cost_tokens_nano + cost_tools_nano ELSE 0 END), 0) AS shadow_cost_nano,
    COALESCE(SUM(CASE WHEN blocked = 1 THEN input_tokens + output_tokens ELSE 0 END), 0) AS shadow_tokens,
    COALESCE(SUM(CASE WHEN blocked = 1 AND corrects IS NULL THEN 1 ELSE 0 END), 0) AS shadow_calls
FROM events
WHERE product_id = :product_id
  AND user_id = :user_id
  AND at_us >= :start_us
  AND at_us < :end_us
  AND (:session_id = '' OR session_id = :session_id)
  AND (:model = '' OR model_key = :model OR model = :model);

-- name: usage_by_user_and_model
SELECT
    user_id, model, SUM(calls) AS calls, SUM(input_tokens) AS input_tokens,
    SUM(output_tokens) AS output_tokens, SUM(cost_nano) AS cost_nano, SUM(doubtful_calls) AS doubtful_calls,
    SUM(shadow_calls) AS shadow_calls, SUM(shadow_cost_nano) AS shadow_cost_nano
FROM rollup_day
WHERE product_id = :product_id AND day >= :first_day AND day <= :last_day
GROUP BY user_id, model
ORDER BY user_id, model;

-- name: dearest_users
SELECT
    user_id, '' AS model, SUM(calls) AS calls, SUM(input_tokens) AS input_tokens,
    SUM(output_tokens) AS output_tokens, SUM(cost_nano) AS cost_nano, SUM(doubtful_calls) AS doubtful_calls,
    SUM(shadow_calls) AS shadow_calls, SUM(shadow_cost_nano) AS shadow_cost_nano
FROM rollup_day
WHERE product_id = :product_id AND day >= :first_day AND day <= :last_day
GROUP BY user_id
ORDER BY cost_nano DESC, user_id
LIMIT :users_max;

-- name: users_page
-- One page of a product's users, in the order of their ids.
SELECT user_id, plan FROM users
WHERE product_id = :product_id AND user_id > :after
ORDER BY user_id
LIMIT :users_max;

-- name: active_users_of_plans
SELECT plan, COUNT(DISTINCT user_id) AS users
FROM rollup_day
WHERE product_id = :product_id AND day >= :first_day AND day <= :last_day AND user_id <> :besides
GROUP BY plan;

-- name: events_of_user
-- All columns: they are read by name (`rows.event_of`).
SELECT * FROM events
WHERE product_id = :product_id AND user_id = :user_id
ORDER BY at_us, event_id;

-- name: event_and_corrections
-- The event itself comes first, if it is stored, then its corrections. Two branches, because an OR over two indexes
-- reads the whole product.
SELECT * FROM (
    SELECT o.*, 0 AS place FROM events AS o
    WHERE o.product_id = :product_id AND o.event_id = :event_id
    UNION ALL
    SELECT c.*, 1 AS place FROM events AS c
    WHERE c.product_id = :product_id AND c.corrects = :event_id AND c.event_id <> :event_id
) AS found
ORDER BY place, event_id;

-- name: insert_events*!
INSERT INTO events (
    product_id, event_id, user_id, session_id, at_us, day, model, model_key, provider, plan, period_start_us,
    input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost_tokens_nano,
    cost_tools_nano, quality, source, price_id, latency_ms, blocked, cost_explicit, tool_calls, description,
    metadata, details, corrects, restates
)
VALUES (
    :product_id, :event_id, :user_id, :session_id, :at_us, :day, :model, :model_key, :provider, :plan,
    :period_start_us, :input_tokens, :output_tokens, :cached_input_tokens, :cache_write_tokens,
    :reasoning_tokens, :cost_tokens_nano, :cost_tools_nano, :quality, :source, :price_id, :latency_ms,
    :blocked, :cost_explicit, :tool_calls, :description, :metadata, :details, :corrects, :restates
);

-- name: adopt_originals!
-- A correction is booked where its original is, whatever its own fields are; runs before it is counted. Without a
-- stored original its own fields apply. A metered correction (a provider's job) keeps its model if it has one, because
-- the model of a batch is known only when the batch has ended; a job that failed names none.
UPDATE events AS c
SET user_id = o.user_id, session_id = o.session_id, at_us = o.at_us, day = o.day, plan = o.plan,
    period_start_us = o.period_start_us, blocked = o.blocked,
    model = CASE WHEN c.source = 'manual' OR c.model_key = '' THEN o.model ELSE c.model END,
    model_key = CASE WHEN c.source = 'manual' OR c.model_key = '' THEN o.model_key ELSE c.model_key END,
    provider = CASE WHEN c.source = 'manual' OR c.model_key = '' THEN o.provider ELSE c.provider END
FROM events AS o
WHERE c.product_id = :product_id
  AND c.event_id = :event_id
  AND o.product_id = c.product_id
  AND o.event_id = c.corrects;

-- name: take_differences!
-- A correction that restates its original carries the figures of the whole: those of the original are subtracted;
-- runs before it is counted.
UPDATE events AS c
SET input_tokens = c.input_tokens - o.input_tokens, output_tokens = c.output_tokens - o.output_tokens,
    cached_input_tokens = c.cached_input_tokens - o.cached_input_tokens,
    cache_write_tokens = c.cache_write_tokens - o.cache_write_tokens,
    reasoning_tokens = c.reasoning_tokens - o.reasoning_tokens,
    cost_tokens_nano = c.cost_tokens_nano - o.cost_tokens_nano
FROM events AS o
WHERE c.product_id = :product_id
  AND c.event_id = :event_id
  AND o.product_id = c.product_id
  AND o.event_id = c.corrects;

-- name: price_list^
SELECT document FROM price_lists WHERE product_id = :product_id AND price_id = :price_id;

-- name: add_price_list!
-- The first document stays: a price id names one list for ever.
INSERT INTO price_lists (product_id, price_id, document, first_us)
VALUES (:product_id, :price_id, :document, :at_us)
ON CONFLICT (product_id, price_id) DO NOTHING;

-- name: put_default_plan!
-- Last writer wins by time.
INSERT INTO products (product_id, default_plan, changed_us)
VALUES (:product_id, :default_plan, :at_us)
ON CONFLICT (product_id) DO UPDATE SET
    default_plan = excluded.default_plan,
    changed_us = excluded.changed_us
WHERE products.changed_us <= excluded.changed_us;

-- name: default_plan^
SELECT default_plan FROM products WHERE product_id = :product_id;
