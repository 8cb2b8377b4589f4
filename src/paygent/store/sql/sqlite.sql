-- Bulk statements in SQLite's dialect: many rows are passed as one JSON array.
--
-- CROSS JOIN fixes the order of a join in SQLite: the array is read first, then its rows are found by their key.
-- Left to itself the planner, which has no statistics, may read the whole product instead.

-- name: claim_ids
-- Returns the ids that were not claimed before. An id is claimed in the transaction that counts its event, so a
-- failed batch has claimed nothing.
INSERT INTO event_ids (product_id, event_id)
SELECT :product_id, value FROM json_each(:ids) WHERE true
ON CONFLICT (product_id, event_id) DO NOTHING
RETURNING event_id;

-- name: clear_restated!
-- An original that arrives after the correction that restates it adds nothing: the whole is booked already.
UPDATE events AS o
SET input_tokens = 0, output_tokens = 0, cached_input_tokens = 0, cache_write_tokens = 0, reasoning_tokens = 0,
    cost_tokens_nano = 0
WHERE o.product_id = :product_id
  AND o.event_id IN (SELECT value FROM json_each(:ids))
  AND o.corrects IS NULL
  AND EXISTS (
      SELECT 1 FROM events AS c
      WHERE c.product_id = o.product_id AND c.corrects = o.event_id AND c.restates = 1
        AND c.event_id NOT IN (SELECT value FROM json_each(:ids))
  );

-- name: add_users!
-- Creates users at their first event, without a plan.
INSERT INTO users (product_id, user_id, created_us)
SELECT DISTINCT e.product_id, e.user_id, :at_us
FROM json_each(:ids) AS k
CROSS JOIN events AS e
WHERE e.product_id = :product_id AND e.event_id = k.value
ON CONFLICT (product_id, user_id) DO NOTHING;

-- name: use_sessions!
INSERT INTO sessions (product_id, user_id, session_id, implicit, started_us, used_us)
SELECT e.product_id, e.user_id, e.session_id, 0, MIN(e.at_us), MAX(e.at_us)
FROM json_each(:ids) AS k
CROSS JOIN events AS e
WHERE e.product_id = :product_id AND e.event_id = k.value AND e.session_id <> ''
GROUP BY e.product_id, e.user_id, e.session_id
ON CONFLICT (product_id, user_id, session_id) DO UPDATE SET
    used_us = CASE WHEN excluded.used_us > sessions.used_us THEN excluded.used_us ELSE sessions.used_us END;

-- name: open_accounts!
-- Opens accounts that are not kept yet, seeded from the events of their window; runs before the batch's own events
-- are stored, which `book_accounts` then adds. Two questions may name one account.
INSERT INTO accounts (
    product_id, user_id, session_id, metric, scope, model, window_rule, start_us, end_us, spent, shadow
)
WITH k AS (
    SELECT
        json_extract(value, '$.user_id') AS user_id, json_extract(value, '$.session_id') AS session_id,
        json_extract(value, '$.metric') AS metric, json_extract(value, '$.scope') AS scope,
        json_extract(value, '$.model') AS model, json_extract(value, '$.window_rule') AS window_rule,
        json_extract(value, '$.start_us') AS start_us, json_extract(value, '$.end_us') AS end_us
    FROM json_each(:keys)
),
new AS (
    SELECT DISTINCT k.* FROM k
    WHERE NOT EXISTS (
        SELECT 1 FROM accounts AS a
        WHERE (a.product_id, a.user_id, a.session_id, a.metric, a.scope, a.model, a.window_rule, a.start_us)
            = (:product_id, k.user_id, k.session_id, k.metric, k.scope, k.model, k.window_rule, k.start_us)
    )
)
SELECT
    :product_id, d.user_id, d.session_id, d.metric, d.scope, d.model, d.window_rule, d.start_us, d.end_us,
    COALESCE(SUM(d.amount), 0), COALESCE(SUM(CASE WHEN d.blocked = 1 THEN d.amount ELSE 0 END), 0)
