-- Work that a provider does after its answer (background responses, batches) is restated when its use is known.

-- 1 on a correction that came with the figures of the whole; an original that is stored later adds nothing.
ALTER TABLE events ADD COLUMN restates INTEGER NOT NULL DEFAULT 0;
