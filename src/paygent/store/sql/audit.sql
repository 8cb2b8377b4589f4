-- The audit: every counter beside the fold of what it counts. A statement reads one day, or a range of users, so that
-- it ends in time however large the product is. Only rows that differ are returned.

-- name: audit_users^
SELECT COUNT(*) AS users FROM users WHERE product_id = :product_id;

-- name: audit_days
SELECT * FROM (
    SELECT
        f.day, f.user_id, f.model, f.provider, f.plan,
        CAST(SUM(f.stored_calls) AS BIGINT) AS stored_calls, CAST(SUM(f.calls) AS BIGINT) AS calls,
        CAST(SUM(f.stored_input_tokens) AS BIGINT) AS stored_input_tokens,
        CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
        CAST(SUM(f.stored_output_tokens) AS BIGINT) AS stored_output_tokens,
        CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
        CAST(SUM(f.stored_cost_nano) AS BIGINT) AS stored_cost_nano, CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano,
        CAST(SUM(f.stored_doubtful_calls) AS BIGINT) AS stored_doubtful_calls,
        CAST(SUM(f.doubtful_calls) AS BIGINT) AS doubtful_calls,
        CAST(SUM(f.stored_shadow_calls) AS BIGINT) AS stored_shadow_calls,
        CAST(SUM(f.shadow_calls) AS BIGINT) AS shadow_calls,
        CAST(SUM(f.stored_shadow_cost_nano) AS BIGINT) AS stored_shadow_cost_nano,
        CAST(SUM(f.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
    FROM (
        SELECT
            r.day, r.user_id, r.model, r.provider, r.plan, r.calls AS stored_calls, 0 AS calls,
            r.input_tokens AS stored_input_tokens, 0 AS input_tokens, r.output_tokens AS stored_output_tokens,
            0 AS output_tokens, r.cost_nano AS stored_cost_nano, 0 AS cost_nano,
            r.doubtful_calls AS stored_doubtful_calls, 0 AS doubtful_calls, r.shadow_calls AS stored_shadow_calls,
            0 AS shadow_calls, r.shadow_cost_nano AS stored_shadow_cost_nano, 0 AS shadow_cost_nano
        FROM rollup_day AS r
        WHERE r.product_id = :product_id AND r.day = :day
        UNION ALL
        SELECT
            e.day, e.user_id, e.model_key, e.provider, e.plan,
            0, CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END,
            0, e.input_tokens,
            0, e.output_tokens,
            0, e.cost_tokens_nano + e.cost_tools_nano,
            0, CASE
                WHEN e.corrects IS NULL AND e.quality <> 'exact' AND NOT EXISTS (
                    SELECT 1 FROM corrections AS c
                    WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.user_id = e.user_id
                      AND c.quality = 'exact'
                ) THEN 1
                ELSE 0 END,
            0, CASE WHEN e.blocked = 1 AND e.corrects IS NULL THEN 1 ELSE 0 END,
            0, CASE WHEN e.blocked = 1 THEN e.cost_tokens_nano + e.cost_tools_nano ELSE 0 END
        FROM events AS e /*sqlite INDEXED BY events_by_day */
        WHERE e.product_id = :product_id AND e.day = :day /*postgres AND e.day > '' */
    ) AS f
    GROUP BY f.day, f.user_id, f.model, f.provider, f.plan
) AS g
WHERE g.stored_calls <> g.calls OR g.stored_input_tokens <> g.input_tokens
    OR g.stored_output_tokens <> g.output_tokens OR g.stored_cost_nano <> g.cost_nano
    OR g.stored_doubtful_calls <> g.doubtful_calls OR g.stored_shadow_calls <> g.shadow_calls
    OR g.stored_shadow_cost_nano <> g.shadow_cost_nano
ORDER BY g.day, g.user_id, g.model, g.provider, g.plan;

-- name: audit_usage_of_users
SELECT * FROM (
    SELECT
        f.user_id, f.period_start_us, f.month, f.model,
        CAST(SUM(f.stored_calls) AS BIGINT) AS stored_calls, CAST(SUM(f.calls) AS BIGINT) AS calls,
        CAST(SUM(f.stored_input_tokens) AS BIGINT) AS stored_input_tokens,
        CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
        CAST(SUM(f.stored_output_tokens) AS BIGINT) AS stored_output_tokens,
        CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
        CAST(SUM(f.stored_cost_nano) AS BIGINT) AS stored_cost_nano, CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano
    FROM (
        SELECT
            r.user_id, r.period_start_us, r.month, r.model, r.calls AS stored_calls, 0 AS calls,
            r.input_tokens AS stored_input_tokens, 0 AS input_tokens, r.output_tokens AS stored_output_tokens,
            0 AS output_tokens, r.cost_nano AS stored_cost_nano, 0 AS cost_nano
        FROM rollup_user AS r
        WHERE r.product_id = :product_id AND r.user_id >= :first AND r.user_id < :before
        UNION ALL
        SELECT
            e.user_id, e.period_start_us, substr(e.day, 1, 7), e.model_key, 0, CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END,
            0, e.input_tokens, 0, e.output_tokens, 0, e.cost_tokens_nano + e.cost_tools_nano
        FROM events AS e
        WHERE e.product_id = :product_id AND e.user_id >= :first AND e.user_id < :before
    ) AS f
    GROUP BY f.user_id, f.period_start_us, f.month, f.model
) AS g
WHERE g.stored_calls <> g.calls OR g.stored_input_tokens <> g.input_tokens
    OR g.stored_output_tokens <> g.output_tokens OR g.stored_cost_nano <> g.cost_nano
ORDER BY g.user_id, g.period_start_us, g.month, g.model;

-- name: audit_models
-- The slots of a row are summed.
SELECT * FROM (
    SELECT
        f.day, f.model, f.quality,
        CAST(SUM(f.stored_calls) AS BIGINT) AS stored_calls, CAST(SUM(f.calls) AS BIGINT) AS calls,
        CAST(SUM(f.stored_input_tokens) AS BIGINT) AS stored_input_tokens,
        CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
        CAST(SUM(f.stored_output_tokens) AS BIGINT) AS stored_output_tokens,
        CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
        CAST(SUM(f.stored_cost_nano) AS BIGINT) AS stored_cost_nano, CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano
    FROM (
        SELECT
            r.day, r.model, r.quality, r.calls AS stored_calls, 0 AS calls, r.input_tokens AS stored_input_tokens,
            0 AS input_tokens, r.output_tokens AS stored_output_tokens, 0 AS output_tokens,
            r.cost_nano AS stored_cost_nano, 0 AS cost_nano
        FROM rollup_model AS r
        WHERE r.product_id = :product_id AND r.day = :day
        UNION ALL
        SELECT
            e.day, e.model_key, e.quality, 0, CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END,
            0, e.input_tokens, 0, e.output_tokens, 0, e.cost_tokens_nano + e.cost_tools_nano
        FROM events AS e /*sqlite INDEXED BY events_by_day */
        WHERE e.product_id = :product_id AND e.day = :day /*postgres AND e.day > '' */
    ) AS f
    GROUP BY f.day, f.model, f.quality
) AS g
WHERE g.stored_calls <> g.calls OR g.stored_input_tokens <> g.input_tokens
    OR g.stored_output_tokens <> g.output_tokens OR g.stored_cost_nano <> g.cost_nano
ORDER BY g.day, g.model, g.quality;

-- name: days_with_events
-- Hops from day to day in the index, without reading the events.
WITH RECURSIVE found (day) AS (
    SELECT MIN(e.day) FROM events AS e /*sqlite INDEXED BY events_by_day */
    WHERE e.product_id = :product_id /*postgres AND e.day > '' */
    UNION ALL
    SELECT (
        SELECT MIN(e.day) FROM events AS e /*sqlite INDEXED BY events_by_day */
        WHERE e.product_id = :product_id AND e.day > f.day /*postgres AND e.day > '' */
    )
    FROM found AS f WHERE f.day IS NOT NULL
)
SELECT f.day FROM found AS f WHERE f.day IS NOT NULL;

-- name: days_with_rollups
-- The same in the rollup, which may have days that it should not have.
WITH RECURSIVE found (day) AS (
    SELECT MIN(r.day) FROM rollup_day AS r WHERE r.product_id = :product_id
    UNION ALL
    SELECT (SELECT MIN(r.day) FROM rollup_day AS r WHERE r.product_id = :product_id AND r.day > f.day)
    FROM found AS f WHERE f.day IS NOT NULL
)
SELECT f.day FROM found AS f WHERE f.day IS NOT NULL;

-- name: days_with_models
SELECT DISTINCT day FROM rollup_model WHERE product_id = :product_id;

-- name: accounts_to_audit
SELECT user_id, session_id, end_us, start_us, metric, scope, model, window_rule, spent, shadow
FROM accounts
WHERE product_id = :product_id
  AND (user_id, session_id, end_us, start_us, metric, scope, model, window_rule)
    > (:user_id, :session_id, :end_us, :start_us, :metric, :scope, :model, :window_rule)
  AND user_id < :before
ORDER BY user_id, session_id, end_us, start_us, metric, scope, model, window_rule
LIMIT :rows_max;

-- name: events_to_audit
SELECT
    user_id, at_us, event_id, session_id, model, model_key, input_tokens + output_tokens AS tokens,
    cost_tokens_nano + cost_tools_nano AS cost_nano, blocked, CASE WHEN corrects IS NULL THEN 1 ELSE 0 END AS calls
FROM events
WHERE product_id = :product_id AND (user_id, at_us, event_id) > (:user_id, :at_us, :event_id) AND user_id < :before
ORDER BY user_id, at_us, event_id
LIMIT :rows_max;

-- name: gate_events_to_audit
SELECT user_id, at_us, gate_event_id, gate_reason, status, blocked
FROM gate_events
WHERE product_id = :product_id AND (user_id, at_us, gate_event_id) > (:user_id, :at_us, :gate_event_id)
  AND user_id < :before
ORDER BY user_id, at_us, gate_event_id
LIMIT :rows_max;

-- name: rollup_gates_to_audit
SELECT user_id, day, gate_reason, soft, hard, blocked
FROM rollup_gate
WHERE product_id = :product_id AND user_id >= :first AND user_id < :before;
