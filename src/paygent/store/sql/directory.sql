-- The directory of a server: products, keys, plans, users, overrides, revenue, gate events, remembered requests.

-- Products and keys.

-- name: has_products^
-- An application in local mode makes users without a product's row.
SELECT CASE WHEN EXISTS (SELECT 1 FROM products) OR EXISTS (SELECT 1 FROM users) THEN 1 ELSE 0 END AS found;

-- name: lock_slugs^
-- Of two products made at once, the second waits and sees the first one's slug. Any number, of Paygent alone; SQLite has
-- one writer.
SELECT /*sqlite 1 */ /*postgres pg_advisory_xact_lock(7161033) */ AS locked;

-- name: slugs_in_use
SELECT slug FROM products;

-- name: add_product!
INSERT INTO products (product_id, name, slug, contact_name, contact_email, created_us)
VALUES (:product_id, :name, :slug, :contact_name, :contact_email, :now_us)
ON CONFLICT (product_id) DO NOTHING;

-- name: find_product^
SELECT product_id, name, slug, contact_name, contact_email, timezone, default_plan, created_us
FROM products WHERE product_id = :product_id;

-- name: first_user^
SELECT created_us FROM users WHERE product_id = :product_id ORDER BY user_id LIMIT 1;

-- name: all_products
SELECT product_id, name, slug, contact_name, contact_email, timezone, default_plan, created_us
FROM products
ORDER BY created_us, product_id;

-- name: products_with_users
-- Hops from product to product in the key of users, without reading the users.
WITH RECURSIVE found (product_id) AS (
    SELECT MIN(u.product_id) FROM users AS u
    UNION ALL
    SELECT (SELECT MIN(u.product_id) FROM users AS u WHERE u.product_id > f.product_id)
    FROM found AS f WHERE f.product_id IS NOT NULL
)
SELECT f.product_id FROM found AS f WHERE f.product_id IS NOT NULL ORDER BY f.product_id;

-- name: add_key!
INSERT INTO api_keys (product_id, key_id, key_hash, scope, name, hint, created_us)
VALUES (:product_id, :key_id, :key_hash, :scope, :name, :hint, :now_us);

-- name: key_by_hash^
SELECT product_id, key_id, scope, name, hint, created_us, revoked_us
FROM api_keys WHERE product_id = :product_id AND key_hash = :key_hash;

-- name: keys_of_product
SELECT product_id, key_id, scope, name, hint, created_us, revoked_us
FROM api_keys WHERE product_id = :product_id
ORDER BY created_us, key_id;

-- name: revoke_key!
UPDATE api_keys SET revoked_us = :now_us
WHERE product_id = :product_id AND key_id = :key_id AND revoked_us IS NULL;

-- name: server_secret^
SELECT secret FROM server_secrets WHERE name = :name;

-- name: add_server_secret!
INSERT INTO server_secrets (name, secret, created_us) VALUES (:name, :secret, :now_us)
ON CONFLICT (name) DO NOTHING;

-- Plans.

-- name: newest_plan_us^
SELECT COALESCE(MAX(created_us), 0) AS created_us FROM plans WHERE product_id = :product_id;

-- name: plan_name^
SELECT name FROM plans WHERE product_id = :product_id AND plan_id = :plan_id AND deleted_us IS NULL LIMIT 1;

-- name: deleted_plan^
-- The newest version of a plan, if it is deleted.
SELECT p.version FROM plans AS p
WHERE p.product_id = :product_id AND p.name = :name AND p.deleted_us IS NOT NULL
  AND p.version = (SELECT MAX(q.version) FROM plans AS q WHERE q.product_id = :product_id AND q.name = :name);

-- name: delete_plan!
UPDATE plans SET deleted_us = :now_us
WHERE product_id = :product_id AND plan_id = :plan_id AND deleted_us IS NULL;

-- name: count_users_of_plan^
SELECT COUNT(*) AS users FROM users WHERE product_id = :product_id AND plan = :plan;

-- name: count_users_without_plan^
SELECT COUNT(*) AS users FROM users WHERE product_id = :product_id AND plan IS NULL;

-- Users.

