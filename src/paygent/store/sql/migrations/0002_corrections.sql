-- Corrections, and the price lists that events were booked with.

-- Id of the event that this one corrects. The original may be stored later, or have been dropped with its
-- month, so nothing refers to it but this text.
ALTER TABLE events ADD COLUMN corrects TEXT;

CREATE INDEX events_by_original ON events (product_id, corrects) WHERE corrects IS NOT NULL;

-- Written once and never changed: a price id names one list for ever.
CREATE TABLE price_lists (
    product_id TEXT NOT NULL,
    price_id TEXT NOT NULL,
    document TEXT NOT NULL,
    first_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, price_id)
);