FROM (
    SELECT
        new.*, e.blocked,
        CASE new.metric
            WHEN 'spend' THEN e.cost_tokens_nano + e.cost_tools_nano
            WHEN 'tokens' THEN e.input_tokens + e.output_tokens
            WHEN 'calls' THEN CASE WHEN e.event_id IS NOT NULL AND e.corrects IS NULL THEN 1 ELSE 0 END
        END AS amount
    FROM new
    LEFT JOIN events AS e
        ON e.product_id = :product_id AND e.user_id = new.user_id AND e.at_us >= new.start_us
        AND e.at_us < new.end_us
        AND new.session_id IN ('', e.session_id) AND new.model IN ('', e.model_key, e.model)
) AS d
WHERE true -- or SQLite would read ON CONFLICT as a part of a join
GROUP BY d.user_id, d.session_id, d.metric, d.scope, d.model, d.window_rule, d.start_us, d.end_us
ON CONFLICT (product_id, user_id, session_id, metric, scope, model, window_rule, start_us) DO NOTHING;

-- name: book_accounts!
-- An account is the fold of the events it counts; this adds the new ones. A settlement is always booked: caps are
-- not checked here.
UPDATE accounts AS a
SET spent = a.spent + d.amount, shadow = a.shadow + d.shadow
FROM (
    SELECT
        b.user_id, b.session_id, b.metric, b.scope, b.model, b.window_rule, b.start_us,
        SUM(CASE b.metric
            WHEN 'spend' THEN e.cost_tokens_nano + e.cost_tools_nano
            WHEN 'tokens' THEN e.input_tokens + e.output_tokens
            WHEN 'calls' THEN CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END END) AS amount,
        SUM(CASE WHEN e.blocked = 0 THEN 0 ELSE CASE b.metric
            WHEN 'spend' THEN e.cost_tokens_nano + e.cost_tools_nano
            WHEN 'tokens' THEN e.input_tokens + e.output_tokens
            WHEN 'calls' THEN CASE WHEN e.corrects IS NULL THEN 1 ELSE 0 END END END) AS shadow
    FROM json_each(:ids) AS k
    CROSS JOIN events AS e
    CROSS JOIN accounts AS b
    WHERE e.product_id = :product_id
      AND e.event_id = k.value
      AND b.product_id = e.product_id
      AND b.user_id = e.user_id
      AND b.session_id IN ('', e.session_id)
      AND b.start_us <= e.at_us
      AND e.at_us < b.end_us
      AND (b.model = '' OR b.model = e.model_key OR b.model = e.model)
    GROUP BY b.user_id, b.session_id, b.metric, b.scope, b.model, b.window_rule, b.start_us
) AS d
WHERE (a.product_id, a.user_id, a.session_id, a.metric, a.scope, a.model, a.window_rule, a.start_us)
    = (:product_id, d.user_id, d.session_id, d.metric, d.scope, d.model, d.window_rule, d.start_us);

-- name: roll_up_days!
-- A call is doubtful while neither its own figures nor those of a correction are exact. A call that arrives after
-- its exact correction is not; `roll_up_resolved` resolves one that is stored already.
INSERT INTO rollup_day (
    product_id, day, user_id, model, provider, plan,
    calls, input_tokens, output_tokens, cost_nano, doubtful_calls, shadow_calls, shadow_cost_nano
)
SELECT
    e.product_id, e.day, e.user_id, e.model_key, e.provider, e.plan, COUNT(*) - COUNT(e.corrects),
    SUM(e.input_tokens), SUM(e.output_tokens), SUM(e.cost_tokens_nano + e.cost_tools_nano),
    SUM(CASE
        WHEN e.corrects IS NULL AND e.quality <> 'exact' AND NOT EXISTS (
            SELECT 1 FROM events AS c
            WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.quality = 'exact'
        ) THEN 1
        ELSE 0 END),
    SUM(CASE WHEN e.blocked = 1 AND e.corrects IS NULL THEN 1 ELSE 0 END),
    SUM(CASE WHEN e.blocked = 1 THEN e.cost_tokens_nano + e.cost_tools_nano ELSE 0 END)