-- name: add_user!
INSERT INTO users (product_id, user_id, paygent_user_id, name, created_us)
VALUES (:product_id, :user_id, :paygent_user_id, :name, :now_us)
ON CONFLICT (product_id, user_id) DO NOTHING;

-- name: find_user^
SELECT
    u.user_id, u.paygent_user_id, u.name, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled,
    u.paused, u.paused_reason, u.created_us, COALESCE((
        SELECT e.at_us FROM events AS e
        WHERE e.product_id = :product_id AND e.user_id = u.user_id
        ORDER BY e.at_us DESC LIMIT 1
    ), 0) AS last_us
FROM users AS u WHERE u.product_id = :product_id AND u.user_id = :user_id;

-- name: lock_known_user^
-- Locks the row of a user without creating it. On SQLite the transaction has locked everything.
SELECT user_id, paygent_user_id, assigned_us FROM users
WHERE product_id = :product_id AND user_id = :user_id /*postgres FOR UPDATE */;

-- name: directory_page
SELECT
    u.user_id, u.paygent_user_id, u.name, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled,
    u.paused, u.paused_reason, u.created_us, COALESCE((
        SELECT e.at_us FROM events AS e
        WHERE e.product_id = :product_id AND e.user_id = u.user_id
        ORDER BY e.at_us DESC LIMIT 1
    ), 0) AS last_us
FROM users AS u
WHERE u.product_id = :product_id AND u.user_id >= :first AND u.user_id < :before
  AND u.user_id <> :after
ORDER BY u.user_id
LIMIT :users_max;

-- name: directory_page_of_plan
SELECT
    u.user_id, u.paygent_user_id, u.name, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled,
    u.paused, u.paused_reason, u.created_us, COALESCE((
        SELECT e.at_us FROM events AS e
        WHERE e.product_id = :product_id AND e.user_id = u.user_id
        ORDER BY e.at_us DESC LIMIT 1
    ), 0) AS last_us
FROM users AS u /*sqlite INDEXED BY users_by_plan */
WHERE u.product_id = :product_id AND u.plan = :plan AND u.user_id >= :first AND u.user_id < :before
  AND u.user_id <> :after
ORDER BY u.user_id
LIMIT :users_max;

-- name: directory_page_without_plan
SELECT
    u.user_id, u.paygent_user_id, u.name, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled,
    u.paused, u.paused_reason, u.created_us, COALESCE((
        SELECT e.at_us FROM events AS e
        WHERE e.product_id = :product_id AND e.user_id = u.user_id
        ORDER BY e.at_us DESC LIMIT 1
    ), 0) AS last_us
FROM users AS u /*sqlite INDEXED BY users_by_plan */
WHERE u.product_id = :product_id AND u.plan IS NULL AND u.user_id >= :first AND u.user_id < :before
  AND u.user_id <> :after
ORDER BY u.user_id
LIMIT :users_max;

-- name: change_user!
-- A field that is not given stays. The reason of a pause ends with it.
UPDATE users SET
    name = CASE WHEN :gives_name = 1 THEN CAST(:name AS TEXT) ELSE name END,
    paused = CASE WHEN :gives_paused = 1 THEN :paused ELSE paused END,
    paused_reason = CASE
        WHEN :gives_paused_reason = 1 THEN CAST(:paused_reason AS TEXT)
        WHEN :gives_paused = 1 AND :paused = 0 THEN NULL
        ELSE paused_reason END,
    sdk_enabled = CASE WHEN :gives_sdk_enabled = 1 THEN :sdk_enabled ELSE sdk_enabled END
WHERE product_id = :product_id AND user_id = :user_id;

-- Overrides.

-- name: add_override!
INSERT INTO overrides (
    product_id, user_id, override_id, metric, scope, model, window_rule, cap, added, until_us, reason, created_us
)
VALUES (
    :product_id, :user_id, :override_id, :metric, :scope, :model, :window_rule, :cap, :added, :until_us, :reason,
    :now_us
);

-- name: overrides_of_user
SELECT
    override_id, user_id, metric, scope, model, window_rule, cap, added, until_us, reason, created_us
FROM overrides
WHERE product_id = :product_id AND user_id = :user_id AND until_us > :at_us
ORDER BY created_us, override_id;

