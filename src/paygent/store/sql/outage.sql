-- The outbox of a host: what its processes keep while the backend is away. Only a local store has rows here.

-- name: outage^
-- The number of the outage that is running, or that comes next; and the last row of the outbox.
SELECT number, last_row, last_event FROM outages WHERE product_id = :product_id;

-- name: start_outage!
INSERT INTO outages (product_id, number) VALUES (:product_id, 1)
ON CONFLICT (product_id) DO NOTHING;

-- name: end_outage!
UPDATE outages SET number = number + 1 WHERE product_id = :product_id AND number = :number;

-- name: count_rows!
UPDATE outages SET last_row = :last_row, last_event = :last_event WHERE product_id = :product_id;

-- name: first_unsent^
SELECT kind, events FROM outbox WHERE product_id = :product_id AND row_number > 0 ORDER BY row_number LIMIT 1;

-- name: keep_unsent!
INSERT INTO outbox (product_id, row_number, kind, events, document)
SELECT :product_id, k.row_number, k.kind, k.events, k.document
FROM rows(row_number BIGINT, kind TEXT, events BIGINT, document TEXT) AS k
WHERE true;

-- name: unsent
SELECT row_number, kind, document FROM outbox
WHERE product_id = :product_id AND row_number > 0
ORDER BY row_number
LIMIT :records_max;

-- name: drop_sent!
DELETE FROM outbox
WHERE product_id = :product_id AND row_number > 0 AND row_number <= :last_row;

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