FROM json_each(:ids) AS k
CROSS JOIN events AS e
WHERE e.product_id = :product_id AND e.event_id = k.value
GROUP BY e.product_id, e.day, e.user_id, e.model_key, e.provider, e.plan
ON CONFLICT (product_id, day, user_id, model, provider, plan) DO UPDATE SET
    calls = rollup_day.calls + excluded.calls,
    input_tokens = rollup_day.input_tokens + excluded.input_tokens,
    output_tokens = rollup_day.output_tokens + excluded.output_tokens,
    cost_nano = rollup_day.cost_nano + excluded.cost_nano,
    doubtful_calls = rollup_day.doubtful_calls + excluded.doubtful_calls,
    shadow_calls = rollup_day.shadow_calls + excluded.shadow_calls,
    shadow_cost_nano = rollup_day.shadow_cost_nano + excluded.shadow_cost_nano;

-- name: roll_up_resolved!
-- The first exact correction of a stored call resolves its doubt in the rollup that counted it: a provider's batch
-- may have been booked before its model was known. Of several in one batch the first has the smallest id.
UPDATE rollup_day AS r
SET doubtful_calls = r.doubtful_calls - d.calls
FROM (
    SELECT o.day, o.user_id, o.model_key, o.provider, o.plan, COUNT(*) AS calls
    FROM json_each(:ids) AS k
    CROSS JOIN events AS e
    CROSS JOIN events AS o
    WHERE e.product_id = :product_id
      AND e.event_id = k.value
      AND o.product_id = e.product_id
      AND o.event_id = e.corrects
      AND e.quality = 'exact'
      AND o.corrects IS NULL AND o.quality <> 'exact'
      AND o.event_id NOT IN (SELECT value FROM json_each(:ids))
      AND NOT EXISTS (
          SELECT 1 FROM events AS c
          WHERE c.product_id = e.product_id AND c.corrects = e.corrects AND c.quality = 'exact'
            AND c.event_id <> e.event_id
            AND (c.event_id < e.event_id OR c.event_id NOT IN (SELECT value FROM json_each(:ids)))
      )
    GROUP BY o.day, o.user_id, o.model_key, o.provider, o.plan
) AS d
WHERE (r.product_id, r.day, r.user_id, r.model, r.provider, r.plan)
    = (:product_id, d.day, d.user_id, d.model_key, d.provider, d.plan);

-- name: roll_up_periods!
INSERT INTO rollup_period (
    product_id, user_id, period_start_us, model, calls, input_tokens, output_tokens, cost_nano
)
SELECT
    e.product_id, e.user_id, e.period_start_us, e.model_key, COUNT(*) - COUNT(e.corrects),
    SUM(e.input_tokens), SUM(e.output_tokens), SUM(e.cost_tokens_nano + e.cost_tools_nano)
FROM json_each(:ids) AS k
CROSS JOIN events AS e
WHERE e.product_id = :product_id AND e.event_id = k.value
GROUP BY e.product_id, e.user_id, e.period_start_us, e.model_key
ON CONFLICT (product_id, user_id, period_start_us, model) DO UPDATE SET
    calls = rollup_period.calls + excluded.calls,
    input_tokens = rollup_period.input_tokens + excluded.input_tokens,
    output_tokens = rollup_period.output_tokens + excluded.output_tokens,
    cost_nano = rollup_period.cost_nano + excluded.cost_nano;

-- name: kept_accounts
-- Those of the given accounts that are kept.
SELECT
    a.user_id, a.session_id, a.metric, a.scope, a.model, a.window_rule, a.start_us, a.end_us, a.spent, a.shadow