-- name: delete_override!
DELETE FROM overrides WHERE product_id = :product_id AND user_id = :user_id AND override_id = :override_id;

-- Revenue.

-- name: add_revenue
-- Returns the entries that are new.
INSERT INTO revenue (
    product_id, user_id, revenue_id, amount_nano, kind, period_start_us, period_end_us, source, created_us
)
SELECT
    :product_id, k.user_id, k.revenue_id, k.amount_nano, k.kind, k.period_start_us, k.period_end_us, k.source, :now_us
FROM rows(
    user_id TEXT, revenue_id TEXT, amount_nano BIGINT, kind TEXT, period_start_us BIGINT, period_end_us BIGINT,
    source TEXT
) AS k
WHERE true
ON CONFLICT (product_id, user_id, revenue_id) DO NOTHING
RETURNING user_id, revenue_id;

-- name: revenue_of_product
SELECT revenue_id, user_id, amount_nano, kind, period_start_us, period_end_us, source
FROM revenue
WHERE product_id = :product_id AND (period_start_us, user_id, revenue_id) > (:start_us, :user_id, :revenue_id)
  AND period_start_us < :end_us
ORDER BY period_start_us, user_id, revenue_id
LIMIT :entries_max;

-- name: revenue_of_user
SELECT revenue_id, user_id, amount_nano, kind, period_start_us, period_end_us, source
FROM revenue
WHERE product_id = :product_id AND user_id = :user_id
  AND (period_start_us, revenue_id) > (:start_us, :revenue_id) AND period_start_us < :end_us
ORDER BY period_start_us, revenue_id
LIMIT :entries_max;

-- Gate events.

-- name: gate_events_of_user
-- Newest first; an empty text is any status or reason.
SELECT
    gate_event_id, user_id, session_id, at_us, status, gate_reason, model, blocked, usage_ppm, current_value,
    limit_value, message, metadata, calls
FROM gate_events
WHERE product_id = :product_id AND user_id = :user_id
  AND (at_us, gate_event_id) < (:before_us, :before_id) AND at_us >= :since_us
  AND (CAST(:status AS TEXT) = '' OR status = :status)
  AND (CAST(:gate_reason AS TEXT) = '' OR gate_reason = :gate_reason)
  AND blocked >= :blocked_min
ORDER BY at_us DESC, gate_event_id DESC
LIMIT :events_max;

-- Requests with an Idempotency-Key, and their answers.

-- name: claim_key!
-- A key that is free or has expired; or that the same request has claimed, and not ended in time. PostgreSQL locks the
-- row of a conflict before it reads the condition, also where the key is not claimed then.
INSERT INTO idempotency_keys (product_id, idempotency_key, request_hash, claim_id, created_us)
VALUES (:product_id, :idempotency_key, :request_hash, :claim_id, :now_us)
ON CONFLICT (product_id, idempotency_key) DO UPDATE SET
    request_hash = excluded.request_hash, claim_id = excluded.claim_id, status = NULL, answer = NULL,
    created_us = excluded.created_us
WHERE idempotency_keys.created_us <= :after_us
    OR (idempotency_keys.status IS NULL AND idempotency_keys.created_us <= :lapsed_us
        AND idempotency_keys.request_hash = excluded.request_hash);

-- name: remembered_request^
SELECT request_hash, status, answer FROM idempotency_keys
WHERE product_id = :product_id AND idempotency_key = :idempotency_key AND created_us > :after_us;

-- name: remember_answer!
UPDATE idempotency_keys SET status = :status, answer = :answer
WHERE product_id = :product_id AND idempotency_key = :idempotency_key AND claim_id = :claim_id AND status IS NULL;

-- name: release_key!
DELETE FROM idempotency_keys
WHERE product_id = :product_id AND idempotency_key = :idempotency_key AND claim_id = :claim_id AND status IS NULL;

-- name: forget_requests!
-- Drops some of those that have expired, in one order.
DELETE FROM idempotency_keys
WHERE product_id = :product_id AND idempotency_key IN (
    SELECT i.idempotency_key FROM idempotency_keys AS i
    WHERE i.product_id = :product_id AND i.created_us <= :after_us
    ORDER BY i.created_us
    LIMIT 20 /*postgres FOR UPDATE */
);
