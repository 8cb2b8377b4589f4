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

-- name: days_with_gates
-- The days of the rollup of gates, from a first to a last one, in the same way.
WITH RECURSIVE found (day) AS (
    SELECT MIN(r.day) FROM rollup_gate AS r WHERE r.product_id = :product_id AND r.day >= :first
    UNION ALL
    SELECT (SELECT MIN(r.day) FROM rollup_gate AS r WHERE r.product_id = :product_id AND r.day > f.day)
    FROM found AS f WHERE f.day <= :last
)
SELECT f.day FROM found AS f WHERE f.day <= :last;

-- name: dearest_users
SELECT r.user_id, CAST(SUM(r.calls) AS BIGINT) AS calls, CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano
FROM rows(span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span
GROUP BY r.user_id
ORDER BY cost_nano DESC, r.user_id
LIMIT :users_max;

-- name: spend_of_product
-- Usage and cost by up to two keys, from the rollup of the product: a page in the order of rank and keys. What is in
-- braces is filled in by `store/reports.py`, so that an engine sees columns. NULL is no filter.
SELECT p.* FROM (
SELECT {first} AS first_key, {second} AS second_key, {rank} AS rank{sums}
FROM rows(span TEXT) AS k
CROSS JOIN rollup_product AS r
WHERE r.product_id = :product_id AND r.span = k.span
  AND (CAST(:model AS TEXT) IS NULL OR r.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR r.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR r.plan = :plan)
GROUP BY {group}
) AS p
WHERE (p.rank, p.first_key, p.second_key) > (:after_rank, :after_first, :after_second)
ORDER BY p.rank, p.first_key, p.second_key
LIMIT :rows_max;

-- name: spend_of_users
-- The same from the rollup of users; of many, by rank alone, without the sums.
SELECT p.* FROM (
SELECT {first} AS first_key, {second} AS second_key, {rank} AS rank{sums}
FROM rows(span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span
  AND r.user_id >= :first_user AND r.user_id <= :last_user
  AND (CAST(:model AS TEXT) IS NULL OR r.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR r.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR r.plan = :plan)
  AND (CAST(:period_start_us AS BIGINT) IS NULL OR r.period_start_us = :period_start_us)
GROUP BY {group}
) AS p
WHERE (p.rank, p.first_key, p.second_key) > (:after_rank, :after_first, :after_second)
ORDER BY p.rank, p.first_key, p.second_key
LIMIT :rows_max;

-- name: spend_of_tags
-- The same from the rollup of tags, by one of them and by time. A value that is left without anything, since its user
-- was erased or a correction found its original, is none.
SELECT p.* FROM (
SELECT {first} AS first_key, {second} AS second_key, {rank} AS rank{sums}
FROM rows(span TEXT) AS k
CROSS JOIN rollup_tag AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.tag_key = :tag_key
  AND (CAST(:tag_value AS TEXT) IS NULL OR r.tag_value = :tag_value)
GROUP BY {group}
) AS p
WHERE (p.rank, p.first_key, p.second_key) > (:after_rank, :after_first, :after_second)
  AND (
    p.calls <> 0 OR p.input_tokens <> 0 OR p.output_tokens <> 0 OR p.cached_input_tokens <> 0 OR p.cost_nano <> 0
    OR p.partial_calls <> 0 OR p.estimated_calls <> 0 OR p.unpriced_calls <> 0 OR p.shadow_calls <> 0
    OR p.shadow_cost_nano <> 0
  )
ORDER BY p.rank, p.first_key, p.second_key
LIMIT :rows_max;

-- name: spend_of_some_users
-- The sums of some users, each looked up in every span.
SELECT {first} AS first_key, {second} AS second_key{sums}
FROM rows(span TEXT, user_id TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.user_id = k.user_id
  AND (CAST(:model AS TEXT) IS NULL OR r.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR r.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR r.plan = :plan)
  AND (CAST(:period_start_us AS BIGINT) IS NULL OR r.period_start_us = :period_start_us)
GROUP BY {group};

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

-- name: count_events_of_days^
-- How many events that are, but not more than a number of them.
SELECT COUNT(*) AS events FROM (
SELECT r.at_us
FROM rows(day TEXT, start_us BIGINT, end_us BIGINT) AS k
CROSS JOIN events AS r
WHERE r.product_id = :product_id AND r.day = k.day /*postgres AND r.day > '' */ AND r.at_us >= k.start_us AND r.at_us < k.end_us
LIMIT :events_max
) AS c;

-- name: count_events_of_users^
SELECT COUNT(*) AS events FROM (
SELECT r.at_us
FROM rows(user_id TEXT, start_us BIGINT, end_us BIGINT) AS k
CROSS JOIN events AS r
WHERE r.product_id = :product_id AND r.user_id = k.user_id AND r.at_us >= k.start_us AND r.at_us < k.end_us
LIMIT :events_max
) AS c;

-- name: groups_of_days
-- What the events of days add, by keys that the rollups do not have, and parts of days. See `spend_of_product`.
SELECT {first} AS first_key, {second} AS second_key, {metadata} AS metadata{sums}
FROM rows(day TEXT, start_us BIGINT, end_us BIGINT) AS k
CROSS JOIN event_figures AS r
WHERE r.product_id = :product_id AND r.day = k.day /*postgres AND r.day > '' */ AND r.at_us >= k.start_us AND r.at_us < k.end_us
  AND (CAST(:model AS TEXT) IS NULL OR r.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR r.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR r.plan = :plan)
  AND (CAST(:session_id AS TEXT) IS NULL OR r.session_id = :session_id)
  AND (CAST(:period_start_us AS BIGINT) IS NULL OR r.period_start_us = :period_start_us)
GROUP BY 1, 2, 3;

-- name: tags_of_user
-- What a user's events add, by day and metadata, from a first day on.
SELECT r.day, {metadata} AS metadata{sums}
FROM event_figures AS r
WHERE r.product_id = :product_id AND r.user_id = :user_id AND r.day >= :first
GROUP BY 1, 2;

-- name: users_of_session
-- A session id may have been sent for several users.
SELECT user_id, started_us, used_us FROM sessions /*sqlite INDEXED BY sessions_by_id */
WHERE product_id = :product_id AND session_id = :session_id AND user_id >= :first_user AND user_id <= :last_user
LIMIT :users_max;

-- name: groups_of_users
SELECT {first} AS first_key, {second} AS second_key, {metadata} AS metadata{sums}
FROM rows(user_id TEXT, start_us BIGINT, end_us BIGINT) AS k
CROSS JOIN event_figures AS r
WHERE r.product_id = :product_id AND r.user_id = k.user_id AND r.at_us >= k.start_us AND r.at_us < k.end_us
  AND (CAST(:model AS TEXT) IS NULL OR r.model = :model)
  AND (CAST(:provider AS TEXT) IS NULL OR r.provider = :provider)
  AND (CAST(:plan AS TEXT) IS NULL OR r.plan = :plan)
  AND (CAST(:session_id AS TEXT) IS NULL OR r.session_id = :session_id)
  AND (CAST(:period_start_us AS BIGINT) IS NULL OR r.period_start_us = :period_start_us)
GROUP BY 1, 2, 3;

-- name: begin_of_latest_sessions^
-- When the first of the sessions began that a user has used last, so that their events are found without reading those
-- before; NULL where the latest events are of fewer sessions, or where a session has no row. At the time of the oldest
-- of these events there may be more, of other sessions: it does not count.
WITH latest AS (
    SELECT e.session_id, e.at_us FROM events AS e
    WHERE e.product_id = :product_id AND e.user_id = :user_id AND e.at_us >= :start_us AND e.at_us < :end_us
    ORDER BY e.at_us DESC
    LIMIT :events_max
),
used AS (
    SELECT latest.session_id, MAX(latest.at_us) AS last_us FROM latest
    WHERE latest.at_us > (SELECT MIN(at_us) FROM latest)
    GROUP BY latest.session_id
    ORDER BY last_us DESC, latest.session_id
    LIMIT :sessions_max
)
SELECT CASE WHEN COUNT(s.started_us) = :sessions_max THEN MIN(s.started_us) END AS begin_us
FROM used
LEFT JOIN sessions AS s
    ON s.product_id = :product_id AND s.user_id = :user_id AND s.session_id = used.session_id;

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

-- name: gates_of_days
-- Calls that reached a gate, by up to two keys; see `spend_of_product`.
SELECT p.* FROM (
SELECT
    {first} AS first_key, {second} AS second_key, {rank} AS rank,
    CAST(SUM(r.soft) AS BIGINT) AS soft, CAST(SUM(r.hard) AS BIGINT) AS hard,
    CAST(SUM(r.refused_calls) AS BIGINT) AS refused_calls, CAST(SUM(r.shadow_calls) AS BIGINT) AS shadow_calls,
    CAST(SUM(r.shadow_cost_nano) AS BIGINT) AS shadow_cost_nano
FROM rows(day TEXT) AS k
CROSS JOIN rollup_gate AS r
WHERE r.product_id = :product_id AND r.day = k.day
  AND r.user_id >= :first_user AND r.user_id <= :last_user
  AND (CAST(:gate_reason AS TEXT) IS NULL OR r.gate_reason = :gate_reason)
GROUP BY {group}
) AS p
WHERE (p.rank, p.first_key, p.second_key) > (:after_rank, :after_first, :after_second)
ORDER BY p.rank, p.first_key, p.second_key
LIMIT :rows_max;

-- name: unmetered_calls_of_days
SELECT u.day, u.model, u.operation, CAST(SUM(u.calls) AS BIGINT) AS calls
FROM unmetered_calls AS u
WHERE u.product_id = :product_id AND u.day >= :first AND u.day <= :last
GROUP BY u.day, u.model, u.operation
ORDER BY u.day, u.model, u.operation;

-- name: plan_versions
-- A product has few plans, with few versions.
SELECT name, document, created_us FROM plans WHERE product_id = :product_id ORDER BY name, version;

-- name: customers
-- Users and what they pay follows from; the columns are read by their place (`store/margins.py`). Left out are those
-- who have been on a plan without a price since before :start_us: they have no revenue but payments.
SELECT
    u.user_id, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.created_us, u.erased_us,
    COALESCE(u.assigned_us, 0) AS assigned_us
FROM users AS u
WHERE u.product_id = :product_id AND u.user_id >= :first_user AND u.user_id <= :last_user
  AND (
    COALESCE(u.plan, :default_plan) IN (SELECT k.name FROM rows(name TEXT) AS k)
    OR u.own IS NOT NULL OR u.created_us > :start_us OR u.assigned_us > :start_us OR u.erased_us IS NOT NULL
  );

-- name: some_customers
-- The same of some users.
SELECT
    u.user_id, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.created_us, u.erased_us,
    COALESCE(u.assigned_us, 0) AS assigned_us
FROM rows(user_id TEXT) AS k
CROSS JOIN users AS u
WHERE u.product_id = :product_id AND u.user_id = k.user_id;

-- name: longest_period^
-- The longest billing period that users have or had, in microseconds; NULL where all have calendar months.
SELECT
    (
        SELECT MAX(u.period_end_us - u.period_start_us) FROM users AS u
        WHERE u.product_id = :product_id AND u.user_id >= :first_user AND u.user_id <= :last_user
    ) AS now_us,
    (
        SELECT MAX(a.period_end_us - a.period_start_us) FROM assignments AS a
        WHERE a.product_id = :product_id AND a.user_id >= :first_user AND a.user_id <= :last_user
    ) AS before_us;

-- name: payments
-- Revenue for a span of time that touches another.
SELECT user_id, amount_nano, period_start_us, period_end_us FROM revenue
WHERE product_id = :product_id AND period_end_us > :start_us AND period_start_us < :end_us
  AND user_id >= :first_user AND user_id <= :last_user
ORDER BY user_id;

-- name: revenue_state
-- The state of everything that revenue follows from, but for the product: a change is another state. Rows are counted,
-- and their times summed up by the last 30 bits, since a sum of whole ones would overflow; two changes at once may leave
-- all of it as it was by one chance in 2^30. An assignment changes its user; a payment never changes.
SELECT u.*, r.*, p.*
FROM (
    SELECT
        COUNT(*) AS users, SUM(created_us & 1073741823) AS created, SUM(assigned_us & 1073741823) AS assigned,
        SUM(changed_us & 1073741823) AS changed, SUM(erased_us & 1073741823) AS erased
    FROM users
    WHERE product_id = :product_id AND user_id >= :first_user AND user_id <= :last_user
) AS u
CROSS JOIN (
    SELECT COUNT(*) AS payments FROM revenue
    WHERE product_id = :product_id AND user_id >= :first_user AND user_id <= :last_user
) AS r
CROSS JOIN (
    SELECT COUNT(*) AS versions, SUM(created_us & 1073741823) AS configured FROM plans WHERE product_id = :product_id
) AS p;

-- name: totals_of_plan^
-- All usage that was booked under a plan.
SELECT
    COUNT(DISTINCT p.user_id) AS users, COUNT(*) AS user_periods, CAST(COALESCE(SUM(p.calls), 0) AS BIGINT) AS calls,
    CAST(COALESCE(SUM(p.cost_nano), 0) AS BIGINT) AS cost_nano
FROM (
SELECT r.user_id, r.period_start_us, SUM(r.calls) AS calls, SUM(r.cost_nano) AS cost_nano
FROM rows(span TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.plan = :plan AND r.user_id <> :besides
GROUP BY r.user_id, r.period_start_us
) AS p;

-- name: usage_past_lines
-- The usage of a plan's users in windows in which it passes a line, by billing period and model; a {window} is a billing
-- period or a day, all of it in the spans. A row is a span, or the lines of a model; its other columns are '' and NULL,
-- which are equal to nothing. The rollup is read three times, which is faster than keeping its sums by model. IS TRUE keeps
-- PostgreSQL from making a join of a search in a set, which it then reads again for each row.
WITH found AS MATERIALIZED (
SELECT w.user_id, w.place
FROM (
SELECT
    r.user_id, {window} AS place, SUM(r.calls) AS calls, SUM(r.input_tokens + r.output_tokens) AS tokens,
    SUM(r.cost_nano) AS cost_nano
FROM rows(span TEXT, model TEXT, calls_line BIGINT, tokens_line BIGINT, cost_line BIGINT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.plan = :plan AND r.user_id <> :besides
GROUP BY r.user_id, {window}
) AS w
WHERE w.calls > :calls_line OR w.tokens > :tokens_line OR w.cost_nano > :cost_line
UNION
SELECT m.user_id, m.place
FROM rows(span TEXT, model TEXT, calls_line BIGINT, tokens_line BIGINT, cost_line BIGINT) AS l
CROSS JOIN (
SELECT
    r.user_id, {window} AS place, r.model, SUM(r.calls) AS calls, SUM(r.input_tokens + r.output_tokens) AS tokens,
    SUM(r.cost_nano) AS cost_nano
FROM rows(span TEXT, model TEXT, calls_line BIGINT, tokens_line BIGINT, cost_line BIGINT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.plan = :plan AND r.user_id <> :besides
  AND (r.model IN (
    SELECT n.model FROM rows(span TEXT, model TEXT, calls_line BIGINT, tokens_line BIGINT, cost_line BIGINT) AS n
  )) IS TRUE
GROUP BY r.user_id, {window}, r.model
) AS m
WHERE m.model = l.model AND (m.calls > l.calls_line OR m.tokens > l.tokens_line OR m.cost_nano > l.cost_line)
)
SELECT
    r.user_id, r.period_start_us, r.model, CAST(SUM(r.calls) AS BIGINT) AS calls,
    CAST(SUM(r.input_tokens + r.output_tokens) AS BIGINT) AS tokens, CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano
FROM rows(span TEXT, model TEXT, calls_line BIGINT, tokens_line BIGINT, cost_line BIGINT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.plan = :plan AND r.user_id <> :besides
  AND ((r.user_id, {window}) IN (SELECT f.user_id, f.place FROM found AS f)) IS TRUE
GROUP BY r.user_id, r.period_start_us, r.model
ORDER BY r.user_id, r.period_start_us;

-- name: days_of_plan_users
-- The usage of some users of a plan by billing period, model and day, each looked up in every day.
SELECT
    r.user_id, r.period_start_us, r.model, CAST(SUM(r.calls) AS BIGINT) AS calls,
    CAST(SUM(r.input_tokens + r.output_tokens) AS BIGINT) AS tokens, CAST(SUM(r.cost_nano) AS BIGINT) AS cost_nano,
    r.span AS day
FROM rows(span TEXT, user_id TEXT) AS k
CROSS JOIN rollup_user AS r
WHERE r.product_id = :product_id AND r.span = k.span AND r.user_id = k.user_id AND r.plan = :plan
GROUP BY r.user_id, r.span, r.period_start_us, r.model
ORDER BY r.user_id, r.span;
