-- Reports: usage by user, model and tag, and single events.

-- name: usage_by_user_and_model
SELECT
    user_id, model, CAST(SUM(calls) AS BIGINT) AS calls, CAST(SUM(input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(cost_nano) AS BIGINT) AS cost_nano,
    CAST(SUM(doubtful_calls) AS BIGINT) AS doubtful_calls, CAST(SUM(shadow_calls) AS BIGINT) AS shadow_calls,
    CAST(SUM(shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
FROM rollup_day
WHERE product_id = :product_id AND day >= :first_day AND day <= :last_day
GROUP BY user_id, model
ORDER BY user_id, model;

-- name: dearest_users
SELECT
    user_id, '' AS model, CAST(SUM(calls) AS BIGINT) AS calls, CAST(SUM(input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(cost_nano) AS BIGINT) AS cost_nano,
    CAST(SUM(doubtful_calls) AS BIGINT) AS doubtful_calls, CAST(SUM(shadow_calls) AS BIGINT) AS shadow_calls,
    CAST(SUM(shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
FROM rollup_day
WHERE product_id = :product_id AND day >= :first_day AND day <= :last_day
GROUP BY user_id
ORDER BY cost_nano DESC, user_id
LIMIT :users_max;

-- name: usage_of_user
-- One user's usage by day, model and plan; each day is looked up.
SELECT
    r.day, r.model, r.plan, CAST(SUM(r.calls) AS BIGINT) AS calls, CAST(SUM(r.input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(r.output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano
FROM rows(day TEXT) AS k
CROSS JOIN rollup_day AS r
WHERE r.product_id = :product_id AND r.day = k.day AND r.user_id = :user_id
GROUP BY r.day, r.model, r.plan
ORDER BY r.day, r.model, r.plan;

-- name: usage_of_sessions
-- One user's usage by session, read from the events.
SELECT
    e.session_id, COUNT(*) - COUNT(e.corrects) AS calls, CAST(SUM(e.input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(e.output_tokens) AS BIGINT) AS output_tokens,
    CAST(SUM(e.cost_tokens_nano + e.cost_tools_nano) AS BIGINT) AS cost_nano, MAX(e.at_us) AS last_us
FROM events AS e
WHERE e.product_id = :product_id AND e.user_id = :user_id AND e.at_us >= :start_us AND e.at_us < :end_us
GROUP BY e.session_id
ORDER BY last_us DESC, e.session_id
LIMIT :sessions_max;

-- name: users_page
-- One page of a product's users, in the order of their ids.
SELECT user_id FROM users
WHERE product_id = :product_id AND user_id > :after
ORDER BY user_id
LIMIT :users_max;

-- name: users_of_plans
SELECT COALESCE(plan, '') AS plan, COUNT(*) AS users
FROM users
WHERE product_id = :product_id AND user_id <> :besides
GROUP BY plan;

-- name: active_users_of_plans
SELECT plan, COUNT(DISTINCT user_id) AS users
FROM rollup_day
WHERE product_id = :product_id AND day >= :first_day AND day <= :last_day AND user_id <> :besides
GROUP BY plan;

-- name: last_calls
-- When the last call of each user began; 0 for users without calls.
SELECT k.user_id, COALESCE((
    SELECT e.at_us FROM events AS e
    WHERE e.product_id = :product_id AND e.user_id = k.user_id
    ORDER BY e.at_us DESC LIMIT 1
), 0) AS last_us
FROM rows(user_id TEXT) AS k;

-- name: events_of_user
-- All columns: they are read by name (`rows.event_of`).
SELECT * FROM events
WHERE product_id = :product_id AND user_id = :user_id
ORDER BY at_us, event_id;

-- name: price_list^
SELECT document FROM price_lists WHERE product_id = :product_id AND price_id = :price_id;

-- name: tagged_usage
-- Usage by user, model and metadata, read from every event of these days, because the rollups do not know tags. A
-- correction counts under the metadata of its original.
SELECT
    e.user_id, e.model_key AS model, COALESCE(o.metadata, CASE WHEN o.event_id IS NULL THEN e.metadata END) AS metadata,
    COUNT(*) - COUNT(e.corrects) AS calls, CAST(SUM(e.input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(e.output_tokens) AS BIGINT) AS output_tokens,
    CAST(SUM(e.cost_tokens_nano + e.cost_tools_nano) AS BIGINT) AS cost_nano,
    CAST(SUM(CASE
        WHEN e.corrects IS NULL AND e.quality <> 'exact' AND NOT EXISTS (
            SELECT 1 FROM corrections AS c /*sqlite INDEXED BY corrections_by_original */
            WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.user_id = e.user_id
                AND c.quality = 'exact'
        ) THEN 1
        ELSE 0 END) AS BIGINT) AS doubtful_calls,
    CAST(SUM(CASE WHEN e.blocked = 1 AND e.corrects IS NULL THEN 1 ELSE 0 END) AS BIGINT) AS shadow_calls,
    CAST(SUM(CASE WHEN e.blocked = 1 THEN e.cost_tokens_nano + e.cost_tools_nano ELSE 0 END) AS BIGINT)
        AS shadow_cost_nano
FROM events AS e /*sqlite INDEXED BY events_by_day */
LEFT JOIN events AS o
    ON o.product_id = e.product_id AND o.user_id = e.user_id AND o.at_us = e.at_us AND o.event_id = e.corrects
WHERE e.product_id = :product_id AND e.day >= :first_day AND e.day <= :last_day /*postgres AND e.day > '' */
GROUP BY e.user_id, e.model_key, 3
ORDER BY e.user_id, e.model_key, 3;
