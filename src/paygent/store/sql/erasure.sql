-- Erasing a user: every row under the user's id is moved to a pseudonym. Each statement reads the user's rows alone.
-- Passed rows are followed by WHERE true, as in an insertion, so that SQLite finds one row after another by its key. They
-- are in order, and PostgreSQL is given their bounds: without statistics it may read all between them.

-- name: erasure_secret^
-- The key of the hashes, if the product has erased users at all: one look-up for most batches.
SELECT s.secret FROM server_secrets AS s
WHERE s.name = 'erasure' AND EXISTS (SELECT 1 FROM erased_users AS e WHERE e.product_id = :product_id);

-- name: pseudonyms_by_hash
SELECT e.id_hash, e.pseudonym
FROM rows(id_hash TEXT) AS k
CROSS JOIN erased_users AS e
WHERE e.product_id = :product_id AND e.id_hash = k.id_hash AND e.until_us > :now_us;

-- name: put_pseudonym!
INSERT INTO erased_users (product_id, id_hash, pseudonym, until_us)
VALUES (:product_id, :id_hash, :pseudonym, :until_us)
ON CONFLICT (product_id, id_hash) DO UPDATE SET pseudonym = excluded.pseudonym, until_us = excluded.until_us;

-- name: replace_pseudonym!
-- For a pseudonym that is erased in its turn; a product has few that have not expired.
UPDATE erased_users SET pseudonym = :pseudonym WHERE product_id = :product_id AND pseudonym = :user_id;

-- name: drop_pseudonym!
DELETE FROM erased_users WHERE product_id = :product_id AND id_hash = :id_hash;

-- name: drop_expired_pseudonyms!
DELETE FROM erased_users WHERE product_id = :product_id AND until_us <= :now_us;

-- name: events_to_erase
-- After a key, because PostgreSQL would step over what was renamed before.
SELECT at_us, event_id, session_id FROM events
WHERE product_id = :product_id AND user_id = :user_id AND (at_us, event_id) > (:at_us, :event_id)
ORDER BY at_us, event_id
LIMIT :rows_max;

-- name: erase_events!
UPDATE events SET user_id = :pseudonym, session_id = k.session_id, description = NULL, metadata = NULL
FROM rows(at_us BIGINT, event_id TEXT, session_id TEXT) AS k
WHERE true AND events.product_id = :product_id AND events.user_id = :user_id AND events.at_us = k.at_us
  AND events.event_id = k.event_id AND events.at_us >= :first AND events.at_us <= :last;

-- name: gate_events_to_erase
SELECT gate_event_id, session_id FROM gate_events
WHERE product_id = :product_id AND user_id = :user_id AND gate_event_id > :gate_event_id
ORDER BY gate_event_id
LIMIT :rows_max;

-- name: erase_gate_events!
-- The message may name the user.
UPDATE gate_events SET user_id = :pseudonym, session_id = k.session_id, message = '', metadata = NULL
FROM rows(gate_event_id TEXT, session_id TEXT) AS k
WHERE true AND gate_events.product_id = :product_id AND gate_events.user_id = :user_id
  AND gate_events.gate_event_id = k.gate_event_id AND gate_events.gate_event_id >= :first
  AND gate_events.gate_event_id <= :last;

-- name: sessions_to_erase
SELECT session_id FROM sessions
WHERE product_id = :product_id AND user_id = :user_id AND session_id > :session_id
ORDER BY session_id
LIMIT :rows_max;

-- name: erase_sessions!
UPDATE sessions SET user_id = :pseudonym, session_id = k.new_session_id
FROM rows(session_id TEXT, new_session_id TEXT) AS k
WHERE true AND sessions.product_id = :product_id AND sessions.user_id = :user_id AND sessions.session_id = k.session_id
  AND sessions.session_id >= :first AND sessions.session_id <= :last;

-- name: accounts_to_erase
SELECT DISTINCT session_id FROM accounts
WHERE product_id = :product_id AND user_id = :user_id AND session_id > :session_id
ORDER BY session_id
LIMIT :rows_max;

