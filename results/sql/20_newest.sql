-- newest: one row a trial, the attempt that counts.
-- The newest FINISHED attempt ('ok' or 'unsupported') where there is one, else the
-- newest of all: a retry that was killed never hides a number that stands, and a
-- refreshed number replaces the old one. Ties in time go to the larger attempt id.
-- stored.newest has the measurements of a trial beside it, in a list.
CREATE VIEW stored.newest AS
SELECT * FROM stored.trials
QUALIFY row_number() OVER (
    PARTITION BY trial
    ORDER BY status IN ('ok', 'unsupported') DESC, started_at DESC NULLS LAST, attempt DESC
) = 1;

CREATE VIEW newest AS SELECT * EXCLUDE (measurements) FROM stored.newest;