FROM json_each(:keys) AS k
CROSS JOIN accounts AS a
    ON (a.product_id, a.user_id, a.session_id, a.metric, a.scope, a.model, a.window_rule, a.start_us) = (
        :product_id, json_extract(k.value, '$.user_id'), json_extract(k.value, '$.session_id'),
        json_extract(k.value, '$.metric'), json_extract(k.value, '$.scope'), json_extract(k.value, '$.model'),
        json_extract(k.value, '$.window_rule'), json_extract(k.value, '$.start_us')
    );

-- name: users_asked_for
SELECT u.user_id, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled
FROM json_each(:user_ids) AS k
CROSS JOIN users AS u ON u.product_id = :product_id AND u.user_id = k.value;

-- name: last_events
-- When the last event of each user was; 0 for users without events.
SELECT k.value AS user_id, COALESCE((
    SELECT e.at_us FROM events AS e
    WHERE e.product_id = :product_id AND e.user_id = k.value
    ORDER BY e.at_us DESC LIMIT 1
), 0) AS last_us
FROM json_each(:user_ids) AS k;

-- name: open_sessions
-- The open implicit session of each user: of those not closed, the one that started last.
SELECT s.user_id, s.session_id, s.started_us, s.used_us
FROM json_each(:user_ids) AS k
CROSS JOIN sessions AS s
    ON s.product_id = :product_id AND s.user_id = k.value
WHERE s.session_id = (
    SELECT t.session_id FROM sessions AS t
    WHERE t.product_id = :product_id AND t.user_id = k.value AND t.implicit = 1 AND t.ended_us = 0
    ORDER BY t.started_us DESC LIMIT 1
);

-- name: usage_by_tag
-- As `usage_by_user_and_model`, and by the value of one metadata key, as text ('' where there is none). It reads every
-- event of these days, because the rollups do not know tags. A correction counts under the value of its original.
SELECT
    e.user_id, e.model_key AS model, COUNT(*) - COUNT(e.corrects) AS calls, SUM(e.input_tokens) AS input_tokens,
    SUM(e.output_tokens) AS output_tokens, SUM(e.cost_tokens_nano + e.cost_tools_nano) AS cost_nano,
    SUM(CASE
        WHEN e.corrects IS NULL AND e.quality <> 'exact' AND NOT EXISTS (
            SELECT 1 FROM events AS c
            WHERE c.product_id = e.product_id AND c.corrects = e.event_id AND c.quality = 'exact'
        ) THEN 1
        ELSE 0 END) AS doubtful_calls,
    SUM(CASE WHEN e.blocked = 1 AND e.corrects IS NULL THEN 1 ELSE 0 END) AS shadow_calls,
    SUM(CASE WHEN e.blocked = 1 THEN e.cost_tokens_nano + e.cost_tools_nano ELSE 0 END) AS shadow_cost_nano,
    COALESCE((
        SELECT CASE WHEN t.type IN ('true', 'false') THEN t.type ELSE CAST(t.atom AS TEXT) END
        FROM json_each(CASE WHEN o.event_id IS NULL THEN e.metadata ELSE o.metadata END) AS t
        WHERE t.key = :tag_key
    ), '') AS tag
FROM events AS e
LEFT JOIN events AS o ON o.product_id = e.product_id AND o.event_id = e.corrects
WHERE e.product_id = :product_id AND e.day >= :first_day AND e.day <= :last_day
GROUP BY e.user_id, e.model_key, tag
ORDER BY e.user_id, e.model_key, tag;

-- name: models_of_periods
SELECT r.user_id, r.model, r.input_tokens + r.output_tokens AS tokens, r.cost_nano
FROM json_each(:periods) AS k
CROSS JOIN rollup_period AS r
    ON r.product_id = :product_id
    AND r.user_id = json_extract(k.value, '$.user_id')
    AND r.period_start_us = json_extract(k.value, '$.period_start_us');
