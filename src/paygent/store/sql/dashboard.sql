-- The dashboard: logins, saved views, and lists for its pages.

-- Logins and saved views.

-- name: add_login!
INSERT INTO logins (product_id, login_hash, key_id, created_us, expires_us)
VALUES (:product_id, :login_hash, :key_id, :now_us, :expires_us);

-- name: forget_logins!
DELETE FROM logins WHERE product_id = :product_id AND expires_us <= :now_us;

-- name: login_by_hash^
-- A login is as good as its key.
SELECT l.product_id, l.login_hash, l.key_id, l.created_us, l.expires_us
FROM logins AS l
JOIN api_keys AS a ON a.product_id = l.product_id AND a.key_id = l.key_id
WHERE l.product_id = :product_id AND l.login_hash = :login_hash AND l.expires_us > :now_us
  AND a.scope = 'admin' AND a.revoked_us IS NULL;

-- name: end_login!
DELETE FROM logins WHERE product_id = :product_id AND login_hash = :login_hash;

-- name: views_of_product
SELECT view_id, name, page, query, created_us FROM saved_views
WHERE product_id = :product_id
ORDER BY name, page;

-- name: put_view!
INSERT INTO saved_views (product_id, view_id, name, page, query, created_us)
VALUES (:product_id, :view_id, :name, :page, :query, :created_us)
ON CONFLICT (product_id, view_id) DO UPDATE SET query = excluded.query;

-- name: delete_view!
DELETE FROM saved_views WHERE product_id = :product_id AND view_id = :view_id;

-- Lists. A filter that may be absent is a CASE, of which PostgreSQL expects half of the rows. Of `:a = '' OR a = :a` it
-- would expect one in a hundred: with a few of these it reads all rows and sorts them, in place of a page of the index.

-- name: latest_gate_events
-- Newest first; an empty text is any status or reason.
SELECT
    gate_event_id, user_id, session_id, at_us, status, gate_reason, model, blocked, usage_ppm, current_value,
    limit_value, message, metadata, calls
FROM gate_events
WHERE product_id = :product_id
  AND (at_us, gate_event_id, user_id) < (:before_us, :before_id, :before_user) AND at_us >= :since_us
  AND CASE WHEN CAST(:status AS TEXT) = '' THEN true ELSE status = :status END
  AND CASE WHEN CAST(:gate_reason AS TEXT) = '' THEN true ELSE gate_reason = :gate_reason END
  AND blocked >= :blocked_min
ORDER BY at_us DESC, gate_event_id DESC, user_id DESC
LIMIT :events_max;

-- name: calls_of_user
-- Newest first. All columns: they are read by name (`rows.event_of`).
SELECT * FROM events
WHERE product_id = :product_id AND user_id = :user_id
  AND (at_us, event_id) < (:before_us, :before_id) AND at_us >= :start_us
  AND CASE WHEN CAST(:model AS TEXT) IS NULL THEN true ELSE model_key = :model END
  AND CASE WHEN CAST(:provider AS TEXT) IS NULL THEN true ELSE provider = :provider END
  AND CASE WHEN CAST(:plan AS TEXT) IS NULL THEN true ELSE plan = :plan END
  AND CASE WHEN CAST(:session_id AS TEXT) IS NULL THEN true ELSE session_id = :session_id END
  AND CASE WHEN CAST(:quality AS TEXT) IS NULL THEN true ELSE quality = :quality END
ORDER BY at_us DESC, event_id DESC
LIMIT :calls_max;

-- name: versions_of_plan
SELECT version, document, created_us, deleted_us, plan_id FROM plans
WHERE product_id = :product_id AND name = :name
ORDER BY version DESC;

-- Health.

-- name: put_audit!
INSERT INTO audits (product_id, at_us, differences) VALUES (:product_id, :at_us, :differences)
ON CONFLICT (product_id) DO UPDATE SET at_us = excluded.at_us, differences = excluded.differences;

-- name: last_audit^
SELECT at_us, differences FROM audits WHERE product_id = :product_id;

-- name: deliveries^
-- `seen_us > 0` is true of every row; with it, both engines read one end of the index.
SELECT COUNT(*) AS processes, COALESCE((
    SELECT MAX(n.seen_us) FROM holders AS n WHERE n.product_id = :product_id AND n.seen_us > 0
), 0) AS last_us
FROM holders AS h WHERE h.product_id = :product_id AND h.seen_us >= :since_us;

-- name: users_by_id
SELECT
    u.user_id, u.paygent_user_id, u.name, u.plan, u.own, u.period_start_us, u.period_end_us, u.renews, u.sdk_enabled,
    u.paused, u.paused_reason, u.created_us, COALESCE((
        SELECT e.at_us FROM events AS e
        WHERE e.product_id = :product_id AND e.user_id = u.user_id
        ORDER BY e.at_us DESC LIMIT 1
    ), 0) AS last_us
FROM rows(user_id TEXT) AS k
CROSS JOIN users AS u
WHERE u.product_id = :product_id AND u.user_id = k.user_id
ORDER BY u.user_id;
