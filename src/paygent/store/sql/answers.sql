-- What a question about users is answered from.

-- name: latest_plans
-- The newest version of every plan; a product has few.
SELECT p.name, p.version, p.plan_id, p.document, p.created_us
FROM plans AS p
WHERE p.product_id = :product_id AND p.deleted_us IS NULL
  AND p.version = (
      SELECT MAX(q.version) FROM plans AS q WHERE q.product_id = p.product_id AND q.name = p.name
  )
ORDER BY p.name;

-- name: product_asked_for^
SELECT default_plan, timezone FROM products WHERE product_id = :product_id;

-- name: users_asked_for
SELECT
    u.user_id, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled, u.paused,
    u.paused_reason, u.assigned_us
FROM rows(user_id TEXT) AS k
CROSS JOIN users AS u
WHERE u.product_id = :product_id AND u.user_id = k.user_id;

-- name: overrides_of_users
SELECT o.user_id, o.metric, o.scope, o.model, o.window_rule, o.cap, o.added, o.until_us
FROM rows(user_id TEXT) AS k
CROSS JOIN overrides AS o
WHERE o.product_id = :product_id AND o.user_id = k.user_id AND o.until_us > :at_us
ORDER BY o.user_id, o.created_us, o.override_id;

-- name: changed_users
-- Users with a plan, override or switch that has changed since a time, the earliest first.
SELECT user_id, changed_us FROM users
WHERE product_id = :product_id AND changed_us > :since_us AND changed_us > 0
ORDER BY changed_us
LIMIT :users_max;

-- name: booked_through^
SELECT booked_through FROM holders WHERE product_id = :product_id AND holder = :holder;

-- name: open_sessions
-- The open implicit session of each user: of those not closed, the one that started last.
SELECT s.user_id, s.session_id, s.started_us, s.used_us
FROM rows(user_id TEXT) AS k
CROSS JOIN sessions AS s
WHERE s.product_id = :product_id AND s.user_id = k.user_id AND s.session_id = (
    SELECT t.session_id FROM sessions AS t
    WHERE t.product_id = :product_id AND t.user_id = k.user_id AND t.implicit = 1 AND t.ended_us = 0
    ORDER BY t.started_us DESC, t.session_id DESC LIMIT 1
);

-- name: session_spans
-- When the events of sessions are; a session without a row has none.
SELECT s.user_id, s.session_id, s.started_us, s.used_us
FROM rows(user_id TEXT, session_id TEXT) AS k
CROSS JOIN sessions AS s
WHERE s.product_id = :product_id AND s.user_id = k.user_id AND s.session_id = k.session_id;

-- name: models_of_periods
SELECT
    r.user_id, r.model, CAST(SUM(r.input_tokens + r.output_tokens) AS BIGINT) AS tokens,
    CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano
FROM rows(user_id TEXT, period_start_us BIGINT, span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.user_id = k.user_id
  AND r.period_start_us = k.period_start_us
GROUP BY r.user_id, r.period_start_us, r.model;

-- name: kept_accounts
SELECT
    a.user_id, a.session_id, a.end_us, a.start_us, a.metric, a.scope, a.model, a.window_rule, a.spent, a.shadow
FROM rows(
    user_id TEXT, session_id TEXT, end_us BIGINT, start_us BIGINT, metric TEXT, scope TEXT, model TEXT,
    window_rule TEXT
) AS k
CROSS JOIN accounts AS a
WHERE a.product_id = :product_id AND a.user_id = k.user_id AND a.session_id = k.session_id AND a.end_us = k.end_us
  AND a.start_us = k.start_us AND a.metric = k.metric AND a.scope = k.scope AND a.model = k.model
  AND a.window_rule = k.window_rule;

-- name: sums_of_windows
-- The folds of the events that accounts count: for those that are not kept yet, and for rolling windows, which never
-- are. A window without events has no row.
SELECT
    k.number,
    CAST(SUM(e.cost_tokens_nano + e.cost_tools_nano) AS BIGINT) AS cost_nano,
    CAST(SUM(e.input_tokens + e.output_tokens) AS BIGINT) AS tokens,
    COUNT(*) - COUNT(e.corrects) AS calls,
    CAST(SUM(CASE WHEN e.blocked = 1 THEN e.cost_tokens_nano + e.cost_tools_nano ELSE 0 END) AS BIGINT)
        AS shadow_cost_nano,
    CAST(SUM(CASE WHEN e.blocked = 1 THEN e.input_tokens + e.output_tokens ELSE 0 END) AS BIGINT) AS shadow_tokens,
    CAST(SUM(CASE WHEN e.blocked = 1 AND e.corrects IS NULL THEN 1 ELSE 0 END) AS BIGINT) AS shadow_calls
FROM rows(number BIGINT, user_id TEXT, start_us BIGINT, end_us BIGINT, session_id TEXT, model TEXT) AS k
CROSS JOIN events AS e
WHERE e.product_id = :product_id AND e.user_id = k.user_id AND e.at_us >= k.start_us AND e.at_us < k.end_us
  AND (k.session_id = '' OR e.session_id = k.session_id)
  AND (k.model = '' OR e.model_key = k.model OR e.model = k.model)
GROUP BY k.number;
