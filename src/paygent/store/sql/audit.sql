-- The audit: every counter beside the fold of what it counts. A statement reads one day, or a range of users, so that
-- it ends in time however large the product is. Only rows that differ are returned.

-- name: audit_users^
SELECT COUNT(*) AS users FROM users WHERE product_id = :product_id;

-- name: audit_days
-- The rows of a day by user.
SELECT * FROM (
    SELECT
        f.span, f.user_id, f.period_start_us, f.model, f.provider, f.plan,
        CAST(SUM(f.stored_calls) AS BIGINT) AS stored_calls, CAST(SUM(f.calls) AS BIGINT) AS calls,
        CAST(SUM(f.stored_input_tokens) AS BIGINT) AS stored_input_tokens,
        CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
        CAST(SUM(f.stored_output_tokens) AS BIGINT) AS stored_output_tokens,
        CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
        CAST(SUM(f.stored_cached_input_tokens) AS BIGINT) AS stored_cached_input_tokens,
        CAST(SUM(f.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
        CAST(SUM(f.stored_cost_nano) AS BIGINT) AS stored_cost_nano, CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano,
        CAST(SUM(f.stored_partial_calls) AS BIGINT) AS stored_partial_calls,
        CAST(SUM(f.partial_calls) AS BIGINT) AS partial_calls,
        CAST(SUM(f.stored_estimated_calls) AS BIGINT) AS stored_estimated_calls,
        CAST(SUM(f.estimated_calls) AS BIGINT) AS estimated_calls,
        CAST(SUM(f.stored_unpriced_calls) AS BIGINT) AS stored_unpriced_calls,
        CAST(SUM(f.unpriced_calls) AS BIGINT) AS unpriced_calls,
        CAST(SUM(f.stored_shadow_calls) AS BIGINT) AS stored_shadow_calls,
        CAST(SUM(f.shadow_calls) AS BIGINT) AS shadow_calls,
        CAST(SUM(f.stored_shadow_cost_nano) AS BIGINT) AS stored_shadow_cost_nano,
        CAST(SUM(f.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
    FROM (
        SELECT
            r.span, r.user_id, r.period_start_us, r.model, r.provider, r.plan,
            r.calls AS stored_calls, 0 AS calls,
            r.input_tokens AS stored_input_tokens, 0 AS input_tokens,
            r.output_tokens AS stored_output_tokens, 0 AS output_tokens,
            r.cached_input_tokens AS stored_cached_input_tokens, 0 AS cached_input_tokens,
            r.cost_nano AS stored_cost_nano, 0 AS cost_nano,
            r.partial_calls AS stored_partial_calls, 0 AS partial_calls,
            r.estimated_calls AS stored_estimated_calls, 0 AS estimated_calls,
            r.unpriced_calls AS stored_unpriced_calls, 0 AS unpriced_calls,
            r.shadow_calls AS stored_shadow_calls, 0 AS shadow_calls,
            r.shadow_cost_nano AS stored_shadow_cost_nano, 0 AS shadow_cost_nano
        FROM rollup_user AS r
        WHERE r.product_id = :product_id AND r.span = :day
        UNION ALL
        SELECT
            e.day, e.user_id, e.period_start_us, e.model, e.provider, e.plan,
            0, e.calls, 0, e.input_tokens, 0, e.output_tokens, 0, e.cached_input_tokens, 0, e.cost_nano,
            0, e.partial_calls, 0, e.estimated_calls, 0, e.unpriced_calls, 0, e.shadow_calls, 0, e.shadow_cost_nano
        FROM event_figures AS e
        WHERE e.product_id = :product_id AND e.day = :day /*postgres AND e.day > '' */
    ) AS f
    GROUP BY f.span, f.user_id, f.period_start_us, f.model, f.provider, f.plan
) AS g
WHERE g.stored_calls <> g.calls OR g.stored_input_tokens <> g.input_tokens
    OR g.stored_output_tokens <> g.output_tokens OR g.stored_cached_input_tokens <> g.cached_input_tokens
    OR g.stored_cost_nano <> g.cost_nano OR g.stored_partial_calls <> g.partial_calls
    OR g.stored_estimated_calls <> g.estimated_calls OR g.stored_unpriced_calls <> g.unpriced_calls
    OR g.stored_shadow_calls <> g.shadow_calls OR g.stored_shadow_cost_nano <> g.shadow_cost_nano
ORDER BY g.span, g.user_id, g.period_start_us, g.model, g.provider, g.plan;

-- name: audit_months
-- The rows of months, of a range of users.
SELECT * FROM (
    SELECT
        f.span, f.user_id, f.period_start_us, f.model, f.provider, f.plan,
        CAST(SUM(f.stored_calls) AS BIGINT) AS stored_calls, CAST(SUM(f.calls) AS BIGINT) AS calls,
        CAST(SUM(f.stored_input_tokens) AS BIGINT) AS stored_input_tokens,
        CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
        CAST(SUM(f.stored_output_tokens) AS BIGINT) AS stored_output_tokens,
        CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
        CAST(SUM(f.stored_cached_input_tokens) AS BIGINT) AS stored_cached_input_tokens,
        CAST(SUM(f.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
        CAST(SUM(f.stored_cost_nano) AS BIGINT) AS stored_cost_nano, CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano,
        CAST(SUM(f.stored_partial_calls) AS BIGINT) AS stored_partial_calls,
        CAST(SUM(f.partial_calls) AS BIGINT) AS partial_calls,
        CAST(SUM(f.stored_estimated_calls) AS BIGINT) AS stored_estimated_calls,
        CAST(SUM(f.estimated_calls) AS BIGINT) AS estimated_calls,
        CAST(SUM(f.stored_unpriced_calls) AS BIGINT) AS stored_unpriced_calls,
        CAST(SUM(f.unpriced_calls) AS BIGINT) AS unpriced_calls,
        CAST(SUM(f.stored_shadow_calls) AS BIGINT) AS stored_shadow_calls,
        CAST(SUM(f.shadow_calls) AS BIGINT) AS shadow_calls,
        CAST(SUM(f.stored_shadow_cost_nano) AS BIGINT) AS stored_shadow_cost_nano,
        CAST(SUM(f.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
    FROM (
        SELECT
            r.span, r.user_id, r.period_start_us, r.model, r.provider, r.plan,
            r.calls AS stored_calls, 0 AS calls,
            r.input_tokens AS stored_input_tokens, 0 AS input_tokens,
            r.output_tokens AS stored_output_tokens, 0 AS output_tokens,
            r.cached_input_tokens AS stored_cached_input_tokens, 0 AS cached_input_tokens,
            r.cost_nano AS stored_cost_nano, 0 AS cost_nano,
            r.partial_calls AS stored_partial_calls, 0 AS partial_calls,
            r.estimated_calls AS stored_estimated_calls, 0 AS estimated_calls,
            r.unpriced_calls AS stored_unpriced_calls, 0 AS unpriced_calls,
            r.shadow_calls AS stored_shadow_calls, 0 AS shadow_calls,
            r.shadow_cost_nano AS stored_shadow_cost_nano, 0 AS shadow_cost_nano
        FROM rows(span TEXT) AS k
        JOIN rollup_user AS r
            ON r.product_id = :product_id AND r.span = k.span AND r.user_id >= :first AND r.user_id < :before
        UNION ALL
        SELECT
            substr(e.day, 1, 7), e.user_id, e.period_start_us, e.model, e.provider, e.plan,
            0, e.calls, 0, e.input_tokens, 0, e.output_tokens, 0, e.cached_input_tokens, 0, e.cost_nano,
            0, e.partial_calls, 0, e.estimated_calls, 0, e.unpriced_calls, 0, e.shadow_calls, 0, e.shadow_cost_nano
        FROM event_figures AS e
        WHERE e.product_id = :product_id AND e.user_id >= :first AND e.user_id < :before
    ) AS f
    GROUP BY f.span, f.user_id, f.period_start_us, f.model, f.provider, f.plan
) AS g
WHERE g.stored_calls <> g.calls OR g.stored_input_tokens <> g.input_tokens
    OR g.stored_output_tokens <> g.output_tokens OR g.stored_cached_input_tokens <> g.cached_input_tokens
    OR g.stored_cost_nano <> g.cost_nano OR g.stored_partial_calls <> g.partial_calls
    OR g.stored_estimated_calls <> g.estimated_calls OR g.stored_unpriced_calls <> g.unpriced_calls
    OR g.stored_shadow_calls <> g.shadow_calls OR g.stored_shadow_cost_nano <> g.shadow_cost_nano
ORDER BY g.span, g.user_id, g.period_start_us, g.model, g.provider, g.plan;

-- name: audit_products
-- The rows of a day of the whole product; the slots of a row are summed.
SELECT * FROM (
    SELECT
        f.span, f.model, f.provider, f.plan,
        CAST(SUM(f.stored_calls) AS BIGINT) AS stored_calls, CAST(SUM(f.calls) AS BIGINT) AS calls,
        CAST(SUM(f.stored_input_tokens) AS BIGINT) AS stored_input_tokens,
        CAST(SUM(f.input_tokens) AS BIGINT) AS input_tokens,
        CAST(SUM(f.stored_output_tokens) AS BIGINT) AS stored_output_tokens,
        CAST(SUM(f.output_tokens) AS BIGINT) AS output_tokens,
        CAST(SUM(f.stored_cached_input_tokens) AS BIGINT) AS stored_cached_input_tokens,
        CAST(SUM(f.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
        CAST(SUM(f.stored_cost_nano) AS BIGINT) AS stored_cost_nano, CAST(SUM(f.cost_nano) AS BIGINT) AS cost_nano,
        CAST(SUM(f.stored_partial_calls) AS BIGINT) AS stored_partial_calls,
        CAST(SUM(f.partial_calls) AS BIGINT) AS partial_calls,
        CAST(SUM(f.stored_estimated_calls) AS BIGINT) AS stored_estimated_calls,
        CAST(SUM(f.estimated_calls) AS BIGINT) AS estimated_calls,
        CAST(SUM(f.stored_unpriced_calls) AS BIGINT) AS stored_unpriced_calls,
        CAST(SUM(f.unpriced_calls) AS BIGINT) AS unpriced_calls,
        CAST(SUM(f.stored_shadow_calls) AS BIGINT) AS stored_shadow_calls,
        CAST(SUM(f.shadow_calls) AS BIGINT) AS shadow_calls,
        CAST(SUM(f.stored_shadow_cost_nano) AS BIGINT) AS stored_shadow_cost_nano,
        CAST(SUM(f.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
    FROM (
        SELECT
            r.span, r.model, r.provider, r.plan,
            r.calls AS stored_calls, 0 AS calls,
            r.input_tokens AS stored_input_tokens, 0 AS input_tokens,
            r.output_tokens AS stored_output_tokens, 0 AS output_tokens,
            r.cached_input_tokens AS stored_cached_input_tokens, 0 AS cached_input_tokens,
            r.cost_nano AS stored_cost_nano, 0 AS cost_nano,
            r.partial_calls AS stored_partial_calls, 0 AS partial_calls,
            r.estimated_calls AS stored_estimated_calls, 0 AS estimated_calls,
            r.unpriced_calls AS stored_unpriced_calls, 0 AS unpriced_calls,
            r.shadow_calls AS stored_shadow_calls, 0 AS shadow_calls,
            r.shadow_cost_nano AS stored_shadow_cost_nano, 0 AS shadow_cost_nano
        FROM rollup_product AS r
        WHERE r.product_id = :product_id AND r.span = :day
        UNION ALL
        SELECT
            e.day, e.model, e.provider, e.plan,
            0, e.calls, 0, e.input_tokens, 0, e.output_tokens, 0, e.cached_input_tokens, 0, e.cost_nano,
            0, e.partial_calls, 0, e.estimated_calls, 0, e.unpriced_calls, 0, e.shadow_calls, 0, e.shadow_cost_nano
        FROM event_figures AS e
        WHERE e.product_id = :product_id AND e.day = :day /*postgres AND e.day > '' */
    ) AS f
    GROUP BY f.span, f.model, f.provider, f.plan
) AS g
WHERE g.stored_calls <> g.calls OR g.stored_input_tokens <> g.input_tokens
    OR g.stored_output_tokens <> g.output_tokens OR g.stored_cached_input_tokens <> g.cached_input_tokens
    OR g.stored_cost_nano <> g.cost_nano OR g.stored_partial_calls <> g.partial_calls
    OR g.stored_estimated_calls <> g.estimated_calls OR g.stored_unpriced_calls <> g.unpriced_calls
    OR g.stored_shadow_calls <> g.shadow_calls OR g.stored_shadow_cost_nano <> g.shadow_cost_nano
ORDER BY g.span, g.model, g.provider, g.plan;

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

-- name: days_with_products
SELECT DISTINCT span AS day FROM rollup_product WHERE product_id = :product_id;

-- name: days_with_tags
SELECT DISTINCT span AS day FROM rollup_tag WHERE product_id = :product_id;

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
-- All columns: they are read by name (`directory_rows.gate_event_of`).
SELECT * FROM gate_events
WHERE product_id = :product_id AND (user_id, at_us, gate_event_id) > (:user_id, :at_us, :gate_event_id)
  AND user_id < :before
ORDER BY user_id, at_us, gate_event_id
LIMIT :rows_max;

-- name: rollup_gates_to_audit
SELECT
    r.day, r.user_id, r.gate_reason, r.soft, r.hard, r.refused_calls, r.shadow_calls, r.shadow_cost_nano
FROM rows(day TEXT) AS k
CROSS JOIN rollup_gate AS r
WHERE r.product_id = :product_id AND r.day = k.day AND r.user_id >= :first AND r.user_id < :before;

-- name: shadow_to_audit
-- What the calls of users add to the same rollup that ran past a hard gate.
SELECT
    e.day, e.user_id, e.gate_reason, CAST(SUM(e.shadow_calls) AS BIGINT) AS shadow_calls,
    CAST(SUM(e.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
FROM event_figures AS e
WHERE e.product_id = :product_id AND e.user_id >= :first AND e.user_id < :before AND e.blocked = 1
GROUP BY e.day, e.user_id, e.gate_reason;

-- name: tags_of_day
-- The rows of the rollup of tags, and the events of their day by metadata, in one reading.
SELECT r.tag_key, r.tag_value, CAST(NULL AS TEXT) AS metadata, 1 AS is_stored{sums}
FROM rollup_tag AS r
WHERE r.product_id = :product_id AND r.span = :day
GROUP BY r.tag_key, r.tag_value
UNION ALL
SELECT '', '', {metadata}, 0{sums}
FROM event_figures AS r
WHERE r.product_id = :product_id AND r.day = :day /*postgres AND r.day > '' */
GROUP BY 3;
