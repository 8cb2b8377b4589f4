-- The outbox of a host: what its processes keep while the backend is away. Only a local store has rows here.

-- name: outage^
-- The number of the outage that is running, or that comes next; it is over once the outbox is empty.
SELECT number FROM outages WHERE product_id = :product_id;

-- name: start_outage!
INSERT INTO outages (product_id, number) VALUES (:product_id, 1)
ON CONFLICT (product_id) DO NOTHING;

-- name: end_outage!
UPDATE outages SET number = number + 1 WHERE product_id = :product_id AND number = :number;

-- name: last_unsent^
SELECT number, events FROM outbox WHERE product_id = :product_id AND number > 0 ORDER BY number DESC LIMIT 1;

-- name: first_unsent^
SELECT kind, events FROM outbox WHERE product_id = :product_id AND number > 0 ORDER BY number LIMIT 1;

-- name: keep_unsent!
INSERT INTO outbox (product_id, number, kind, events, document)
SELECT :product_id, k.number, k.kind, k.events, k.document
FROM rows(number BIGINT, kind TEXT, events BIGINT, document TEXT) AS k
WHERE true;

-- name: unsent
SELECT number, kind, document FROM outbox
WHERE product_id = :product_id AND number > :after_number
ORDER BY number
LIMIT :records_max;

-- name: drop_sent!
DELETE FROM outbox
WHERE product_id = :product_id AND number > 0 AND number <= :last_number;

-- name: keep_answers!
-- The newest answer about a user stays.
INSERT INTO kept_answers (product_id, user_id, as_of_us, document)
SELECT :product_id, k.user_id, k.as_of_us, k.document
FROM rows(user_id TEXT, as_of_us BIGINT, document TEXT) AS k
WHERE true
ON CONFLICT (product_id, user_id) DO UPDATE SET as_of_us = excluded.as_of_us, document = excluded.document
WHERE excluded.as_of_us > kept_answers.as_of_us;

-- name: kept_answers_of
SELECT a.user_id, a.document
FROM rows(user_id TEXT) AS k
CROSS JOIN kept_answers AS a
WHERE a.product_id = :product_id AND a.user_id = k.user_id;
