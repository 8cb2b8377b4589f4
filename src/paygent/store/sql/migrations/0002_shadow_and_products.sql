-- Shadow figures: what calls cost that ran past a hard gate (`events.blocked`). A plan in shadow mode decides by
-- spent - shadow, which is what would have been spent if it had been enforced. Also the settings that all processes of
-- a product share.

ALTER TABLE accounts ADD COLUMN shadow BIGINT NOT NULL DEFAULT 0;

ALTER TABLE rollup_day ADD COLUMN shadow_calls BIGINT NOT NULL DEFAULT 0;

ALTER TABLE rollup_day ADD COLUMN shadow_cost_nano BIGINT NOT NULL DEFAULT 0;

-- A correction counts where its original does, and is of a blocked call if that is.
UPDATE events SET blocked = 1
WHERE blocked = 0 AND corrects IS NOT NULL AND EXISTS (
    SELECT 1 FROM events AS o
    WHERE o.product_id = events.product_id AND o.event_id = events.corrects AND o.blocked = 1
);

UPDATE accounts AS a
SET shadow = d.shadow
FROM (
    SELECT
        b.product_id, b.user_id, b.session_id, b.metric, b.scope, b.model, b.window_rule, b.start_us,
        SUM(CASE b.metric
            WHEN 'spend' THEN e.cost_tokens_nano + e.cost_tools_nano
            WHEN 'tokens' THEN e.input_tokens + e.output_tokens
            WHEN 'calls' THEN CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END END) AS shadow
    FROM events AS e
    CROSS JOIN accounts AS b
    WHERE e.blocked = 1
      AND b.product_id = e.product_id
      AND b.user_id = e.user_id
      AND b.session_id IN ('', e.session_id)
      AND b.start_us <= e.at_us
      AND e.at_us < b.end_us
      AND (b.model = '' OR b.model = e.model_key OR b.model = e.model)
    GROUP BY b.product_id, b.user_id, b.session_id, b.metric, b.scope, b.model, b.window_rule, b.start_us
) AS d
WHERE (a.product_id, a.user_id, a.session_id, a.metric, a.scope, a.model, a.window_rule, a.start_us)
    = (d.product_id, d.user_id, d.session_id, d.metric, d.scope, d.model, d.window_rule, d.start_us);

UPDATE rollup_day AS r
SET shadow_calls = d.calls, shadow_cost_nano = d.cost_nano
FROM (
    SELECT
        product_id, day, user_id, model_key, provider, plan, COUNT(*) - COUNT(corrects) AS calls,
        SUM(cost_tokens_nano + cost_tools_nano) AS cost_nano
    FROM events
    WHERE blocked = 1
    GROUP BY product_id, day, user_id, model_key, provider, plan
) AS d
WHERE (r.product_id, r.day, r.user_id, r.model, r.provider, r.plan)
    = (d.product_id, d.day, d.user_id, d.model_key, d.provider, d.plan);

CREATE TABLE products (
    product_id TEXT NOT NULL PRIMARY KEY,
    default_plan TEXT,
    changed_us BIGINT NOT NULL
);