-- name: erase_accounts!
UPDATE accounts SET user_id = :pseudonym, session_id = k.new_session_id
FROM rows(session_id TEXT, new_session_id TEXT) AS k
WHERE true AND accounts.product_id = :product_id AND accounts.user_id = :user_id AND accounts.session_id = k.session_id
  AND accounts.session_id >= :first AND accounts.session_id <= :last;

-- name: erase_event_ids!
-- Of the user's events, whoever sent them.
UPDATE event_ids SET
    user_id = CASE WHEN event_ids.user_id = :user_id THEN :pseudonym ELSE event_ids.user_id END,
    booked_user_id = CASE
        WHEN event_ids.booked_user_id = :user_id THEN :pseudonym
        ELSE event_ids.booked_user_id END
/*sqlite FROM rows(event_id TEXT) AS k
WHERE true AND event_ids.product_id = :product_id AND event_ids.event_id = k.event_id */
/*postgres WHERE product_id = :product_id AND event_id = ANY (ARRAY(SELECT k.event_id FROM rows(event_id TEXT) AS k)) */
  AND (event_ids.user_id = :user_id OR event_ids.booked_user_id = :user_id);

-- name: texts_to_erase
-- Corrections that the user sent for another user's event: the event is the other's, its texts are the sender's.
SELECT event_id, booked_user_id, at_us FROM event_ids /*sqlite INDEXED BY event_ids_booked_elsewhere */
WHERE product_id = :product_id AND user_id = :user_id AND booked_user_id IS NOT NULL AND event_id > :event_id
ORDER BY event_id
LIMIT :rows_max;

-- name: erase_texts!
UPDATE events SET description = NULL, metadata = NULL
FROM rows(user_id TEXT, at_us BIGINT, event_id TEXT) AS k
WHERE true AND events.product_id = :product_id AND events.user_id = k.user_id AND events.at_us = k.at_us
  AND events.event_id = k.event_id AND events.user_id >= :first AND events.user_id <= :last;

-- name: erase_ids_booked_elsewhere!
-- Of corrections that the user sent for another user's event.
UPDATE event_ids /*sqlite INDEXED BY event_ids_booked_elsewhere */ SET user_id = :pseudonym
WHERE product_id = :product_id AND user_id = :user_id AND booked_user_id IS NOT NULL;

-- name: erase_corrections!
UPDATE corrections SET user_id = :pseudonym WHERE product_id = :product_id AND user_id = :user_id;

-- name: erase_assignments!
UPDATE assignments SET user_id = :pseudonym WHERE product_id = :product_id AND user_id = :user_id;

-- name: erase_overrides!
UPDATE overrides SET user_id = :pseudonym, reason = NULL WHERE product_id = :product_id AND user_id = :user_id;

-- name: erase_revenue!
UPDATE revenue SET user_id = :pseudonym, source = NULL WHERE product_id = :product_id AND user_id = :user_id;

-- name: erase_rollup_users!
UPDATE rollup_user SET user_id = :pseudonym
FROM rows(span TEXT) AS k
WHERE true AND rollup_user.product_id = :product_id AND rollup_user.span = k.span AND rollup_user.user_id = :user_id;

-- name: erase_rollup_gates!
UPDATE rollup_gate SET user_id = :pseudonym
FROM rows(day TEXT) AS k
WHERE true AND rollup_gate.product_id = :product_id AND rollup_gate.day = k.day AND rollup_gate.user_id = :user_id;

-- name: erase_user!
UPDATE users SET user_id = :pseudonym, name = NULL, paused_reason = NULL, erased_us = :now_us
WHERE product_id = :product_id AND user_id = :user_id;

-- name: erase_answers!
-- Remembered answers that contain the id; they are kept for a day and few. The claim of a request that runs has none.
DELETE FROM idempotency_keys
WHERE product_id = :product_id
  AND (
    /*sqlite instr(answer, :quoted) > 0 OR instr(answer, :escaped) > 0 */
    /*postgres strpos(answer, :quoted) > 0 OR strpos(answer, :escaped) > 0 */
  );
