-- Reports: usage and cost by any keys, and single events.

-- name: spans_with_usage
-- The days and months of the rollup, from a first to a last one: hops from each to the next in the index.
WITH RECURSIVE found (span) AS (
    SELECT MIN(r.span) FROM rollup_user AS r WHERE r.product_id = :product_id AND r.span >= :first
    UNION ALL
    SELECT (SELECT MIN(r.span) FROM rollup_user AS r WHERE r.product_id = :product_id AND r.span > f.span)
    FROM found AS f WHERE f.span <= :last
)
SELECT f.span FROM found AS f WHERE f.span <= :last;

-- name: spans_of_usage^
-- The first and the last row by time: a month sorts before its days.
SELECT
    (SELECT MIN(r.span) FROM rollup_user AS r WHERE r.product_id = :product_id AND r.span > '') AS first,
    (SELECT MAX(s.span) FROM rollup_user AS s WHERE s.product_id = :product_id AND s.span > '') AS last;

-- name: dearest_users
SELECT r.user_id, CAST(SUM(r.calls) AS BIGINT) AS calls, CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano
FROM rows(span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span
GROUP BY r.user_id
ORDER BY cost_nano DESC, r.user_id
LIMIT :users_max;

-- name: usage_of_user
-- One user's usage by day, model and plan; each day is looked up.
SELECT
    r.span AS day, r.model, r.plan, CAST(SUM(r.calls) AS BIGINT) AS calls,
    CAST(SUM(r.input_tokens) AS BIGINT) AS input_tokens, CAST(SUM(r.output_tokens) AS BIGINT) AS output_tokens,
    CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano
FROM rows(span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.user_id = :user_id
GROUP BY r.span, r.model, r.plan
ORDER BY r.span, r.model, r.plan;

-- name: spend
-- Usage and cost by up to two keys, from the rollup of the product or that of its users: a page in the order of rank
-- and keys. What the keys and the rank are is passed by name, see `core/report.py`. NULL is no filter.
WITH f AS (
SELECT
    r.day AS span, '' AS user_id, 0 AS period_start_us, r.model, r.provider, r.plan,
    r.calls, r.input_tokens, r.output_tokens, r.cached_input_tokens, r.cost_nano, r.partial_calls, r.estimated_calls,
    r.unpriced_calls, r.shadow_calls, r.shadow_cost_nano
FROM rows(source TEXT, span TEXT) AS k
CROSS JOIN rollup_product AS r
WHERE k.source = 'product' AND r.product_id = :product_id AND r.day = k.span
UNION ALL
SELECT
    r.span, r.user_id, r.period_start_us, r.model, r.provider, r.plan,
    r.calls, r.input_tokens, r.output_tokens, r.cached_input_tokens, r.cost_nano, r.partial_calls, r.estimated_calls,
    r.unpriced_calls, r.shadow_calls, r.shadow_cost_nano
FROM rows(source TEXT, span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE k.source = 'user' AND r.product_id = :product_id AND r.span = k.span
  AND r.user_id >= :first_user AND r.user_id <= :last_user
),
g AS (
SELECT
    CASE CAST(:first AS TEXT)
        WHEN 'user' THEN f.user_id WHEN 'model' THEN f.model WHEN 'provider' THEN f.provider WHEN 'plan' THEN f.plan
        WHEN 'day' THEN f.span WHEN 'month' THEN substr(f.span, 1, 7)
        WHEN 'period' THEN CAST(f.period_start_us AS TEXT) ELSE '' END AS first_key,
    CASE CAST(:second AS TEXT)
        WHEN 'user' THEN f.user_id WHEN 'model' THEN f.model WHEN 'provider' THEN f.provider WHEN 'plan' THEN f.plan
        WHEN 'day' THEN f.span WHEN 'month' THEN substr(f.span, 1, 7)
        WHEN 'period' THEN CAST(f.period_start_us AS TEXT) ELSE '' END AS second_key,
    CAST(SUM(f.calls) AS BIGINT) AS calls,
    CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
    CAST(SUM(f.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
    CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano,
    CAST(SUM(f.partial_calls) AS BIGINT) AS partial_calls,
    CAST(SUM(f.estimated_calls) AS BIGINT) AS estimated_calls,
    CAST(SUM(f.unpriced_calls) AS BIGINT) AS unpriced_calls,
    CAST(SUM(f.shadow_calls) AS BIGINT) AS shadow_calls,
    CAST(SUM(f.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
FROM f
WHERE (CAST(:model AS TEXT) IS NULL OR f.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR f.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR f.plan = :plan)
  AND (CAST(:period_start_us AS BIGINT) IS NULL OR f.period_start_us = :period_start_us)
GROUP BY 1, 2
),
ranked AS (
SELECT
    g.*, :direction * CASE CAST(:sort AS TEXT)
        WHEN 'cost' THEN g.cost_nano WHEN 'calls' THEN g.calls WHEN 'input_tokens' THEN g.input_tokens
        WHEN 'output_tokens' THEN g.output_tokens WHEN 'cached_input_tokens' THEN g.cached_input_tokens
        WHEN 'first' THEN CAST(replace(g.first_key, '-', '') AS BIGINT)
        WHEN 'second' THEN CAST(replace(g.second_key, '-', '') AS BIGINT) ELSE 0 END AS rank
FROM g
)
SELECT * FROM ranked AS p
WHERE (p.rank, p.first_key, p.second_key) > (:after_rank, :after_first, :after_second)
ORDER BY p.rank, p.first_key, p.second_key
LIMIT :rows_max;

-- name: usage_of_day
-- A day by user, model and provider, for exports that read one day after another.
SELECT
    r.user_id, r.model, r.provider,
    CAST(SUM(r.calls) AS BIGINT) AS calls,
    CAST(SUM(r.input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(r.output_tokens) AS BIGINT) AS output_tokens,
    CAST(SUM(r.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
    CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano,
    CAST(SUM(r.partial_calls) AS BIGINT) AS partial_calls,
    CAST(SUM(r.estimated_calls) AS BIGINT) AS estimated_calls,
    CAST(SUM(r.unpriced_calls) AS BIGINT) AS unpriced_calls,
    CAST(SUM(r.shadow_calls) AS BIGINT) AS shadow_calls,
    CAST(SUM(r.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
FROM rollup_user AS r
WHERE r.product_id = :product_id AND r.span = :day AND r.user_id >= :first_user AND r.user_id <= :last_user
  AND (CAST(:model AS TEXT) IS NULL OR r.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR r.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR r.plan = :plan)
GROUP BY r.user_id, r.model, r.provider
ORDER BY r.user_id, r.model, r.provider;

-- name: facts_of_days
-- What single events add, of days and between two moments: for what the rollups do not hold. A correction has the tags
-- of its original.
SELECT
    f.*, CASE WHEN f.corrects IS NULL THEN f.metadata ELSE COALESCE((
        SELECT COALESCE(o.metadata, 'null') FROM events AS o
        WHERE o.product_id = :product_id AND o.user_id = f.user_id AND o.at_us = f.at_us AND o.event_id = f.corrects
    ), f.metadata) END AS tags
FROM rows(day TEXT, start_us BIGINT, end_us BIGINT) AS k
CROSS JOIN event_figures AS f
WHERE f.product_id = :product_id AND f.day = k.day /*postgres AND f.day > '' */ AND f.at_us >= k.start_us AND f.at_us < k.end_us
LIMIT :events_max;

-- name: facts_of_user
SELECT
    f.*, CASE WHEN f.corrects IS NULL THEN f.metadata ELSE COALESCE((
        SELECT COALESCE(o.metadata, 'null') FROM events AS o
        WHERE o.product_id = :product_id AND o.user_id = f.user_id AND o.at_us = f.at_us AND o.event_id = f.corrects
    ), f.metadata) END AS tags
FROM rows(user_id TEXT, start_us BIGINT, end_us BIGINT) AS k
CROSS JOIN event_figures AS f
WHERE f.product_id = :product_id AND f.user_id = k.user_id AND f.at_us >= k.start_us AND f.at_us < k.end_us
LIMIT :events_max;

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
SELECT r.plan, COUNT(DISTINCT r.user_id) AS users
FROM rows(span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.user_id <> :besides
GROUP BY r.plan;

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
